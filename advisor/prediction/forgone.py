"""Which share of the gain of all modules a selection forgoes, from the simulation and from what real runs taught beside it.

    forgone(S) = β·φ_S,    φ_S = (x, ℓ, d, t·x, t·ℓ, t·d, c·x, c·ℓ, c·d),

x is the simulated share, bent by :func:`advisor.prediction.gain.curve`; ℓ how much fewer LoRA parameters S has than all modules
(log); d how much deeper they lie on average, as a share of all layers. All are zero for all modules, which forgo nothing. t is
how far the recipe travels, the log of learning rate times steps; c is how much there is to learn, the log of the loss of
guessing, which rises with the number of classes. Both are standardised. The simulation is linear. It ranks runs that do not
travel far for what there is to learn; in those that do, deeper modules win more than it says, and how much was forgone depends
less on it.

β is a ridge regression towards (1, 0, …, 0), the simulation alone. Rows of other data choose how strong it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advisor.core.selections import ALL_LINEAR
from advisor.prediction.gain import curve, simulated_gain
from advisor.prediction.groups import Group, each_data_once
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
    """A fitted regression: ``coef`` β [9]; ``centre`` and ``scale`` [2] of (t, c), and the least and most ``seen`` [2, 2]."""

    coef: Array
    centre: Array
    scale: Array
    seen: Array

    def of(self, traits: Array, context: Mapping[str, Any]) -> Array:
        """[S] shares of selections with these ``TRAITS`` [S, 3]; 1 for no module. Recipes that travel further than any seen
        count as the furthest, and so do tasks with more to learn."""
        nothing = traits[:, 1] <= math.log(HEAD_ONLY_SHARE)
        return np.where(nothing, 1.0, self.features(traits, context) @ self.coef)

    def features(self, traits: Array, context: Mapping[str, Any]) -> Array:
        """φ [S, 9]."""
        simulated = curve(traits[:, 0] / simulated_gain(context))
        plain = np.stack([simulated, -traits[:, 1], traits[:, 2]], axis=1)
        about = (np.clip(circumstances(context), *self.seen) - self.centre) / self.scale
        return np.hstack([plain, *(value * plain for value in about)])


ALONE = Forgone(np.eye(9)[0], np.zeros(2), np.ones(2), np.zeros((2, 2)))  # the simulation alone


def circumstances(context: Mapping[str, Any]) -> Array:
    """[2] logs of learning rate × optimizer steps, and of the loss of guessing."""
    return np.array([float(context["log_lr"]) + float(context["log_steps"]), float(context["log_guess"])])


@dataclass(frozen=True)
class ForgoneFits:
    """The regression that all groups make likely; by data set and by model those of all other groups."""

    of_all: Forgone
    without_data: Mapping[str, Forgone]
    without_model: Mapping[str, Forgone]


def fit_forgone(groups: Sequence[Group]) -> ForgoneFits:
    """The regressions that these groups make likely; the simulation alone where they are of too few data sets."""
    names, models = sorted({group.data for group in groups}), sorted({group.model for group in groups})
    if len(names) < FEWEST_DATA:
        return ForgoneFits(ALONE, dict.fromkeys(names, ALONE), dict.fromkeys(models, ALONE))
    about = np.array([circumstances(group.context) for group in groups])
    spread = about.std(0)
    form = replace(
        ALONE, centre=about.mean(0), scale=np.where(spread > 0, spread, 1.0), seen=np.array([about.min(0), about.max(0)])
    )
    sums = [_Sums.of(form, group) for group in groups]
    grams, moments = np.array([part.gram for part in sums]), np.array([part.moment for part in sums])
    data, model = (np.array([getattr(group, key) for group in groups]) for key in ("data", "model"))

    def fitted(penalty: float, kept: NDArray[np.bool_]) -> Forgone:
        if not kept.any():
            return ALONE
        gram = grams[kept].sum(0) + penalty * np.eye(len(ALONE.coef))
        return replace(form, coef=ALONE.coef + np.linalg.solve(gram, moments[kept].sum(0)))

    def error(penalty: float) -> float:
        """Mean over each data set's groups, predicted from the others, summed over data sets."""
        fits = {name: fitted(penalty, data != name) for name in names}
        errors = [part.error(fits[group.data]) for part, group in zip(sums, groups, strict=True)]
        return float(each_data_once(list(data)) @ errors)

    best = min(PENALTIES, key=error)
    return ForgoneFits(
        fitted(best, np.ones(len(groups), bool)),
        {name: fitted(best, data != name) for name in names},
        {name: fitted(best, model != name) for name in models},
    )


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
    return shares_of(group.log_base, group.log_loss, group.log_loss[group.selections.index(ALL_LINEAR)])


def shares_of(base: float, log_losses: Array, everything: float) -> Array:
    """[S] shares of the gain that log losses forgo, where all modules have ``everything`` and gains are counted from ``base``."""
    gain = max(base - everything, LEAST_GAIN)
    return np.asarray(np.clip((log_losses - everything) / gain, *LIMITS))
