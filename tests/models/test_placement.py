"""Models that are recomputed, fetched from elsewhere, or quantised: the same probe through the same capture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import disk_offload, init_empty_weights, load_checkpoint_and_dispatch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from advisor.cli import main as cli
from advisor.core.candidate import Candidate
from advisor.core.errors import BadInput, OutOfMemory
from advisor.core.events import Event, Note, Session, Warn
from advisor.core.probe import Probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings, Selection
from advisor.export.peft import arguments_of
from advisor.export.plan import plan_of
from advisor.models import load as models
from advisor.models import placement
from advisor.models.head_input import head_linears
from advisor.models.load import LoadedModel, load_model
from advisor.models.placement import device_map, free_memory, plain_weight, tensor_bytes
from advisor.models.prepare import Prepared
from advisor.probing import spool
from advisor.probing.capture import Capture, capturing
from advisor.probing.peer_scores import measure_peers
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.training.finetune import finetune

TinyModel = Callable[..., Path]
Ready = Callable[..., Prepared]
RECOMPUTED = (
    ("bert", "three", "materialise"),
    ("gpt_neox", "causal-lm", "kronecker"),
    ("deberta_v2", "binary", "materialise"),
    ("mixtral", "causal-lm", "materialise"),
)
FETCHED = (("bert", "three"), ("gpt2", "causal-lm"), ("mixtral", "causal-lm"))


def probed(prepared: Prepared, folder: Path, **settings: Any) -> Probe:
    few = {"linearity": False, "samples": 12, "micro_batch": 5}
    return run_probe(prepared, ProbeSettings(**{**few, **settings}), folder, Session())


def assert_same(found: Probe, wanted: Probe, tolerance: float = 0.0) -> None:
    """All that is stored of passes and weights."""
    pairs = [("W", found.weight_blocks, wanted.weight_blocks), ("G", found.gradient_blocks, wanted.gradient_blocks)]
    pairs += [("f0", found.f0, wanted.f0), ("losses", found.losses, wanted.losses)]
    if wanted.head is not None and found.head is not None:
        pairs.append(("head", found.head.weight, wanted.head.weight))
    assert float(np.linalg.norm(wanted.weight_blocks)) > 0
    for what, one, other in pairs:
        error = np.linalg.norm(one.astype(np.float64) - other) / np.linalg.norm(other)
        assert error <= tolerance, f"{what}: {error:.2e}"


# --- recomputed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind", "method"), RECOMPUTED)
def test_recomputed_blocks_are_the_same_to_the_last_bit(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, method: str
) -> None:
    again = 0
    record = Capture.recomputed

    def counted(self: Capture, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal again
            again += self._again is not None
            return forward(*args, **kwargs)

        return record(self, run)

    wanted = probed(ready(name, kind), tmp_path / "kept", method=method)
    monkeypatch.setattr(Capture, "recomputed", counted)
    prepared = ready(name, kind)
    found = probed(prepared, tmp_path / "recomputed", method=method, recompute=True)
    assert_same(found, wanted)
    assert again >= len(prepared.loaded.blocks) * len(found.labels) / 5
    assert all("forward" not in prepared.loaded.model.get_submodule(block).__dict__ for block in prepared.loaded.blocks)


def test_recomputing_keeps_next_to_nothing_between_the_passes(ready: Ready) -> None:
    """Bytes that are still alive after the forward pass, by what the graph and the capture hold."""
    loaded = ready("llama", "causal-lm").loaded
    ids = torch.arange(40).reshape(2, 20) + 10

    def alive(recompute: bool) -> int:
        held: dict[int, int] = {}
        weights = {p.untyped_storage().data_ptr() for p in loaded.model.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        names = [t.name for t in loaded.targets]
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
        with capturing(loaded.model, names, loaded.blocks, recompute) as capture, hooks:
            out = loaded.model(ids)
            xs = [call.x for calls in capture._calls.values() for call in calls if call.x is not None]
            held |= {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in xs}
            assert out.logits.requires_grad
            return sum(held.values())

    assert alive(True) < alive(False) / 3


def test_where_one_row_does_not_fit_it_is_recomputed(ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = probed(ready("bert", "binary"), tmp_path / "kept", method="materialise", micro_batch=1)
    passes = spool.Spool._micro_batch

    def no_room(self: spool.Spool, loaded: LoadedModel, capture: Capture, rows: Any) -> Any:
        if not capture.recompute:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return passes(self, loaded, capture, rows)

    monkeypatch.setattr(spool.Spool, "_micro_batch", no_room)
    events: list[Event] = []
    prepared = ready("bert", "binary")
    settings = ProbeSettings(linearity=False, method="materialise", samples=12, micro_batch=5)
    found = run_probe(prepared, settings, tmp_path / "recomputed", Session(events.append))
    assert_same(found, wanted)
    said = [event.text for event in events if isinstance(event, Warn)]
    assert [text.split(" with ")[1][:2] for text in said if text.startswith("Out of memory")] == ["5 ", "2 ", "on"]
    assert sum(spool.RECOMPUTED in text for text in said) == 1

    monkeypatch.setattr(spool.Spool, "_micro_batch", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(OutOfMemory, match="One row"):
        run_probe(ready("bert", "binary"), settings, tmp_path / "never", Session())


# --- fetched when they are used ----------------------------------------------------------------------------------------


def places(loaded: LoadedModel) -> set[str]:
    return {str(place) for place in loaded.model.hf_device_map.values()}


@pytest.mark.parametrize(("name", "kind"), FETCHED)
def test_a_model_on_the_disk_gives_the_same_probe(ready: Ready, tmp_path: Path, name: str, kind: str) -> None:
    here, there = ready(name, kind), ready(name, kind, device="disk")
    loaded = there.loaded
    assert loaded.offloaded
    assert places(loaded) == {"disk", "cpu"}
    assert (loaded.targets, loaded.fingerprint) == (here.loaded.targets, here.loaded.fingerprint)
    assert (loaded.device, loaded.dtype, loaded.parameters) == (
        here.loaded.device,
        here.loaded.dtype,
        here.loaded.parameters,
    )
    found, wanted = probed(there, tmp_path / "disk"), probed(here, tmp_path / "memory")
    assert_same(found, wanted)
    assert found.info["peers"] == wanted.info["peers"]
    stacks = [bool(t.experts) for t in loaded.targets]
    assert [value is None for value in found.info["peers"]["spectrum"]] == stacks
    assert found.info["footprint"] == wanted.info["footprint"]
    weights = dict(loaded.model.named_parameters())
    assert all(weights[t.name if t.experts else f"{t.name}.weight"].is_meta for t in loaded.targets)


def test_what_does_not_fit_goes_to_memory_and_disk_by_itself(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ready("llama", "causal-lm", device="auto")
    assert not here.loaded.offloaded
    half = here.loaded.parameters * 4 * 0.6 / placement.ROOM
    monkeypatch.setattr(placement, "free_memory", lambda device: int(half))
    there = ready("llama", "causal-lm", device="auto")
    assert places(there.loaded) == {"disk", "cpu"}
    assert there.loaded.fingerprint == here.loaded.fingerprint
    assert any("weights on" in note and "disk (" in note for note in there.loaded.notes)
    assert_same(probed(there, tmp_path / "both"), probed(here, tmp_path / "memory"))


def by_accelerate(loaded: LoadedModel, how: str, folder: Path) -> Any:
    """The model as a user of accelerate alone would lay it out."""
    if how == "dispatched":
        with init_empty_weights():
            empty = AutoModelForCausalLM.from_config(loaded.model.config).eval().requires_grad_(False)
        middle = loaded.blocks[len(loaded.blocks) // 2]
        outside = [n for n, m in empty.named_modules() if "layers" not in n and list(m.parameters(recurse=False))]
        places: dict[str, Any] = {**dict.fromkeys([*loaded.blocks, *outside], "cpu"), middle: "disk", "model.rotary_emb": "cpu"}
        return load_checkpoint_and_dispatch(empty, loaded.name, places, offload_folder=folder)
    return disk_offload(models.load_model(loaded.name, loaded.task, device="cpu").model, folder)


@pytest.mark.parametrize("how", ["dispatched", "all on disk"])
def test_models_that_accelerate_laid_out_give_the_same_probe(ready: Ready, tmp_path: Path, how: str) -> None:
    here = ready("llama", "causal-lm")
    loaded = here.loaded
    model = by_accelerate(loaded, how, tmp_path / "weights")
    there = replace(here, load=lambda: replace(here.with_model, loaded=replace(loaded, model=model)))
    assert there.loaded.offloaded
    assert_same(probed(there, tmp_path / "there"), probed(here, tmp_path / "here"))
    assert measure_peers(there.loaded, here.train_rows[:4], Session()) == measure_peers(loaded, here.train_rows[:4], Session())


def test_what_needs_all_weights_in_memory_says_so(ready: Ready, tmp_path: Path) -> None:
    there = ready("llama", "binary", device="disk")
    events: list[Event] = []
    probe = run_probe(there, ProbeSettings(linearity=True), tmp_path / "probe", Session(events.append))
    assert probe.info["linearity"] == []
    said = [event.text for event in events if isinstance(event, Note)]
    assert any(text.startswith("Linearity: not measured") and "in memory" in text for text in said)
    with pytest.raises(BadInput, match="not all in memory"):
        finetune(
            there.loaded,
            Selection("all", tuple(t.name for t in there.loaded.targets)),
            LoraSettings(),
            TrainingRecipe(),
            there.train_rows,
            there.eval_rows,
            "accuracy",
            0,
        )


def test_gpus_come_before_memory_and_memory_before_the_disk(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what accelerate would be asked for."""
    empty = models.meta_model(str(tiny_model("llama", "causal-lm")), "causal-lm")
    needed = sum(p.numel() for p in empty.parameters()) * 4
    free = {"cuda": needed, "cpu": 10 * needed}
    monkeypatch.setattr(placement, "free_memory", lambda device: int(free[device.type]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda = torch.device("cuda", 0)
    asked = device_map("auto", cuda, empty, (), 4, False)
    share = int(placement.ROOM * needed)
    assert asked == {"device_map": "auto", "max_memory": {0: share, 1: share, "cpu": int(placement.ROOM * 10 * needed)}}
    assert device_map("auto", cuda, empty, (), 4 * 0.6, False) == {}
    assert device_map("cuda", cuda, empty, (), 4, False) == {}
    assert device_map("cuda", cuda, empty, (), 0.5, True) == {"device_map": {"": cuda}}
    with pytest.raises(BadInput, match="no blocks"):
        device_map("disk", cuda, empty, (), 4, False)


def test_free_memory_is_this_machines() -> None:
    assert 1e6 < free_memory(torch.device("cpu")) < 1e14


# --- quantised ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def quantising(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes, as it is on a CPU with AVX512-BF16: there it repacks 4-bit weights for inference, if it may."""
    layers = pytest.importorskip("bitsandbytes.nn.modules", reason="bitsandbytes is not installed (extra `quant`)")
    monkeypatch.setattr(layers, "has_avx512bf16", lambda: True)


# 4 bits: the same products of the same numbers. 8 bits: LLM.int8 also rounds the inputs of every product to 8 bits.
SIZES = (("4bit", 1e-6), ("8bit", 0.1))


def dequantised(prepared: Prepared) -> Prepared:
    """The same weights as plain numbers."""
    plain = models.load_model(prepared.loaded.name, prepared.loaded.task, num_labels=2, device="cpu").model
    with torch.no_grad():
        for name, module in prepared.loaded.model.named_modules():
            if (weight := getattr(module, "weight", None)) is not None and name:
                plain.get_submodule(name).weight.copy_(plain_weight(module) if weight.dim() == 2 else weight)
    return replace(prepared, load=lambda: replace(prepared.with_model, loaded=replace(prepared.loaded, model=plain)))


@pytest.mark.usefixtures("quantising")
@pytest.mark.parametrize(("size", "tolerance"), SIZES)
@pytest.mark.parametrize(("name", "kind"), [("llama", "causal-lm"), ("bert", "binary")])
def test_a_quantised_probe_is_that_of_the_dequantised_model(
    ready: Ready, tmp_path: Path, name: str, kind: str, size: str, tolerance: float
) -> None:
    quantised, plain = ready(name, kind, quantised=size), ready(name, kind)
    loaded = quantised.loaded
    assert loaded.quantised == size
    assert loaded.targets == plain.loaded.targets  # names and shapes, whatever the storage
    assert loaded.parameters == plain.loaded.parameters
    assert loaded.fingerprint != plain.loaded.fingerprint
    types = {type(loaded.model.get_submodule(t.name)).__name__ for t in loaded.targets}
    assert types == {"Linear4bit" if size == "4bit" else "Linear8bitLt"}
    assert {type(loaded.model.get_submodule(name)) for name in head_linears(loaded)} <= {torch.nn.Linear}
    found = probed(quantised, tmp_path / "quantised", head="fresh")
    wanted = probed(dequantised(quantised), tmp_path / "plain", head="fresh")
    assert_same(found, wanted, tolerance)
    for key in ("spectrum", "kappatune"):
        np.testing.assert_allclose(found.info["peers"][key], wanted.info["peers"][key], rtol=1e-4)
    recomputed = probed(ready(name, kind, quantised=size), tmp_path / "recomputed", head="fresh", recompute=True)
    assert_same(recomputed, found)


@pytest.mark.usefixtures("quantising")
@pytest.mark.parametrize("size", ["4bit", "8bit"])
def test_peft_wraps_the_chosen_quantised_modules(ready: Ready, tmp_path: Path, size: str) -> None:
    prepared, plain = ready("llama", "binary", quantised=size), ready("llama", "binary")
    probe, other = probed(prepared, tmp_path / "probe"), probed(plain, tmp_path / "plain")
    chosen = tuple(t.name for t in probe.targets if t.name.endswith(("q_proj", "down_proj")))
    candidate = Candidate(Selection("some", chosen), LoraSettings())
    arguments = arguments_of(plan_of(candidate, probe))
    assert arguments == arguments_of(plan_of(candidate, other))  # the export does not know how the weights are stored
    model = get_peft_model(prepared.loaded.model, LoraConfig(**arguments)).get_base_model()
    wrapped = {name: module for name, module in model.named_modules() if hasattr(module, "base_layer")}
    assert set(wrapped) == set(chosen)
    kind = "Linear4bit" if size == "4bit" else "Linear8bitLt"
    assert {type(m).__name__ for m in wrapped.values()} == {kind}
    assert {type(m).__module__ for m in wrapped.values()} == {"peft.tuners.lora.bnb"}


@pytest.mark.usefixtures("quantising")
@pytest.mark.parametrize("size", ["4bit", "8bit"])
def test_linearity_and_a_real_run_of_a_quantised_model(ready: Ready, tmp_path: Path, size: str) -> None:
    prepared = ready("llama", "binary", quantised=size)
    probe = run_probe(prepared, ProbeSettings(samples=8, linearity=True), tmp_path / "probe", Session())
    assert [found["selection"] for found in probe.info["linearity"]] == ["all-linear", "q,v"]
    result = finetune(
        prepared.loaded,
        Selection("all", tuple(t.name for t in probe.targets)),
        LoraSettings(rank=2),
        TrainingRecipe(epochs=2, lr=5e-3),
        prepared.train_rows,
        prepared.eval_rows,
        "accuracy",
        0,
    )
    assert result.epochs[-1].train_loss < result.epochs[0].val_loss
    assert prepared.loaded.quantised == size


@pytest.mark.usefixtures("quantising")
def test_bytes_of_quantised_weights_count_their_scales(tiny_model: TinyModel) -> None:
    folder = str(tiny_model("llama", "causal-lm"))
    four, eight = (load_model(folder, "causal-lm", device="cpu", quantised=q) for q in ("4bit", "8bit"))
    linear = four.model.get_submodule(four.targets[0].name)
    size = linear.in_features * linear.out_features
    state = linear.weight.quant_state
    groups = -(-size // state.blocksize)  # one byte each, as they are quantised again
    inner = 4 * state.state2.absmax.numel() + 4 * 256  # and the scales of these, and their code
    assert tensor_bytes(linear.weight) == size / 2 + groups + 4 * 16 + 4 + inner
    weight = eight.model.get_submodule(eight.targets[0].name).weight
    assert tensor_bytes(weight) == size + 4 * linear.out_features
    assert tensor_bytes(torch.zeros(3, 4)) == 48


def test_two_sizes_at_once_are_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["advisor", "probe", "m", "--data", "d", "--out", "o", "--load-in-4bit", "--load-in-8bit"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "Leave one out" in capsys.readouterr().err


def test_without_bitsandbytes_it_is_said(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"--load-in-4bit needs bitsandbytes.*'\.\[quant\]'"):
        placement.quantisation("4bit", torch.float32, ())
