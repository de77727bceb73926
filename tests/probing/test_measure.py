"""The measured footprint and the estimates that rest on it, against what real PEFT models keep and count."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from architectures import ARCHITECTURES, FAMILIES, LANGUAGE_MODELS, build

from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.data.images import ImageFile
from advisor.models import forward
from advisor.models.encode import EncodedRow, collate
from advisor.models.load import LoadedModel, load_model
from advisor.probing.footprint import measure_training
from advisor.theory.training_cost import TrainingFootprint, activation_bytes, estimate_cost, trained_bytes
from advisor.training import finetune

SETTINGS = LoraSettings(rank=3)
TOLERANCE = 0.04  # of the bytes that the forward pass of a PEFT model keeps
# A decoder's first self-attention needs no gradient where only its encoder is adapted, but is counted.
ROUGH = {"t5": 0.1, "vit": 0.06}
MODELS = [(name, "classification") for name in ARCHITECTURES] + [(name, "causal-lm") for name in LANGUAGE_MODELS]
MODELS += [("t5", "seq2seq"), ("vit", "classification")]


@pytest.fixture(params=[False, True], ids=["float32", "autocast"])
def autocast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: request.param)
    return bool(request.param)


def some_rows(loaded: LoadedModel, count: int = 3, tokens: int = 9) -> list[EncodedRow]:
    if loaded.reads == "images":
        files = [ImageFile(Path(row["path"])) for row in oracle.write_images(Path(tempfile.mkdtemp()), count=count)]
        return [EncodedRow((), label=i % 2, image=file, image_tokens=loaded.image_tokens) for i, file in enumerate(files)]
    ids = [tuple(5 + (i + j) % 20 for j in range(tokens - i % 2)) for i in range(count)]
    if loaded.task == "seq2seq":
        return [EncodedRow(row, token_labels=row[: tokens // 3]) for row in ids]
    types = "token_type_ids" in loaded.tokenizer.model_input_names
    return [
        EncodedRow(row, (0,) * len(row) if types else None, i % 2, row if loaded.task == "causal-lm" else ())
        for i, row in enumerate(ids)
    ]


def choices(loaded: LoadedModel) -> list[Selection]:
    targets = loaded.targets
    last, qv = max(t.layer or 0 for t in targets), set(loaded.qv_roles())
    kinds: dict[str, Callable[[Any], bool]] = {
        "q,v": lambda t: t.role in qv,
        "mlp": lambda t: t.group == "mlp",
        "last layer": lambda t: t.layer == last,
        "first module": lambda t: t == targets[0],
        "third module of the last layer": lambda t: t == [u for u in targets if u.layer == last][2],
        "last module": lambda t: t == targets[-1],
    }
    found = [Selection(name, tuple(t.name for t in targets if keep(t))) for name, keep in kinds.items()]
    return [all_linear(targets), *[s for s in found if s.targets], Selection("head-only", ())]


def kept_by(model: torch.nn.Module, loaded: LoadedModel, rows: list[EncodedRow]) -> int:
    """Independent count: bytes of the distinct storages saved, less the weights'."""
    weights = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        forward.batch_loss(model, loaded, collate(rows, loaded))
    return sum(s.nbytes() for address, s in kept.items() if address not in weights)


def check_activations(loaded: LoadedModel, rows: list[EncodedRow], tolerance: float) -> None:
    footprint = measure_training(loaded, rows)
    longest = max(row.length for row in rows)
    for selection in choices(loaded):
        if not selection.targets and not loaded.head:
            continue
        model = finetune._adapted_copy(loaded, selection, SETTINGS).train()
        measured = kept_by(model, loaded, rows)
        estimated = activation_bytes(selection, loaded.targets, SETTINGS, footprint, len(rows), longest)
        assert estimated == pytest.approx(measured, rel=tolerance), selection.name


@pytest.mark.parametrize(("name", "task"), MODELS)
def test_activations_are_what_a_peft_model_keeps(name: str, task: str, autocast: bool, tiny_model: Callable[..., Path]) -> None:
    loaded = load_model(str(tiny_model(name, task=task)), task, num_labels=2)
    check_activations(loaded, some_rows(loaded, 4, 24), ROUGH.get(name, TOLERANCE))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trained_parameters_are_pefts_own_count(name: str, tiny_model: Callable[..., Path]) -> None:
    loaded = load_model(str(tiny_model(name)), "classification", num_labels=3)
    footprint = measure_training(loaded, some_rows(loaded))
    head = sum(p.numel() for n in loaded.head for p in loaded.model.get_submodule(n).parameters())
    for selection in choices(loaded)[::3]:
        model: Any = finetune._adapted_copy(loaded, selection, SETTINGS)
        cost = estimate_cost(
            selection, loaded.targets, SETTINGS, TrainingRecipe(), footprint, head, mean_tokens=8.5, max_tokens=9
        )
        trained = [p for p in model.parameters() if p.requires_grad]
        assert cost.params_with_head == sum(p.numel() for p in trained)
        assert cost.params == cost.params_with_head - head
        if selection.targets:
            assert cost.params_with_head == model.get_nb_trainable_parameters()[0]
            weights = sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
            adam = 3 * sum(p.nbytes for p in trained)  # gradients and two moments
            expected = trained_bytes(selection, loaded.targets, SETTINGS, footprint, head)
            assert weights + adam == footprint.weight_bytes + expected


