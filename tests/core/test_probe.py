"""The whole probe against the float64 oracle; interruption, out of memory, foreign and damaged folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from architectures import ARCHITECTURES, LANGUAGE_MODELS
from probes import Stop, same

from advisor.core.errors import BadInput, Interrupted, NotFinite, OutOfMemory
from advisor.core.events import Event, Session, Warn
from advisor.core.probe import Probe, load_probe, stratified_folds
from advisor.models.encode import EncodedRow
from advisor.models.prepare import Prepared, Source, prepare
from advisor.probing import spool
from advisor.probing.outputs import make_outputs
from advisor.probing.run import PARTIAL, run_probe
from advisor.probing.settings import ProbeSettings as AllProbeSettings

TinyModel = Callable[..., Path]
ProbeSettings = partial(AllProbeSettings, linearity=False)  # which test_linearity.py looks at
CASES = [(name, kind) for name in ARCHITECTURES for kind in ("binary", "three", "regression")]
CASES += [(name, "causal-lm") for name in LANGUAGE_MODELS]
TOLERANCE = 1e-5


@pytest.fixture
def ready(tiny_model: TinyModel, tmp_path: Path) -> Callable[..., tuple[Prepared, list[dict[str, Any]]]]:
    """``ready("bert", "three")`` -> prepared model and data, and the rows of the file."""

    def make(name: str, kind: str, with_head: bool = False) -> tuple[Prepared, list[dict[str, Any]]]:
        task, labels = oracle.TASKS.get(kind, "classification"), oracle.CLASSES.get(kind, 1)
        path, rows = oracle.write_rows(tmp_path, kind)
        model = tiny_model(name, task, labels, with_head=with_head)
        source = Source(str(model), str(path), eval_data=str(path), task=task, device="cpu")
        return prepare(source, Session()), rows

    return make


Ready = Callable[..., tuple[Prepared, list[dict[str, Any]]]]


def head_parameters(prepared: Prepared) -> list[str]:
    """Names of every parameter of the head, weights and biases."""
    loaded = prepared.loaded
    return [n for n, _ in loaded.model.named_parameters() if loaded.head and n.startswith(loaded.head)]


def oracle_of(prepared: Prepared, rows: list[dict[str, Any]], kind: str, signs: Any = None) -> oracle.Reference:
    loaded = prepared.loaded
    parameters = [f"{t.name}.weight" for t in loaded.targets] + head_parameters(prepared)
    output, loss = oracle.scalars_of(kind, signs)
    texts = oracle.tokenised(loaded.tokenizer, rows, kind)
    return oracle.reference(loaded.model, parameters, texts, output, loss)


def assert_kernel(block: np.ndarray, wanted: torch.Tensor, what: str) -> float:
    """Close to the reference, not zero, symmetric and positive semidefinite."""
    assert float(wanted.norm()) > 0, what
    error = oracle.relative(block, wanted)
    assert error <= TOLERANCE, f"{what}: {error:.2e}"
    assert np.array_equal(block, block.T), what
    eigenvalues = np.linalg.eigvalsh(block.astype(np.float64))
    assert eigenvalues[0] >= -1e-6 * eigenvalues[-1], what
    return error


def assert_probe(probe: Probe, prepared: Prepared, wanted: oracle.Reference, factor: float = 1.0) -> float:
    """Every block of the probe against the reference; returns the worst relative error."""
    errors = []
    for index, target in enumerate(prepared.loaded.targets):
        weight = [f"{target.name}.weight"]
        errors += [
            assert_kernel(probe.weight_blocks[index], wanted.weight_block(weight, factor), f"W of {target.name}"),
            assert_kernel(probe.gradient_blocks[index], wanted.gradient_block(weight), f"G of {target.name}"),
        ]
    together = [f"{target.name}.weight" for target in prepared.loaded.targets]  # blocks of a selection add up
    errors.append(assert_kernel(probe.weight_blocks.sum(0), wanted.weight_block(together, factor), "all modules"))
    head = head_parameters(prepared)
    assert (probe.head is not None) == bool(head)
    if probe.head is not None:
        errors.append(assert_kernel(probe.head.weight, wanted.weight_block(head, factor), "head"))
    np.testing.assert_allclose(probe.losses, wanted.losses, rtol=1e-4, atol=1e-5)
    return max(errors)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_blocks_equal_the_float64_reference(
    ready: Ready, tmp_path: Path, record_property: Callable[[str, object], None], name: str, kind: str
) -> None:
    """Exact methods, micro-batch sizes, weights and biases of the head, rows in the order of the file."""
    prepared, rows = ready(name, kind)
    settings = ProbeSettings(method="materialise", micro_batch=5)
    probe = run_probe(prepared, settings, tmp_path / "first", Session())
    wanted = oracle_of(prepared, rows, kind)
    factor = 1 / 3 if kind == "three" else 1.0
    np.testing.assert_allclose(probe.f0, wanted.outputs, rtol=1e-4, atol=1e-5)
    assert (probe.f0 != 0).all()
    worst = assert_probe(probe, prepared, wanted, factor)
    again, _ = ready(name, kind)
    other = run_probe(again, ProbeSettings(method="token-gram"), tmp_path / "second", Session())
    worst = max(worst, assert_probe(other, again, wanted, factor))
    record_property("worst", worst)
    assert probe.info["head_kind"] == ("none" if kind == "causal-lm" else "probed")
    assert probe.info["head_layers"] == (0 if kind == "causal-lm" else 2 if name == "roberta" else 1)
    assert set(other.info["methods"].values()) == {"token-gram"}
    assert set(probe.info["methods"].values()) == {"materialise"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_fresh_head_is_probed_as_loaded(ready: Ready, tmp_path: Path, name: str) -> None:
    prepared, rows = ready(name, "binary")
    before = {n: p.clone() for n, p in prepared.loaded.model.named_parameters()}
    probe = run_probe(prepared, ProbeSettings(head="fresh", micro_batch=1), tmp_path / "probe", Session())
    assert all(torch.equal(p, before[n]) for n, p in prepared.loaded.model.named_parameters())
    assert_probe(probe, prepared, oracle_of(prepared, rows, "binary"))
    assert probe.info["head_kind"] == "fresh"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_trained_head_is_kept(ready: Ready, tmp_path: Path, name: str) -> None:
    """Its f0 is far from zero, which a head fitted on a random model's features may not be."""
    prepared, rows = ready(name, "regression", with_head=True)
    probe = run_probe(prepared, ProbeSettings(micro_batch=7), tmp_path / "probe", Session())
    assert probe.info["head_kind"] == "trained"
    assert np.abs(probe.f0).mean() > 0.05
    wanted = oracle_of(prepared, rows, "regression")
    np.testing.assert_allclose(probe.f0, wanted.outputs, rtol=1e-4, atol=1e-5)
    assert_probe(probe, prepared, wanted)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_many_classes_are_projected_by_signs(
    ready: Ready, tmp_path: Path, record_property: Callable[[str, object], None], name: str
) -> None:
    """Twelve classes: the blocks of 16 sign projections to 1e-5; their distance from the class sum as it is."""
    prepared, rows = ready(name, "twelve")
    probe = run_probe(prepared, ProbeSettings(seed=1, method="materialise"), tmp_path / "probe", Session())
    signs = make_outputs("classification", 12, 1).directions
    assert_probe(probe, prepared, oracle_of(prepared, rows, "twelve", signs), 1 / (12 * 16))
    assert 0 < probe.info["estimate_error"] < 1
    exact = oracle_of(prepared, rows, "twelve")
    assert probe.f0.shape == probe.y.shape == (len(rows), 12)
    np.testing.assert_allclose(probe.f0, exact.outputs, rtol=1e-4, atol=1e-5)
    errors = [
        oracle.relative(block, exact.weight_block([f"{target.name}.weight"], 1 / 12))
        for block, target in zip(probe.weight_blocks, probe.targets, strict=True)
    ]
    record_property("projection_error", float(np.median(errors)))
    assert 0.02 < np.median(errors) < 0.5  # √(2/16) ≈ 0.35 of a block that a single class direction makes


