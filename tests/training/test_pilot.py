"""Losses of a trained model with some adapters at work, against copies of the model with B zeroed or doubled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from advisor.core.errors import Interrupted
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.models.encode import collate
from advisor.models.forward import label_scale
from advisor.models.prepare import Prepared
from advisor.training import pilot
from advisor.training.finetune import evaluate, finetune
from advisor.training.pilot import switched_losses

RECIPE = TrainingRecipe(epochs=2, lr=2e-2, batch_size=8)


def trained(prepared: Prepared, look: Callable[[nn.Module], None]) -> float:
    """All-linear trained, and looked at; the loss of its last epoch."""
    run = finetune(
        prepared.loaded,
        all_linear(prepared.loaded.targets),
        LoraSettings(4, 8),
        RECIPE,
        prepared.train_rows,
        prepared.eval_rows,
        prepared.train.schema.metric,
        0,
        inspect=lambda model, _: look(model),
    )
    return run.epochs[-1].val_loss


def loss_of(model: nn.Module, prepared: Prepared, *selections: Selection, session: Session | None = None) -> list[float]:
    metric = prepared.train.schema.metric
    rows = prepared.train_rows, prepared.eval_rows
    return switched_losses(model, prepared.loaded, selections, *rows, metric, session or Session())


def edited_loss(model: nn.Module, prepared: Prepared, selection: Selection, scale: float) -> float:
    """Loss of a copy whose B is ``scale`` times as large in the selection's modules and zero in all others."""
    edited = copy.deepcopy(model)
    parameters: Mapping[str, torch.Tensor] = dict(edited.named_parameters())
    with torch.no_grad():
        for t in prepared.loaded.targets:
            factor = scale if t.name in selection.targets else 0.0
            parameters[f"base_model.model.{t.name}.lora_B.default.weight"].mul_(factor)
    loaded, metric = prepared.loaded, prepared.train.schema.metric
    scaled = label_scale(prepared.train_rows) if loaded.task == "regression" else (0.0, 1.0)
    return float(evaluate(edited, loaded, prepared.eval_rows, metric, lambda rows: collate(rows, loaded, *scaled))[0])


@pytest.mark.parametrize("scales", [(1.0,), (2.0,), (1.0, 2.0), (0.5, 1.0, 4.0)])
@pytest.mark.parametrize(("name", "kind"), [("bert", "three"), ("bert", "regression"), ("gpt2", "causal-lm")])
def test_only_the_selection_s_adapters_are_at_work(
    ready: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch, name: str, kind: str, scales: tuple[float, ...]
) -> None:
    monkeypatch.setattr(pilot, "PILOT_SCALES", scales)
    prepared = ready(name, kind)
    targets = prepared.loaded.targets
    some = Selection("some", tuple(t.name for t in targets[::3]))
    everything, nothing = all_linear(targets), Selection("none", ())
    top = Selection("top", tuple(t.name for t in targets if t.layer == 1))  # starts from the states that leave block 0
    found: dict[str, Any] = {}

    def look(model: nn.Module) -> None:
        before = {name: p.clone() for name, p in model.state_dict().items()}
        found["losses"] = loss_of(model, prepared, everything, some, nothing, everything, top)
        found["copies"] = [edited_loss(model, prepared, some, scale) for scale in scales]
        found["whole"] = [edited_loss(model, prepared, everything, scale) for scale in scales]
        found["top"] = [edited_loss(model, prepared, top, scale) for scale in scales]
        after = model.state_dict()
        found["unchanged"] = all(torch.equal(p, after[name]) for name, p in before.items())
        found["trainable"] = all(p.requires_grad for n, p in model.named_parameters() if "lora_" in n)

    last = trained(prepared, look)
    whole, part, none, again, high = found["losses"]
    assert high == pytest.approx(min(found["top"]), rel=1e-4)
    assert whole == again == pytest.approx(min(found["whole"]), rel=1e-6)
    assert scales != (1.0,) or whole == pytest.approx(last, rel=1e-6)
    assert part == pytest.approx(min(found["copies"]), rel=1e-6)
    assert len({round(x, 6) for x in (whole, part, none)}) == 3
    assert found["unchanged"]
    assert found["trainable"]


def test_few_rows_do_and_a_stop_leaves_all_adapters_on(ready: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = ready("bert", "binary")
    targets = prepared.loaded.targets
    one = Selection("one", (targets[0].name,))
    spread = prepared.eval_rows[:: len(prepared.eval_rows) // 4][:4]
    found: dict[str, Any] = {}

    def look(model: nn.Module) -> None:
        monkeypatch.setattr(pilot, "PILOT_EVAL_ROWS", 4)
        (found["few"],) = loss_of(model, prepared, one)
        found["enough"] = switched_losses(
            model, prepared.loaded, [one], prepared.train_rows, spread, prepared.train.schema.metric, Session()
        )[0]
        session = Session()
        session.cancel.set()
        with pytest.raises(Interrupted):
            loss_of(model, prepared, one, session=session)
        found["whole"] = loss_of(model, prepared, all_linear(targets))
        found["whole again"] = loss_of(model, prepared, all_linear(targets))

    trained(prepared, look)
    assert found["few"] == found["enough"]
    assert found["whole"] == found["whole again"]
