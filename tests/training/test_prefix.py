"""Runs that start above their frozen blocks are the runs that start from the tokens; where they would not be, they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import oracle
import pytest
import torch
from torch import nn

from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.models import forward
from advisor.models.prepare import Prepared, Source, prepare
from advisor.training.finetune import RunResult, finetune
from advisor.training.frozen_prefix import KEPT_BYTES, PrefixStates

SETTINGS = LoraSettings(4, 8)
HEAD_ONLY = Selection("head-only", ())
Ready = Callable[..., Prepared]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: False)


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ready:
    """``ready(name, kind, dropout)``: a tiny model with rows of many lengths."""

    def make(name: str, kind: str = "binary", dropout: bool = False) -> Prepared:
        family = architectures.FAMILIES[name]
        fields = {k: v if dropout or "drop" not in k else 0.0 for k, v in family.fields.items()}
        assert any("drop" in k for k in fields)
        monkeypatch.setitem(architectures.FAMILIES, name, family._replace(fields=fields))
        task, labels = oracle.TASKS.get(kind, "classification"), oracle.CLASSES.get(kind, 1)
        folder = architectures.build(name, tmp_path / f"{name}-{dropout}", task=task, num_labels=labels)
        path, _ = oracle.write_rows(tmp_path, kind)
        prepared = prepare(Source(str(folder), str(path), eval_data=str(path), task=task, device="cpu"), Session())
        assert len({len(row.ids) for row in prepared.train_rows}) > 3
        return prepared

    return make


def from_layer(prepared: Prepared, layer: int) -> Selection:
    chosen = [t.name for t in prepared.loaded.targets if (t.layer or 0) >= layer]
    return Selection(f"from layer {layer}", tuple(chosen))


def run(prepared: Prepared, selection: Selection, prefix: PrefixStates | None) -> RunResult:
    recipe = TrainingRecipe(epochs=3, lr=5e-3, batch_size=4)
    return finetune(
        prepared.loaded,
        selection,
        SETTINGS,
        recipe,
        prepared.train_rows,
        prepared.eval_rows,
        prepared.train.schema.metric,
        7,
        prefix=prefix,
    )


def same(one: RunResult, other: RunResult) -> None:
    for a, b in zip(one.epochs, other.epochs, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=1e-5, nan_ok=True)
        assert a.val_loss == pytest.approx(b.val_loss, rel=1e-5)
        assert a.distance == pytest.approx(b.distance, rel=1e-4)
        assert a.metric == b.metric


def forward_of(prepared: Prepared) -> Callable[..., torch.Tensor]:
    from advisor.models.encode import collate

    def forward(rows: Any) -> torch.Tensor:
        batch = collate(rows, prepared.loaded)
        del batch["labels"]
        logits: torch.Tensor = prepared.loaded.model(**batch).logits
        return logits

    return forward


def rows_seen(prepared: Prepared, layer: int) -> list[int]:
    """Rows that pass through a block's first target, in the model and in its copies."""
    seen: list[int] = []
    name = next(t.name for t in prepared.loaded.targets if t.layer == layer)
    prepared.loaded.model.get_submodule(name).register_forward_hook(lambda m, i, o: seen.append(len(i[0])))
    return seen


CASES = [
    *((name, kind) for name in architectures.ARCHITECTURES for kind in ("binary",)),
    ("gpt2", "causal-lm"),
    ("llama", "causal-lm"),
    ("bert", "regression"),
    ("opt", "three"),
]


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("dropout", [False, True])
def test_losses_are_the_same(ready: Ready, name: str, kind: str, dropout: bool) -> None:
    prepared = ready(name, kind, dropout)
    last = max(t.layer for t in prepared.loaded.targets if t.layer is not None)
    selections = [from_layer(prepared, layer) for layer in range(1, last + 1)]
    for selection in [*selections, *([HEAD_ONLY] if prepared.loaded.head else [])]:
        prefix = PrefixStates(prepared.loaded)
        plain = run(prepared, selection, PrefixStates(prepared.loaded, limit=0))
        seen = rows_seen(prepared, 0)
        same(run(prepared, selection, prefix), plain)
        depth = prefix.depth(selection)
        assert depth == (last + 1 if selection is HEAD_ONLY else int(selection.name.split()[-1]))
        evaluation, train = (
            prefix._kept[depth, id(rows), training]
            for rows, training in ((prepared.eval_rows, False), (prepared.train_rows, True))
        )
        assert evaluation is not None
        assert (train is None) == dropout
        # each row once, and the few rows of the checks; with dropout also training from the tokens
        recorded = sum(seen) - 3 * len(prepared.train_rows) * dropout
        assert recorded <= (len(prepared.eval_rows) + 5 * 8 if dropout else 2 * len(prepared.eval_rows) + 7 * 8)
        prepared.loaded.model.get_submodule(next(t.name for t in prepared.loaded.targets if t.layer == 0))._forward_hooks.clear()


def test_a_second_run_computes_nothing_below_and_is_the_same(ready: Ready) -> None:
    prepared = ready("llama", "three")
    selection, prefix = from_layer(prepared, 2), PrefixStates(prepared.loaded)
    first = run(prepared, selection, prefix)
    seen = rows_seen(prepared, 1)
    again = run(prepared, selection, prefix)
    assert seen == []
    assert again.epochs[1:] == first.epochs[1:]
    run(prepared, from_layer(prepared, 1), prefix)
    assert seen


def test_a_run_is_the_same_whatever_ran_before(ready: Ready) -> None:
    prepared = ready("gpt2")
    fresh = run(prepared, from_layer(prepared, 1), PrefixStates(prepared.loaded))
    used = PrefixStates(prepared.loaded)
    for before in (HEAD_ONLY, all_linear(prepared.loaded.targets), from_layer(prepared, 1)):
        run(prepared, before, used)
    assert run(prepared, from_layer(prepared, 1), used).epochs[1:] == fresh.epochs[1:]


