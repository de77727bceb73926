"""Calibration rows by group: a model on a task with one recipe, and the gain that its real runs show."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.recipe import BY_ODDS
from advisor.core.selections import ALL_LINEAR, HEAD_ONLY
from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.gain import (
    ALIGNMENT,
    TRAITS,
    USUALLY_ALIGNED,
    curve,
    log_base,
    simulated_gain,
)
from advisor.prediction.likeness import parameter_distances

Array = NDArray[np.float64]

START_ERROR = 0.03  # of H, as real head-only runs show; a group's gain is not known better
CLEAR = 3.0  # standard errors a group's gain must lie above 0 to say something about shares of it


@dataclass
class Group:
    """Rows of one model on one task with one recipe, seeds averaged per selection.

    Attributes:
        traits: [S, 3] the features ``TRAITS``, differences to all-linear. log_loss: [S] mean log validation loss.
        seeds: [S] runs in that mean.
    """

    name: str
    selections: list[str]
    traits: Array
    log_loss: Array
    seeds: Array
    context: Mapping[str, Any]
    rows: list[CalibrationRow]

    @property
    def simulated(self) -> Array:
        """[S] simulated log loss, difference to all-linear."""
        return np.asarray(self.traits[:, 0])

    @cached_property
    def log_base(self) -> float:
        """Log loss that this group's gains are counted from: see :func:`advisor.prediction.gain.log_base`, of the head alone as
        it was really trained, where it was. So how far simulated and real starts differ does not count as gain."""
        return log_base(self.context, real_start(self))

    @cached_property
    def masks(self) -> list[str]:
        """[S] see :class:`CalibrationRow`; empty where rows do not say which modules they adapt."""
        return [runs[0].mask for runs in _by_selection(self.rows)] or [""] * len(self.selections)

    @cached_property
    def apart(self) -> Array:
        """[S] share of all modules that each selection leaves out; of all-linear none, else 1 where its row does not say."""
        named = zip(self.selections, self.masks, strict=True)
        return np.array([mask.count("0") / len(mask) if mask else float(name != ALL_LINEAR) for name, mask in named])

    @cached_property
    def distances(self) -> Array | None:
        """[S + 1, S + 1] share of modules in which two selections differ, all modules last; None where rows do not say which
        they adapt."""
        if not all(self.masks):
            return None
        adapted = np.array([[float(c) for c in mask] for mask in self.masks])
        return parameter_distances(adapted, np.ones(adapted.shape[1]))

    @property
    def data(self) -> str:
        """Name of the data, the group's own name where no row says it."""
        return str(self.rows[0].provenance.get("data", self.name)) if self.rows else self.name

    @property
    def model(self) -> str:
        """Name of the model, the group's own name where no row says it."""
        return str(self.context["model"])

    @property
    def model_names(self) -> set[str]:
        """All that the model is called: by name, and by fingerprint."""
        said = (row.provenance.get("model_fingerprint") for row in self.rows)
        return {self.model, *(str(fingerprint) for fingerprint in said if fingerprint is not None)}


@dataclass(frozen=True)
class Gain:
    """Real gain G of one group and its standard error."""

    value: float
    error: float

    @property
    def is_clear(self) -> bool:
        """Far enough above 0 to speak of shares of it."""
        return self.value > CLEAR * self.error


def group_gain(group: Group, forgone: Array | None = None) -> Gain:
    """G of a group by least squares through H: H − log loss = G·(1 − forgone); its error holds that of H.

    Args:
        forgone: [S] share that each selection forgoes; None: as simulated.
    """
    kept = 1 - (curve(group.simulated / simulated_gain(group.context)) if forgone is None else forgone)
    won = group.log_base - group.log_loss
    value = float(kept @ won) / float(kept @ kept)
    left = won - value * kept
    size = float(kept @ kept)
    error = math.hypot(math.sqrt(float(left @ left) / max(1, len(left) - 1) / size), START_ERROR * float(kept.sum()) / size)
    return Gain(value, error)


