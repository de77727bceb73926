"""Rows to keep: targets that the model draws itself, and blocks between reference and training rows."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from probes import Stop, same

from advisor.core.errors import BadInput, Interrupted, NotFinite, OutOfMemory
from advisor.core.events import Session
from advisor.core.probe import BLOCKS_FILE, DriftBlocks, KeepBlocks, load_probe, save_probe
from advisor.core.tasks import EMBEDDING, KTO, PREFERENCE, TOKENS
from advisor.data.dataset import sample_rows
from advisor.models.encode import IGNORED, EncodedRow, encode
from advisor.models.prepare import Prepared, with_kept
from advisor.prediction.probe_view import subsample
from advisor.probing.keep import projected_rows, target_places, with_sampled_targets
from advisor.probing.linear_check import scale_of
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings

SETTINGS = ProbeSettings(method="materialise")
PICKED = [30, 4, 17, 8, 22]  # rows of the training file that are also to be kept, in this order


def test_only_targets_change_and_a_seed_repeats_them(encoded: Callable[..., Any]) -> None:
    prepared, rows = encoded("llama", "causal-lm")
    drawn = with_sampled_targets(prepared.loaded, rows, 0, Session())
    assert drawn == with_sampled_targets(prepared.loaded, rows, 0, Session())
    assert drawn != with_sampled_targets(prepared.loaded, rows, 1, Session())
    for row, other in zip(rows, drawn, strict=True):
        assert other.ids == row.ids
        assert len(target_places("causal-lm", other)) == len(target_places("causal-lm", row)) > 0
        places = [t for t, label in enumerate(row.token_labels) if t and label != IGNORED]
        assert places == [t for t, label in enumerate(other.token_labels) if label != IGNORED]


def test_targets_are_drawn_from_the_models_own_prediction(encoded: Callable[..., Any]) -> None:
    """Of many copies of one row, against its probabilities."""
    prepared, rows = encoded("llama", "causal-lm")
    loaded, count = prepared.loaded, 500
    with torch.no_grad():
        loaded.model.lm_head.weight.mul_(20)  # else an untrained model likes all tokens alike
    ids = rows[0].ids[:5]
    drawn = with_sampled_targets(loaded, [EncodedRow(ids, token_labels=(IGNORED, *ids[1:]))] * count, 0, Session())
    with torch.no_grad():
        p = torch.softmax(loaded.model(input_ids=torch.tensor([ids])).logits[0].double(), -1).numpy()
    for t in range(1, 5):
        counts = np.bincount([other.token_labels[t] for other in drawn], minlength=p.shape[1])
        expected = p[t - 1] * count
        large = expected > 5
        assert large.any()
        assert (np.abs(counts - expected)[large] < 5 * np.sqrt(expected[large])).all()


# --- blocks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(ready: Callable[..., Prepared], tmp_path: Path) -> Callable[[], Prepared]:
    """A tiny language model, its training rows, and some of these in another order as rows to keep."""
    _, rows = oracle.write_rows(tmp_path, "causal-lm")
    path = tmp_path / "keep.jsonl"
    path.write_text("".join(json.dumps(rows[i]) + "\n" for i in PICKED))
    return lambda: with_kept(ready("llama", "causal-lm"), str(path), Session())


def keep_of(probe: Any) -> KeepBlocks:
    assert isinstance(probe.keep, KeepBlocks)
    return probe.keep


def test_cross_blocks_are_those_of_the_rows(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    """Rows that are both trained on and kept have the entries of G; the probe is otherwise the same as without."""
    prepared = kept()
    probe = run_probe(prepared, SETTINGS, tmp_path / "with", Session())
    keep = keep_of(probe)
    plain = run_probe(replace(prepared, kept=None), SETTINGS, tmp_path / "without", Session())
    assert plain.keep is None
    for name in ("weight_blocks", "gradient_blocks", "losses", "f0"):
        np.testing.assert_allclose(getattr(probe, name), getattr(plain, name), rtol=1e-3, atol=1e-6)
    scale = np.abs(plain.gradient_blocks).max()
    np.testing.assert_allclose(keep.loss / scale, plain.gradient_blocks[:, PICKED] / scale, atol=1e-5)
    np.testing.assert_allclose(keep.losses, plain.losses[PICKED], rtol=1e-5)
    assert probe.info["mean_tokens"] == plain.info["mean_tokens"]
    assert probe.info["footprint"] == plain.info["footprint"]


def test_score_blocks_equal_float64_autograd(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    prepared = kept()
    probe = run_probe(prepared, SETTINGS, tmp_path / "p", Session())
    keep = keep_of(probe)
    assert prepared.kept is not None
    loaded, (rows, _) = prepared.loaded, encode(prepared.kept.data, prepared.loaded, prepared.max_length)
    drawn = with_sampled_targets(loaded, rows, SETTINGS.seed, Session())
    with torch.no_grad():
        losses = [loaded.model(torch.tensor([r.ids]), labels=torch.tensor([r.token_labels])).loss.item() for r in drawn]
    assert probe.info["keep"]["expected"] == pytest.approx(np.mean(losses), rel=1e-4)
    rows = [*drawn, *prepared.train_rows]
    texts = [oracle.Text(row.ids, row.token_labels) for row in rows]
    names = [f"{t.name}.weight" for t in loaded.targets]
    wanted = oracle.reference(loaded.model, names, texts, *oracle.scalars_of("causal-lm"))
    for m, name in enumerate(names):
        gradients = wanted.gradients[name]
        scores, train = gradients[: len(drawn)], gradients[len(drawn) :]
        assert oracle.relative(keep.score[m], scores @ train.T) < 1e-4
        assert oracle.relative(keep.energies[m], (scores**2).sum(1)) < 1e-4
    assert keep.tokens.tolist() == [len(target_places("causal-lm", row)) for row in drawn]


def test_a_model_that_is_not_finite_is_named_and_lack_of_memory_said(
    kept: Callable[[], Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = kept()
    name = broken.loaded.targets[3].name
    with torch.no_grad():
        broken.loaded.model.get_submodule(name).weight.fill_(torch.nan)
    with pytest.raises(NotFinite, match=name):
        run_probe(broken, SETTINGS, tmp_path / "p", Session())

    def no_room(*_: Any, **__: Any) -> None:
        raise MemoryError

    prepared = kept()
    monkeypatch.setattr(prepared.loaded.model, "forward", no_room)
    with pytest.raises(OutOfMemory, match="One row of"):
        run_probe(prepared, SETTINGS, tmp_path / "q", Session())


@pytest.mark.slow
def test_a_sketch_has_them_too(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    exact = keep_of(run_probe(kept(), SETTINGS, tmp_path / "exact", Session()))
    sketched = keep_of(run_probe(kept(), ProbeSettings(method="kronecker", sketch_size=256), tmp_path / "s", Session()))
    assert oracle.relative(sketched.loss, torch.as_tensor(exact.loss, dtype=torch.float64)) < 0.2


# --- classifiers and regressors -----------------------------------------------------------------------------------------

READS = [("bert", "binary"), ("bert", "three"), ("bert", "regression"), ("llama", "binary"), ("bert", "twelve")]


@pytest.fixture
def other_rows(ready: Callable[..., Prepared], tmp_path: Path) -> Callable[..., Prepared]:
    """A tiny classifier or regressor, its training rows, and rows of a task of its own to keep."""
    path = tmp_path / "old.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"a {word}", "completion": "fine film"}) + "\n" for word in oracle.WORDS[:7]))
    return lambda name, kind, place=path, **options: with_kept(ready(name, kind, **options), str(place), Session())


def drift_of(probe: Any) -> DriftBlocks:
    assert isinstance(probe.keep, DriftBlocks)
    return probe.keep


def own_gradients(model: Any, names: list[str], scalar: torch.Tensor) -> torch.Tensor:
    grads = torch.autograd.grad(scalar, [model.get_parameter(name) for name in names])
    return torch.cat([g.flatten() for g in grads])


@pytest.mark.parametrize(("name", "kind"), READS)
def test_drift_blocks_equal_float64_autograd(other_rows: Callable[..., Prepared], tmp_path: Path, name: str, kind: str) -> None:
    """The gradient of each projection of what the head reads, taken with a hook of its own, one row at a time."""
    prepared = other_rows(name, kind)
    settings = replace(SETTINGS, samples=9)
    probe = run_probe(prepared, settings, tmp_path / "p", Session())
    drift, loaded = drift_of(probe), prepared.loaded
    assert prepared.kept is not None
    kept, _ = encode(prepared.kept.data, loaded, prepared.max_length)
    drawn = projected_rows(loaded, kept, settings.seed, Session())
    own, _ = encode(sample_rows(prepared.train, 9, settings.seed), loaded, prepared.max_length)
    model = copy.deepcopy(loaded.model).double().requires_grad_(True)
    head = model.get_submodule(loaded.head[0])
    read: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    output, loss = oracle.scalars_of(kind)
    names = [f"{t.name}.weight" for t in loaded.targets]
    mean, std = scale_of(prepared)

    def logits_of(row: EncodedRow) -> torch.Tensor:
        read.clear()
        types = {} if row.types is None else {"token_type_ids": torch.tensor([row.types])}
        logits: torch.Tensor = model(input_ids=torch.tensor([row.ids]), **types).logits[0]
        return logits

    references = []
    for row in drawn:
        logits_of(row)
        representation = read[0].reshape(-1, read[0].shape[-1])[-1]  # the only one, or a decoder's last token
        references.append(own_gradients(model, names, representation @ torch.from_numpy(row.direction).double()))
    training = []
    for row in own:
        logits = logits_of(row)
        label = torch.tensor((row.label - mean) / std if kind == "regression" else int(row.label))
        scalar = output(logits, label)[0] if kind in ("binary", "regression") else loss(logits, label)
        training.append(own_gradients(model, names, scalar))
    sizes = [model.get_parameter(n).numel() for n in names]
    pairs = zip(torch.stack(references).split(sizes, 1), torch.stack(training).split(sizes, 1), strict=True)
    for m, (each, train) in enumerate(pairs):
        assert oracle.relative(drift.cross[m], each @ train.T) < 1e-3
        assert oracle.relative(drift.energies[m], (each**2).sum(1)) < 1e-3


@pytest.mark.parametrize("kind", ["binary", "three", "regression"])
def test_the_probe_is_otherwise_the_same(other_rows: Callable[..., Prepared], tmp_path: Path, kind: str) -> None:
    prepared = other_rows("bert", kind)
    probe = run_probe(prepared, SETTINGS, tmp_path / "with", Session())
    plain = run_probe(replace(prepared, kept=None), SETTINGS, tmp_path / "without", Session())
    for name in ("weight_blocks", "gradient_blocks", "losses", "f0", "labels", "y"):
        np.testing.assert_allclose(getattr(probe, name), getattr(plain, name), rtol=1e-3, atol=1e-5)
    assert probe.head is not None
    assert plain.head is not None
    np.testing.assert_allclose(probe.head.weight, plain.head.weight, rtol=1e-3, atol=1e-5)
    assert probe.head.fresh_gradient_norm == pytest.approx(plain.head.fresh_gradient_norm, rel=1e-4)
    again = load_probe(tmp_path / "with")
    assert np.array_equal(drift_of(again).cross, drift_of(probe).cross)
    assert drift_of(subsample(again, np.array([2, 5]))).cross.shape == (len(probe.targets), 2 * 7, 2)


def test_directions_are_scaled_to_the_variance_of_what_the_head_reads(other_rows: Callable[..., Prepared]) -> None:
    prepared = other_rows("bert", "binary")
    assert prepared.kept is not None
    rows, _ = encode(prepared.kept.data, prepared.loaded, prepared.max_length)
    read: list[torch.Tensor] = []
    handle = prepared.loaded.model.classifier.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with torch.no_grad():
        for row in rows:
            prepared.loaded.model(input_ids=torch.tensor([row.ids]), token_type_ids=torch.tensor([row.types]))
    handle.remove()
    variance = torch.cat(read).double().var(0, correction=0).sum()
    drawn = [row.direction for seed in range(60) for row in projected_rows(prepared.loaded, rows, seed, Session())]
    sizes = np.concatenate(drawn) * float(variance) ** 0.5
    assert sizes.std() == pytest.approx(1, abs=0.02)
    assert abs(sizes.mean()) < 0.02
    assert drawn[0].tolist() != drawn[1].tolist()


def test_rows_that_are_all_alike_are_refused(other_rows: Callable[..., Prepared], tmp_path: Path) -> None:
    path = tmp_path / "same.jsonl"
    path.write_text('{"text": "a film"}\n' * 4)
    with pytest.raises(BadInput, match="reads all 4 of them alike"):
        run_probe(other_rows("bert", "binary", path), SETTINGS, tmp_path / "p", Session())


def test_classifiers_take_any_rows_and_only_read_them(other_rows: Callable[..., Prepared], tmp_path: Path) -> None:
    """Labelled for another task with more classes, pairs with values, chats, plain text."""
    chat = [{"role": "user", "content": "a good"}, {"role": "assistant", "content": "film"}]
    files = {
        "labelled": ([{"text": f"red {w}", "label": w} for w in oracle.WORDS[:4]] * 3, ("red the",)),
        "pairs": ([{"sentence1": "a", "sentence2": w, "score": i + 0.5} for i, w in enumerate(oracle.WORDS)], ("a", "the")),
        "chats": ([{"messages": chat}, {"messages": [*chat[:1], {"role": "assistant", "content": "book"}]}], ("a good\n\nfilm",)),
        "plain": ([{"text": "a film"}, {"text": "a book"}], ("a film",)),
    }
    for name, (rows, first) in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        kept = other_rows("bert", "binary", path).kept
        assert kept is not None
        assert first in [example.texts for example in kept.data.examples], name
        assert {example.label for example in kept.data.examples} == {0}
    other = other_rows("bert", "binary", tmp_path / "plain.jsonl").kept
    assert other is not None
    assert other.fingerprint != other_rows("bert", "binary").kept.fingerprint  # type: ignore[union-attr]


def test_a_sketch_has_drift_too(other_rows: Callable[..., Prepared], tmp_path: Path) -> None:
    exact = drift_of(run_probe(other_rows("bert", "three"), SETTINGS, tmp_path / "exact", Session()))
    sketch = ProbeSettings(method="kronecker", sketch_size=256)
    sketched = drift_of(run_probe(other_rows("bert", "three"), sketch, tmp_path / "s", Session()))
    assert oracle.relative(sketched.energies, torch.as_tensor(exact.energies, dtype=torch.float64)) < 0.2


# --- encoder-decoders ---------------------------------------------------------------------------------------------------


def test_an_encoder_decoder_reads_its_rows_and_scores_drawn_targets(ready: Callable[..., Prepared], tmp_path: Path) -> None:
    """Against float64 autograd: the decoder is fed the true target, and another one is to be predicted."""
    _, rows = oracle.write_rows(tmp_path, "seq2seq")
    path = tmp_path / "keep.jsonl"
    path.write_text("".join(json.dumps(rows[i]) + "\n" for i in PICKED))
    prepared = with_kept(ready("t5", "seq2seq"), str(path), Session())
    probe = run_probe(prepared, SETTINGS, tmp_path / "p", Session())
    keep, loaded = keep_of(probe), prepared.loaded
    scale = np.abs(probe.gradient_blocks).max()
    np.testing.assert_allclose(keep.loss / scale, probe.gradient_blocks[:, PICKED] / scale, atol=1e-5)
    assert prepared.kept is not None
    kept, _ = encode(prepared.kept.data, loaded, prepared.max_length)
    drawn = with_sampled_targets(loaded, kept, SETTINGS.seed, Session())
    assert [len(row.token_labels) for row in drawn] == [len(row.token_labels) for row in kept] == keep.tokens.tolist()
    assert [row.token_labels for row in drawn] != [row.token_labels for row in kept]
    pad = loaded.tokenizer.pad_token_id
    texts = [oracle.Text(d.ids, d.token_labels, decoder=[pad, *k.token_labels[:-1]]) for d, k in zip(drawn, kept, strict=True)]
    texts += [oracle.Text(r.ids, r.token_labels, decoder=[pad, *r.token_labels[:-1]]) for r in prepared.train_rows]
    names = [f"{t.name}.weight" for t in loaded.targets]
    wanted = oracle.reference(loaded.model, names, texts, *oracle.scalars_of("seq2seq"))
    for m, name in enumerate(names):
        scores, train = wanted.gradients[name][: len(drawn)], wanted.gradients[name][len(drawn) :]
        assert oracle.relative(keep.score[m], scores @ train.T) < 1e-3
        assert oracle.relative(keep.energies[m], (scores**2).sum(1)) < 1e-3


# --- the folder ---------------------------------------------------------------------------------------------------------


def alike(first: KeepBlocks, second: KeepBlocks) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


def test_they_are_stored_checked_and_found_again(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    probe = run_probe(kept(), SETTINGS, tmp_path / "p", Session())
    again = load_probe(tmp_path / "p")
    assert same(again, probe)
    assert alike(keep_of(again), keep_of(probe))
    assert again.info["keep"] == probe.info["keep"]
    assert again.info["keep"]["rows"] == len(PICKED)
    assert alike(keep_of(run_probe(replace(kept(), kept=None), SETTINGS, tmp_path / "p", Session())), keep_of(probe))
    path = tmp_path / "p" / BLOCKS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BadInput, match="SHA-256"):
        load_probe(tmp_path / "p")


@pytest.mark.parametrize("name", ["loss", "score", "energies", "losses", "tokens"])
def test_an_array_of_another_shape_is_refused(kept: Callable[[], Prepared], tmp_path: Path, name: str) -> None:
    probe = run_probe(kept(), SETTINGS, tmp_path / "p", Session())
    keep = keep_of(probe)
    save_probe(replace(probe, keep=replace(keep, **{name: getattr(keep, name)[..., :-1]})), tmp_path / "q")
    with pytest.raises(BadInput, match=f"keep_{name}"):
        load_probe(tmp_path / "q")


def test_other_rows_to_keep_are_another_probe(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    """Finished or not; without any an interrupted probe is not gone on with either."""
    prepared = kept()
    assert prepared.kept is not None
    other = replace(prepared, kept=replace(prepared.kept, fingerprint="other"))
    run_probe(prepared, SETTINGS, tmp_path / "p", Session())
    with pytest.raises(BadInput, match="another keep fingerprint"):
        run_probe(other, SETTINGS, tmp_path / "p", Session())
    with pytest.raises(Interrupted):
        run_probe(prepared, SETTINGS, tmp_path / "q", Stop("Kernel", 1).session)
    for asked in (other, replace(prepared, kept=None)):
        with pytest.raises(BadInput, match="another keep fingerprint"):
            run_probe(asked, SETTINGS, tmp_path / "q", Session())
    resumed = run_probe(kept(), SETTINGS, tmp_path / "q", Session())
    assert alike(keep_of(resumed), keep_of(load_probe(tmp_path / "p")))


def test_a_subsample_cuts_training_rows_only(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    probe = run_probe(kept(), SETTINGS, tmp_path / "p", Session())
    some = np.array([1, 5, 6])
    cut = keep_of(subsample(probe, some))
    np.testing.assert_array_equal(cut.loss, keep_of(probe).loss[:, :, some])
    np.testing.assert_array_equal(cut.score, keep_of(probe).score[:, :, some])
    assert len(cut.losses) == len(cut.tokens) == len(PICKED)


def test_what_cannot_be_kept_is_said_of_keep(ready: Callable[..., Prepared], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Rows to keep: There is no file") as caught:
        with_kept(ready("bert", "binary"), str(tmp_path / "none.jsonl"), Session())
    with pytest.raises(BadInput, match="Rows to keep: There is no file") as caught:
        with_kept(ready("llama", "causal-lm"), str(tmp_path / "none.jsonl"), Session())
    assert "--keep" in caught.value.hint
    assert "--data" not in str(caught.value)


@pytest.mark.parametrize("task", [TOKENS, PREFERENCE, KTO, EMBEDDING])
def test_tasks_without_a_prediction_are_refused(ready: Callable[..., Prepared], task: str) -> None:
    prepared = ready("bert", "binary")
    train = replace(prepared.train, schema=replace(prepared.train.schema, task=task))
    with pytest.raises(BadInput, match=f"the task is {task}, for which nothing is predicted"):
        with_kept(replace(prepared, train=train), "keep.jsonl", Session())
