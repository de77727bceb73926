"""One real run of all-linear that measures many selections at once: by switching the adapters of all other modules off.

Modules trained alone grow larger, as they take over what the others did beside them: so what is left on is also tried scaled up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from advisor.core.events import Session, Stage
from advisor.core.recipe import PILOT_EVAL_ROWS, PILOT_SCALES
from advisor.core.targets import Selection
from advisor.models.encode import EncodedRow, collate
from advisor.models.forward import label_scale
from advisor.models.load import LoadedModel
from advisor.training.finetune import evaluate, frozen_forward
from advisor.training.frozen_prefix import PrefixStates

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer


def switched_losses(
    model: nn.Module,
    loaded: LoadedModel,
    selections: Sequence[Selection],
    train: Sequence[EncodedRow],
    evaluation: Sequence[EncodedRow],
    metric: str,
    session: Session,
) -> list[float]:
    """Validation loss of the trained PEFT ``model`` with the adapters of each selection's modules alone at work, as they are or
    scaled up, the lowest of ``PILOT_SCALES``.

    The head stays as it was trained beside all of them. Losses are as in :class:`advisor.training.finetune.Epoch`, on at most
    ``PILOT_EVAL_ROWS`` of ``evaluation``, evenly spread, as files are often sorted by class. ``train`` is what the model was
    trained on: it fixes a regression's label scale.

    Raises:
        Interrupted: the session was cancelled.
        BadInput: a row's images cannot be read.
    """
    mean, std = label_scale(train) if loaded.task == "regression" else (0.0, 1.0)
    from peft.tuners.lora import LoraLayer

    layers = {name.removeprefix("base_model.model."): m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    count = min(PILOT_EVAL_ROWS, len(evaluation))
    rows = [evaluation[i * len(evaluation) // count] for i in range(count)]
    stage = Stage(session, "Pilot run: measuring selections", len(selections))

    def batch_of(some: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        return collate(some, loaded, mean, std)

    prefix, forward = PrefixStates(loaded), frozen_forward(loaded, batch_of)  # blocks below all that is at work are frozen

    def loss(selection: Selection, scale: float) -> float:
        session.check()
        states = prefix.of(prefix.depth(selection), rows, forward)
        with at_work(layers, selection, scale):
            return evaluate(model, loaded, rows, metric, batch_of, states)[0]

    losses = []
    for selection in selections:
        losses.append(min(loss(selection, scale) for scale in (PILOT_SCALES if selection.targets else (1.0,))))
        stage.advance(selection.name)
    return losses


@contextmanager
def at_work(layers: Mapping[str, LoraLayer], selection: Selection, scale: float = 1.0) -> Iterator[None]:
    """Within, only the adapters of the selection's modules add to their outputs, ``scale`` times what they were trained to."""
    chosen = set(selection.targets)
    trained = {name: dict(layer.scaling) for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.enable_adapters(name in chosen)
            layer.scale_layer(scale)
        yield
    finally:
        for name, layer in layers.items():
            layer.enable_adapters(True)
            layer.scaling.update(trained[name])