def test_the_heads_input_is_found_when_a_projection_is_void(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Centred logits sum to zero, so equal signs project to nothing: no gradient shows which token is scored."""

    def void(task: str, classes: int, seed: int) -> Any:
        outputs = make_outputs(task, classes, seed)
        assert outputs.directions is not None
        outputs.directions[:, 0] = 1.0
        return outputs

    usual = run_probe(ready("gpt2", "twelve")[0], ProbeSettings(), tmp_path / "usual", Session())
    monkeypatch.setattr("advisor.probing.run.make_outputs", void)
    other = run_probe(ready("gpt2", "twelve")[0], ProbeSettings(), tmp_path / "void", Session())
    assert usual.head is not None
    assert other.head is not None
    assert other.head.fresh_gradient_norm == pytest.approx(usual.head.fresh_gradient_norm, rel=1e-6)


@pytest.mark.parametrize("name", ["roberta", "llama"])
def test_the_fresh_gradient_is_of_the_probe_sample(ready: Ready, tmp_path: Path, name: str) -> None:
    """Autograd's, with the last layer set to zero: cross-entropy summed over the rows."""
    prepared, rows = ready(name, "three")
    probe = run_probe(prepared, ProbeSettings(), tmp_path, Session())
    last = [n for n in head_parameters(prepared) if "out_proj" in n or "score" in n]
    with torch.no_grad():
        for parameter in last:
            prepared.loaded.model.get_parameter(parameter).zero_()
    texts = oracle.tokenised(prepared.loaded.tokenizer, rows, "three")
    wanted = oracle.reference(prepared.loaded.model, last, texts, oracle.centred, oracle.cross_entropy)
    assert probe.head is not None
    assert probe.head.fresh_gradient_norm == pytest.approx(float(wanted.gradient_block(last).sum().sqrt()), rel=1e-5)


@pytest.mark.parametrize("kind", ["three", "causal-lm"])
def test_the_sketch_runs_end_to_end_and_states_its_error(ready: Ready, tmp_path: Path, kind: str) -> None:
    prepared, rows = ready("gpt2", kind)
    settings = ProbeSettings(method="kronecker", sketch_size=48)
    probe = run_probe(prepared, settings, tmp_path / "probe", Session())
    assert set(probe.info["methods"].values()) == {"kronecker"}
    wanted = oracle_of(prepared, rows, kind)
    factor = 1 / 3 if kind == "three" else 1.0
    names = [[f"{t.name}.weight"] for t in probe.targets]
    pairs = list(zip(probe.weight_blocks, probe.gradient_blocks, names, strict=True))
    weight = [oracle.relative(block, wanted.weight_block(name, factor)) for block, _, name in pairs]
    gradient = [oracle.relative(block, wanted.gradient_block(name)) for _, block, name in pairs]
    stated = probe.info["estimate_error"]
    assert 0.02 < stated < 0.5
    for errors in (weight, gradient):
        assert stated / 3 < np.median(errors) < stated * 3
    if probe.head is not None:
        assert 0 < oracle.relative(probe.head.weight, wanted.weight_block(head_parameters(prepared), factor)) < 1


def test_all_head_parameters_are_counted(ready: Ready, tmp_path: Path) -> None:
    """RoBERTa's head has two layers; its last one is what the fresh gradient is of."""
    prepared, _ = ready("roberta", "three")
    probe = run_probe(prepared, ProbeSettings(), tmp_path / "probe", Session())
    assert probe.info["head_parameters"] == 24 * 24 + 24 + 3 * 24 + 3
    assert probe.head is not None
    assert probe.head.fresh_gradient_params == 3 * 24 + 3
    assert set(probe.info["methods"]) == {t.name for t in probe.targets} | {"classifier.dense", "classifier.out_proj"}


def test_padding_and_batching_change_nothing(ready: Ready, tmp_path: Path) -> None:
    """One row at a time is never padded."""
    probes = []
    for micro_batch in (1, 4, 36):
        prepared, _ = ready("opt", "causal-lm")
        settings = ProbeSettings(micro_batch=micro_batch)
        probes.append(run_probe(prepared, settings, tmp_path / str(micro_batch), Session()))
    for other in probes[1:]:
        for mine, wanted in zip(other.weight_blocks, probes[0].weight_blocks, strict=True):
            assert oracle.relative(mine, torch.from_numpy(wanted).double()) < 2e-6
        for mine, wanted in zip(other.gradient_blocks, probes[0].gradient_blocks, strict=True):
            assert oracle.relative(mine, torch.from_numpy(wanted).double()) < 2e-6


# --- interruption -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", "kronecker"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_probe_interrupted_again_and_again_ends_the_same(ready: Ready, tmp_path: Path, name: str, method: str) -> None:
    settings = ProbeSettings(micro_batch=6, method=method, sketch_size=8)
    prepared, _ = ready(name, "three")
    whole = run_probe(prepared, settings, tmp_path / "whole", Session())
    folder = tmp_path / "resumed"
    for stage, count in (("Frozen", 1), ("Forward", 3), ("Forward", 2), ("Kernel", 4), ("Kernel", 9)):
        prepared, _ = ready(name, "three")
        stop = Stop(stage, count)
        with pytest.raises(Interrupted):
            run_probe(prepared, settings, folder, stop.session)
        assert not (folder / "probe.json").exists()
    assert len(list((folder / PARTIAL).glob("rows-*"))) == 6
    assert len(list((folder / PARTIAL).glob("module-*"))) == 8
    prepared, _ = ready(name, "three")
    resumed = run_probe(prepared, settings, folder, Session())
    assert same(resumed, whole)
    assert not (folder / PARTIAL).exists()
    assert same(load_probe(folder), whole)


def test_finished_micro_batches_are_not_computed_again(ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ProbeSettings(micro_batch=6)
    with pytest.raises(Interrupted):
        run_probe(ready("gpt2", "binary")[0], settings, tmp_path, Stop("Kernel", 2).session)
    monkeypatch.setattr(spool.Spool, "_micro_batch", None)
    run_probe(ready("gpt2", "binary")[0], settings, tmp_path, Session())
    monkeypatch.setattr(spool.Spool, "fill", None)
    run_probe(ready("gpt2", "binary")[0], settings, tmp_path, Session())  # nor a finished probe


@pytest.mark.parametrize("resume_with", [1, 10**15])
def test_the_method_of_an_interrupted_probe_is_kept(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume_with: int
) -> None:
    """The spool itself fills the disk; ``auto`` must not turn to the sketch half-way, or back."""

    def free(count: int) -> None:
        monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(count, 0, count))

    settings = ProbeSettings(micro_batch=6, sketch_size=8)
    free(10**15 if resume_with == 1 else 1)
    with pytest.raises(Interrupted):
        run_probe(ready("gpt2", "binary")[0], settings, tmp_path / "a", Stop("Forward", 3).session)
    free(resume_with)
    resumed = run_probe(ready("gpt2", "binary")[0], settings, tmp_path / "a", Session())
    assert ("kronecker" in resumed.info["methods"].values()) == (resume_with != 1)


# --- memory -----------------------------------------------------------------------------------------------------------


def limit_rows(prepared: Prepared, most: int) -> list[int]:
    """The model runs out of memory above ``most`` rows (not in train mode, where the probe measures what training
    keeps); returns the sizes it was asked for."""
    asked: list[int] = []
    model = prepared.loaded.model
    forward = model.forward

    def limited(*args: Any, **kwargs: Any) -> Any:
        asked.append(0 if model.training else len(kwargs["input_ids"]))
        if asked[-1] > most:
            raise torch.OutOfMemoryError("simulated")
        return forward(*args, **kwargs)

    model.forward = limited
    return asked


@pytest.mark.parametrize("most", [20, 3, 1])
def test_out_of_memory_halves_the_micro_batch(ready: Ready, tmp_path: Path, most: int) -> None:
    settings = ProbeSettings()
    whole = run_probe(ready("opt", "causal-lm")[0], settings, tmp_path / "whole", Session())
    prepared, _ = ready("opt", "causal-lm")
    asked = limit_rows(prepared, most)
    events: list[Event] = []
    halved = run_probe(prepared, settings, tmp_path / "halved", Session(emit=events.append))
    assert max(asked) > most
    assert any(isinstance(e, Warn) and "Out of memory" in e.text for e in events)
    for mine, wanted in zip(halved.weight_blocks, whole.weight_blocks, strict=True):
        assert oracle.relative(mine, torch.from_numpy(wanted).double()) < 1e-5


def test_one_row_that_does_not_fit_is_said(ready: Ready, tmp_path: Path) -> None:
    prepared, _ = ready("opt", "causal-lm")
    limit_rows(prepared, 0)
    with pytest.raises(OutOfMemory, match="One row of 9 tokens"):
        run_probe(prepared, ProbeSettings(), tmp_path, Session())


def test_out_of_memory_while_the_head_is_fitted_halves_too(ready: Ready, tmp_path: Path) -> None:
    prepared, _ = ready("bert", "binary")
    limit_rows(prepared, 10)
    halved = run_probe(prepared, ProbeSettings(), tmp_path / "halved", Session())
    whole = run_probe(ready("bert", "binary")[0], ProbeSettings(), tmp_path / "whole", Session())
    assert oracle.relative(halved.weight_blocks, torch.from_numpy(whole.weight_blocks).double()) < 1e-4


def test_another_error_of_the_model_is_not_taken_for_memory(ready: Ready, tmp_path: Path) -> None:
    prepared, _ = ready("opt", "causal-lm")

    def broken(**kwargs: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    prepared.loaded.model.forward = broken
    with pytest.raises(BadInput, match=r"it cannot read a batch of .* shapes do not fit"):
        run_probe(prepared, ProbeSettings(), tmp_path, Session())


# --- what the numbers must be -----------------------------------------------------------------------------------------


def test_a_nan_weight_is_named(ready: Ready, tmp_path: Path) -> None:
    prepared, _ = ready("bert", "binary")
    name = prepared.loaded.targets[7].name
    with torch.no_grad():
        prepared.loaded.model.get_submodule(name).weight[3, 2] = float("nan")
    with pytest.raises(NotFinite, match=name):
        run_probe(prepared, ProbeSettings(head="fresh"), tmp_path, Session())


def test_passes_that_cannot_be_used_are_not_resumed(ready: Ready, tmp_path: Path) -> None:
    """All gradients zero, then a NaN on the way; what made them so is gone when the probe is tried again."""
    settings, folder = ProbeSettings(micro_batch=6), tmp_path / "p"
    whole = run_probe(ready("opt", "causal-lm")[0], settings, tmp_path / "whole", Session())
    with torch.no_grad(), pytest.raises(BadInput, match="gradient of every module is zero"):
        run_probe(ready("opt", "causal-lm")[0], settings, folder, Session())
    broken, _ = ready("opt", "causal-lm")
    passes = iter([1.0, 1.0, 1.0, 1.0])  # two to see whether the model is deterministic, and two micro-batches
    head = broken.loaded.model.get_output_embeddings()
    head.register_forward_hook(lambda *given: given[-1] * next(passes, float("nan")))
    with pytest.raises(NotFinite):
        run_probe(broken, settings, folder, Session())
    assert not (folder / PARTIAL).exists()
    assert same(run_probe(ready("opt", "causal-lm")[0], settings, folder, Session()), whole)


def test_dropout_left_on_is_warned_of(ready: Ready, tmp_path: Path) -> None:
    for on in (False, True):
        prepared, _ = ready("gpt2", "binary")
        dropout = prepared.loaded.model.get_submodule("transformer.h.1.attn.resid_dropout")
        dropout.train(on)
        events: list[Event] = []
        run_probe(prepared, ProbeSettings(), tmp_path / str(on), Session(emit=events.append))
        assert any(isinstance(e, Warn) and "not deterministic" in e.text for e in events) == on


@pytest.mark.parametrize("kind", [*oracle.KINDS, "twelve"])
def test_targets_and_residuals(ready: Ready, tmp_path: Path, kind: str) -> None:
    """y and z by their definition, folds of equal size."""
    prepared, rows = ready("gpt2", kind)
    probe = run_probe(prepared, ProbeSettings(), tmp_path, Session())
    n = len(rows)
    if kind == "causal-lm":
        np.testing.assert_allclose(probe.z, 1 - 1 / (1 + np.exp(-probe.f0)), rtol=1e-6)
    elif kind == "regression":
        scores = np.array([row["score"] for row in rows])
        np.testing.assert_allclose(probe.y[:, 0], (scores - scores.mean()) / scores.std(), rtol=1e-5, atol=1e-6)
    else:
        labels = np.array([int(row["label"][1:]) for row in rows])
        assert np.array_equal(probe.labels, labels)
        c = oracle.CLASSES[kind]
        wanted = (2.0 * labels - 1)[:, None] if c == 2 else (labels[:, None] == np.arange(c)) - 1 / c
        np.testing.assert_allclose(probe.y, wanted)
    if kind != "causal-lm":
        np.testing.assert_allclose(probe.z, probe.y - probe.f0)
    assert np.bincount(probe.folds).tolist() == [n // 4] * 4


def test_folds_are_stratified_and_seeded() -> None:
    labels = np.repeat([0, 1, 2], [40, 21, 3])
    folds = stratified_folds(labels, 5)
    for label, count in ((0, 40), (1, 21), (2, 3)):
        assert np.ptp(np.bincount(folds[labels == label], minlength=4)) <= 1 or count % 4 == 0
    assert np.array_equal(folds, stratified_folds(labels, 5))
    assert not np.array_equal(folds, stratified_folds(labels, 6))


class TwoReaders(torch.nn.Module):
    """Two layers that read tensors at one address: all tokens, and half of each token's features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(20, 6)
        self.whole, self.part = torch.nn.Linear(6, 2, bias=False), torch.nn.Linear(3, 2, bias=False)
        self.requires_grad_(False)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        x = self.embed(input_ids)
        return SimpleNamespace(logits=(self.whole(x) * self.part(x[..., :3])).mean(1))


def test_inputs_at_one_address_are_told_apart(ready: Ready, tmp_path: Path) -> None:
    loaded = replace(ready("gpt2", "binary")[0].loaded, model=TwoReaders(), targets=(), head=())
    layers = [spool.Layer("whole", 6, 2, False, 0), spool.Layer("part", 3, 2, False, 1)]
    rows = [EncodedRow((1, 2, 3), label=0), EncodedRow((4, 5, 6), label=1)]
    passes = spool.Spool(tmp_path, rows, layers, make_outputs("classification", 2, 0), 0.0, 1.0, None, None)
    passes.fill(loaded, Session())
    for layer in layers:
        (x, _), *_ = passes.pieces(layer, torch.device("cpu"))
        assert x.shape == (2, 3, layer.in_features)


def test_two_samples_are_refused() -> None:
    with pytest.raises(BadInput, match="--samples"):
        ProbeSettings(samples=2)
    with pytest.raises(BadInput, match="--method"):
        ProbeSettings(method="magic")


def test_samples_are_drawn_and_their_order_kept(ready: Ready, tmp_path: Path) -> None:
    """A probe of fewer rows than there are is a part of the whole one."""
    whole = run_probe(ready("gpt2", "regression", with_head=True)[0], ProbeSettings(), tmp_path / "whole", Session())
    part = run_probe(ready("gpt2", "regression", with_head=True)[0], ProbeSettings(samples=11), tmp_path / "part", Session())
    assert part.samples == 11
    found = [int(np.argmin(np.abs(whole.f0[:, 0] - f))) for f in part.f0[:, 0]]
    assert found == sorted(set(found))
    for mine, all_rows in zip(part.weight_blocks, whole.weight_blocks, strict=True):
        assert oracle.relative(mine, torch.from_numpy(all_rows[np.ix_(found, found)]).double()) < 1e-5