def real_start(group: Group) -> float | None:
    """Mean log loss of really training no module, None without such a run."""
    losses = [math.log(r.val_loss) for r in group.rows if r.selection == HEAD_ONLY]
    return float(np.mean(losses)) if losses else None


def start_error(group: Group) -> float | None:
    """Real log loss of training no module over the simulated one, None without such a run."""
    real = real_start(group)
    return None if real is None else real - float(group.context["log_start"])


def grouped(rows: Sequence[CalibrationRow]) -> list[Group]:
    """Groups that have an all-linear run."""
    by_group: dict[Hashable, list[CalibrationRow]] = {}
    for row in rows:
        by_group.setdefault(row.group_key, []).append(row)
    groups = []
    for members in sorted(by_group.values(), key=lambda members: members[0].group):
        by_selection = _by_selection(members)
        names = [runs[0].selection for runs in by_selection]
        if ALL_LINEAR not in names:
            continue
        task = members[0].context["task"]
        aligned = USUALLY_ALIGNED if task in BY_ODDS else _aligned(members)
        groups.append(
            Group(
                members[0].group,
                names,
                np.array([[runs[0].features[trait] for trait in TRAITS] for runs in by_selection]),
                np.array([np.mean([math.log(row.val_loss) for row in runs]) for runs in by_selection]),
                np.array([float(len(runs)) for runs in by_selection]),
                {
                    "log_steps": _log_steps(members[0]),
                    "aligned": aligned,
                    "log_counted": members[0].context["log_start"],
                    **members[0].context,
                    "model": members[0].provenance.get("model", members[0].group),
                },
                members,
            )
        )
    return groups


def _by_selection(rows: Sequence[CalibrationRow]) -> list[list[CalibrationRow]]:
    """The runs of each selection of a group; head-only runs are no selections (they have no LoRA to speak of)."""
    by_key: dict[str, list[CalibrationRow]] = {}
    for row in rows:
        if row.selection != HEAD_ONLY:
            by_key.setdefault(row.selection_key, []).append(row)
    return list(by_key.values())


def each_data_once(names: Sequence[str]) -> Array:
    """[groups] weights by which groups of the same data count as one together, from the name of each group's data."""
    return np.array([1.0 / names.count(name) for name in names])


def _log_steps(row: CalibrationRow) -> float:
    """Log of the optimizer steps of a run; older rows do not say it in their context."""
    rows, recipe = round(math.exp(row.context["log_train_rows"])), row.recipe
    return math.log(int(recipe["epochs"]) * math.ceil(rows / int(recipe["batch_size"])))


def _aligned(rows: Sequence[CalibrationRow]) -> float:
    """How much better the kernel of all modules is aligned than that of the head alone, of older rows, whose context does not say
    it; as usual where no row is of the head alone. (Features are differences to all modules.)"""
    alone = [row for row in rows if row.selection == HEAD_ONLY]
    return -alone[0].features[ALIGNMENT] if alone else USUALLY_ALIGNED


def knows_noise(groups: Sequence[Group]) -> bool:
    """Whether a selection of a group with a clear gain was run twice, so that noise is known as a share of the gain."""
    return any((group.seeds > 1).any() and group_gain(group).is_clear for group in groups)


def seed_sd(group: Group) -> float | None:
    """Standard deviation of log loss between seeds of one selection, pooled over those that were run twice; None if none."""
    variances = [float(np.var(losses, ddof=1)) for losses in _repeated(group)]
    return math.sqrt(float(np.mean(variances))) if variances else None


def repeats(group: Group) -> int:
    """Degrees of freedom of :func:`seed_sd`."""
    return sum(len(losses) - 1 for losses in _repeated(group))


def _repeated(group: Group) -> list[list[float]]:
    """Log losses of each selection that was run more than once."""
    return [[math.log(row.val_loss) for row in runs] for runs in _by_selection(group.rows) if len(runs) > 1]