def test_the_model_is_left_as_it_was(tiny_model: Callable[..., Path]) -> None:
    loaded = load_model(str(tiny_model("bert")), "classification", num_labels=2)
    rows = some_rows(loaded)
    weights = {name: p.clone() for name, p in loaded.model.state_dict().items()}
    state = torch.get_rng_state()
    first = measure_training(loaded, rows)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in loaded.model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in loaded.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in loaded.model.modules())
    assert all(torch.equal(p, weights[name]) for name, p in loaded.model.state_dict().items())
    assert measure_training(loaded, rows[:1]) == first  # only shapes count
    with pytest.raises(IndexError):
        measure_training(loaded, [EncodedRow((10**6,))])
    assert not any(module.training for module in loaded.model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in loaded.model.modules())


def test_a_short_target_is_little_work_for_the_decoder(tiny_model: Callable[..., Path]) -> None:
    """Each module's share of a row's tokens: an encoder's, and what a decoder reads of it, sees the source."""
    loaded = load_model(str(tiny_model("t5", task="seq2seq")), "seq2seq")
    footprint = measure_training(loaded, some_rows(loaded, 4, 24))
    seen = dict(zip(footprint.targets, footprint.seen, strict=True))
    of_source = {t.name for t in loaded.targets if t.name.startswith("encoder.") or t.role in ("cross.key", "cross.value")}
    assert {round(seen[name], 2) for name in of_source} == {1.0}
    assert {round(seen[t.name], 2) for t in loaded.targets if t.name not in of_source} == {0.33}
    assert footprint.other_macs == pytest.approx(loaded.model.lm_head.weight.numel() / 3, rel=0.05)


def test_a_regression_footprint_is_plain_data(tiny_model: Callable[..., Path]) -> None:
    loaded = load_model(str(tiny_model("gpt2", task="regression", num_labels=1)), "regression")
    footprint = measure_training(loaded, some_rows(loaded))
    assert TrainingFootprint.from_dict(json.loads(json.dumps(asdict(footprint)))) == footprint
    tensors = [*loaded.model.parameters(), *loaded.model.buffers()]
    assert footprint.weight_bytes == sum(t.nbytes for t in tensors)
    assert set(footprint.targets) == {t.name for t in loaded.targets}


def test_half_precision_weights_without_autocast(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: False)
    loaded = load_model(str(tiny_model("llama")), "classification", num_labels=2, dtype="bfloat16")
    check_activations(loaded, some_rows(loaded, 4, 24), TOLERANCE)


def test_minilm(minilm: Path) -> None:
    loaded = load_model(str(minilm), "classification", num_labels=2)
    footprint = measure_training(loaded, some_rows(loaded))
    assert len(footprint.targets) == 36
    chosen = all_linear(loaded.targets)
    rows = some_rows(loaded, 4, 60)
    model = finetune._adapted_copy(loaded, chosen, SETTINGS).train()
    estimated = activation_bytes(chosen, loaded.targets, SETTINGS, footprint, 4, 60)
    assert estimated == pytest.approx(kept_by(model, loaded, rows), rel=TOLERANCE)


@pytest.mark.parametrize(("name", "runs"), [("deberta", False), ("bert", True)])
def test_a_model_that_fails_under_autocast_runs_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, runs: bool
) -> None:
    """DeBERTa's first version fills scores with float32's smallest number, which bfloat16 does not have."""
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: True)
    fields = {**FAMILIES["bert"].fields, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    monkeypatch.setitem(FAMILIES, "deberta", FAMILIES["bert"]._replace(config="DebertaConfig", fields=fields))
    loaded = load_model(str(build(name, tmp_path / "model")), "classification", num_labels=2, device="cpu")
    assert forward.autocasts(loaded) == runs
    loss, _ = forward.batch_loss(loaded.model, loaded, collate([EncodedRow((5, 6, 7), (0, 0, 0), 1)], loaded))
    assert torch.isfinite(loss)


def test_what_a_short_text_shows_is_known_once_a_model_is_loaded(tiny_model: Callable[..., Path]) -> None:
    """A real run asks for it where layers are replayed from memory, and another pass there would disturb both."""
    loaded = load_model(str(tiny_model("llama")), "classification", num_labels=2, device="cpu")

    def forward_again(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model was read again")

    loaded.model.forward = forward_again  # type: ignore[method-assign]
    assert loaded.runs_in_bf16
    assert loaded.at_once(8) == 8
