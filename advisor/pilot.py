"""One real run of all-linear that measures many selections at once: by switching the adapters of all other modules off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from peft.tuners.lora import LoraLayer
from torch import nn

from advisor.encode import Row, collate
from advisor.events import Session, Stage
from advisor.finetune import evaluate, label_scale
from advisor.models import LoadedModel
from advisor.targets import Selection

PILOT_EVAL_ROWS = 160  # a selection's loss is compared on the same rows with the others', so few do


def switched_losses(
    model: nn.Module,
    loaded: LoadedModel,
    selections: Sequence[Selection],
    train: Sequence[Row],
    evaluation: Sequence[Row],
    metric: str,
    session: Session,
) -> list[float]:
    """Validation loss of the trained PEFT ``model`` with the adapters of each selection's modules alone at work.

    The head stays as it was trained beside all of them. Losses are as :class:`advisor.finetune.Epoch` has them, on at most
    ``PILOT_EVAL_ROWS`` of ``evaluation``, evenly spread, as files are often sorted by class. ``train`` is what the model was
    trained on: it fixes a regression's label scale.

    Raises:
        Interrupted: the session was cancelled.
    """
    mean, std = label_scale(train) if loaded.task == "regression" else (0.0, 1.0)
    layers = {name.removeprefix("base_model.model."): m for name, m in model.named_modules() if isinstance(m, LoraLayer)}
    count = min(PILOT_EVAL_ROWS, len(evaluation))
    rows = [evaluation[i * len(evaluation) // count] for i in range(count)]
    stage = Stage(session, "Pilot run: measuring selections", len(selections))
    losses = []
    for selection in selections:
        session.check()
        with _at_work(layers, selection):
            losses.append(evaluate(model, loaded, rows, metric, lambda some: collate(some, loaded, mean, std))[0])
        stage.advance(selection.name)
    return losses


@contextmanager
def _at_work(layers: Mapping[str, LoraLayer], selection: Selection) -> Iterator[None]:
    """Within, only the adapters of the selection's modules add to their outputs."""
    chosen = set(selection.targets)
    try:
        for name, layer in layers.items():
            layer.enable_adapters(name in chosen)
        yield
    finally:
        for layer in layers.values():
            layer.enable_adapters(True)
