"""Which share of the gain of all modules a selection forgoes, from the simulation and from what real runs taught beside it.

    forgone(S) = β·φ_S,    φ_S = (x, ℓ, d, t·x, t·ℓ, t·d),

x is the simulated share, bent by :func:`advisor.prediction.gain.curve`; ℓ how much fewer LoRA parameters S has than all modules
(log); d how much deeper they lie on average, as a share of all layers; t how far the recipe travels: the log of learning rate
times steps, standardised. All are zero for all modules, which forgo nothing. The simulation is linear. It ranks runs that do not
travel far; in those that do, deeper modules win more than it says, and how much was forgone depends less on it.

β is a ridge regression towards (1, 0, 0, 0, 0, 0), the simulation alone. Rows of other data choose how strong it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.selections import ALL_LINEAR
from advisor.prediction.gain import curve, log_base, simulated_gain
from advisor.prediction.groups import Group
from advisor.theory.features import HEAD_ONLY_SHARE

Array = NDArray[np.float64]
FEWEST_DATA = 3  # data sets; with fewer nothing is learned
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 1e6)
SHARED_ERROR, ALIKE_SIZE = 0.8, 0.3  # share of the error that selections of one size have in common; log of sizes that are alike
MOST = 20.0  # selections of a group that count in full
LEAST_GAIN = 0.05  # log loss: shares of a smaller gain count as of this
LIMITS = (-1.0, 2.0)  # of a real share


@dataclass(frozen=True)
class Forgone:
    """A fitted regression: ``coef`` β [6]; ``centre`` and ``scale`` of the travel, and the ``travels`` it has seen."""

    coef: Array
    centre: float
    scale: float
    travels: tuple[float, float]

    def of(self, traits: Array, context: Mapping[str, Any]) -> Array:
        """[S] shares of selections with these ``TRAITS`` [S, 3]; 1 for no module. Recipes that travel further than any seen
        count as the furthest."""
        nothing = traits[:, 1] <= math.log(HEAD_ONLY_SHARE)
        return np.where(nothing, 1.0, self.features(traits, context) @ self.coef)

    def features(self, traits: Array, context: Mapping[str, Any]) -> Array:
        """φ [S, 6]."""
        simulated = curve(traits[:, 0] / simulated_gain(context))
        plain = np.stack([simulated, -traits[:, 1], traits[:, 2]], axis=1)
        travel = (float(np.clip(log_travel(context), *self.travels)) - self.centre) / self.scale
        return np.hstack([plain, travel * plain])


ALONE = Forgone(np.eye(6)[0], 0.0, 1.0, (0.0, 0.0))  # the simulation alone


def log_travel(context: Mapping[str, Any]) -> float:
    """Log of learning rate × optimizer steps."""
    return float(context["log_lr"]) + float(context["log_steps"])


def fit_forgone(groups: Sequence[Group]) -> tuple[Forgone, dict[str, Forgone]]:
    """The regression that these groups make likely, and by data set the one of all other data sets; the simulation alone where
    they are too few."""
    names = sorted({group.data for group in groups})
    if len(names) < FEWEST_DATA:
        return ALONE, dict.fromkeys(names, ALONE)
    travels = np.array([log_travel(group.context) for group in groups])
    form = replace(ALONE, centre=float(travels.mean()), scale=float(travels.std()) or 1.0, travels=(travels.min(), travels.max()))
    sums = {name: [_Sums.of(form, group) for group in groups if group.data == name] for name in names}

    def fitted(penalty: float, without: str = "") -> Forgone:
        parts = [part for name in names if name != without for part in sums[name]]
        gram = sum(part.gram for part in parts) + penalty * np.eye(len(ALONE.coef))
        return replace(form, coef=ALONE.coef + np.linalg.solve(gram, sum(part.moment for part in parts)))

    def error(penalty: float) -> float:
        """Mean over each data set's groups, predicted from the others, summed over data sets."""
        return sum(float(np.mean([part.error(fitted(penalty, name)) for part in sums[name]])) for name in names)

    best = min(PENALTIES, key=error)
    return fitted(best), {name: fitted(best, name) for name in names}


@dataclass(frozen=True)
class _Sums:
    """XᵀX, Xᵀr and rᵀr of a group's features X and of r, what the simulation alone leaves of its real shares.

    Errors of selections of like size are not independent, so both are whitened. A group of many selections counts for no more
    than ``MOST``.
    """

    gram: Array
    moment: Array
    square: float

    @classmethod
    def of(cls, form: Forgone, group: Group) -> _Sums:
        size = group.traits[:, 1]
        alike = np.exp(-0.5 * ((size[:, None] - size) / ALIKE_SIZE) ** 2)
        covariance = SHARED_ERROR * alike + (1 - SHARED_ERROR) * np.eye(len(size))
        features = form.features(group.traits, group.context)
        both = np.column_stack([features, real_shares(group) - features @ ALONE.coef])
        solved = np.linalg.solve(np.linalg.cholesky(covariance), both) * min(1.0, MOST / len(size)) ** 0.5
        x, r = solved[:, :-1], solved[:, -1]
        return cls(x.T @ x, x.T @ r, float(r @ r))

    def error(self, fit: Forgone) -> float:
        """Sum of the squared whitened errors of a fit."""
        more = fit.coef - ALONE.coef
        return self.square - 2 * float(more @ self.moment) + float(more @ self.gram @ more)


def real_shares(group: Group) -> Array:
    """[S] share of the gain that each selection of a group really forwent."""
    return shares_of(group.context, group.log_loss, group.log_loss[group.selections.index(ALL_LINEAR)])


def shares_of(context: Mapping[str, Any], log_losses: Array, everything: float) -> Array:
    """[S] shares of the gain that log losses forgo, where all modules have ``everything``."""
    gain = max(log_base(context) - everything, LEAST_GAIN)
    return np.asarray(np.clip((log_losses - everything) / gain, *LIMITS))