def test_the_model_is_left_as_it_was(ready: Ready) -> None:
    prepared = ready("gpt_neo")
    batch = prepared.eval_rows[:3]
    forward = forward_of(prepared)
    before = forward(batch)
    run(prepared, from_layer(prepared, 1), PrefixStates(prepared.loaded))
    assert torch.equal(forward(batch), before)
    assert not any(m.training or "forward" in vars(m) or m._forward_hooks for m in prepared.loaded.model.modules())


@pytest.mark.parametrize("kind", ["binary", "causal-lm"])
def test_bfloat16_products_are_no_reason_against(ready: Ready, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Even where outputs nearly cancel, as those of a new head do."""
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: True)
    prepared = ready("llama", kind)
    if kind == "binary":
        prepared.loaded.model.score.weight.data.mul_(1e-3).sub_(prepared.loaded.model.score.weight.mean(1, keepdim=True))
    plain = run(prepared, from_layer(prepared, 2), PrefixStates(prepared.loaded, limit=0))
    prefix = PrefixStates(prepared.loaded)
    found = run(prepared, from_layer(prepared, 2), prefix)
    assert all(states is not None for states in prefix._kept.values())
    assert len(prefix._kept) == 2
    for a, b in zip(found.epochs, plain.epochs, strict=True):
        assert a.val_loss == pytest.approx(b.val_loss, rel=0.02)


def test_drawing_is_not_disturbed(ready: Ready) -> None:
    prepared = ready("bert", dropout=True)
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    states = PrefixStates(prepared.loaded)
    assert states.of(1, prepared.train_rows, forward_of(prepared), training=True) is None
    assert states.of(1, prepared.train_rows, forward_of(prepared)) is not None
    assert torch.equal(torch.rand(4), expected)


def test_what_is_kept_stays_within_the_limit(ready: Ready) -> None:
    prepared = ready("llama", "three")
    forward, rows, others = forward_of(prepared), prepared.eval_rows, prepared.train_rows
    size = sum(len(row.ids) for row in rows) * architectures.WIDTH * 4
    found = PrefixStates(prepared.loaded).of(1, rows, forward)
    assert found is not None
    assert found.bytes == size
    assert size < KEPT_BYTES
    assert PrefixStates(prepared.loaded, size - 1).of(1, rows, forward) is None
    states = PrefixStates(prepared.loaded, 2 * size)
    held = [states.of(depth, rows, forward) for depth in (1, 2)]
    assert states.of(1, rows, forward) is held[0]  # both fit
    assert states.of(3, rows, forward) is not None  # the oldest goes
    assert states.of(2, rows, forward) is held[1]
    again = states.of(1, rows, forward)
    assert again is not None
    assert again is not held[0]
    assert states.of(1, others, forward, training=True) is not None  # twice the size: all other depths go
    assert {key[0] for key, value in states._kept.items() if value is not None} == {1}
    tight = PrefixStates(prepared.loaded, 2 * size - 1)
    assert tight.of(1, rows, forward) is not None
    assert tight.of(1, others, forward, training=True) is None


class Odd(nn.Module):
    """A block that does what a kept state cannot stand for."""

    def __init__(self, block: nn.Module, how: str, shared: dict[str, Any]) -> None:
        super().__init__()
        self.block, self.how, self.shared = block, how, shared

    def forward(self, hidden: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        out = self.block(hidden, *arguments, **named)
        if self.how == "sees padding":
            return out + out.mean(1, keepdim=True)
        if self.how == "trains otherwise":
            return out * (1.01 if self.training else 1.0)
        if self.how == "leaves something":
            self.shared["left"] = out.mean()
        elif self.how == "takes it":
            out = out + self.shared.pop("left")
        return out


@pytest.mark.parametrize("how", ["sees padding", "leaves something", "runs twice", "trains otherwise"])
def test_where_states_do_not_stand_for_the_blocks_the_whole_model_runs(ready: Ready, how: str) -> None:
    prepared = ready("bert")
    layers, shared = prepared.loaded.model.bert.encoder.layer, dict[str, Any]()
    if how == "runs twice":
        layers[1] = layers[0]
    elif how == "leaves something":
        layers[0], layers[1] = Odd(layers[0], how, shared), Odd(layers[1], "takes it", shared)
    else:
        layers[0] = Odd(layers[0], how, shared)
    prepared.loaded.model.eval()
    states, forward = PrefixStates(prepared.loaded), forward_of(prepared)
    trained_only = how == "trains otherwise"
    assert (states.of(1, prepared.eval_rows, forward) is not None) == trained_only
    assert states.of(1, prepared.train_rows, forward, training=True) is None


def test_no_block_is_skipped_where_there_is_no_one_list_of_blocks(ready: Ready) -> None:
    from dataclasses import replace

    prepared = ready("opt")
    targets = prepared.loaded.targets
    assert PrefixStates(prepared.loaded).depth(from_layer(prepared, 1)) == 1
    assert PrefixStates(prepared.loaded).depth(all_linear(targets)) == 0
    outside = replace(targets[-1], layer=None)
    prepared.loaded.targets = (*targets[:-1], outside)
    assert PrefixStates(prepared.loaded).depth(Selection("outside", (outside.name,))) == 0
    prepared.loaded.targets = (*targets[:-1], replace(targets[-1], name=targets[-1].name.replace("decoder", "encoder")))
    assert PrefixStates(prepared.loaded).depth(HEAD_ONLY) == 0
    prepared.loaded.targets = (outside,)
    assert PrefixStates(prepared.loaded).depth(HEAD_ONLY) == 0
