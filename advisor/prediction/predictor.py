"""From the simulated recipe to the result of a real LoRA run, with intervals (docs/design.md 3).

Fitted when loaded, from plain rows.

A model a person can read, of a selection S in one group (a model on a task with one recipe):

    log loss(S) = H − G·(1 − r_S) + misfit + noise

H is the log loss of training no module, simulated (real runs agree within a few per cent) or measured, or where a class is rare
what guessing comes to (:func:`advisor.prediction.gain.log_base`); r_S is the share of the gain of all-linear that S
forgoes (:mod:`advisor.prediction.forgone`), and G that gain, around what a small regression over groups expects
(:mod:`advisor.prediction.gain_level`). Where G is larger than expected, r_S is larger too
(:func:`advisor.prediction.scatter.tilt_of`).
Misfit and noise between seeds are shares of G. Each of these is learned over groups, because a new group is what a new user
is. A second model maps loss to the metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from advisor.core.choices import LEVEL
from advisor.core.errors import BadInput
from advisor.core.recipe import HEADLESS
from advisor.core.selections import ALL_LINEAR
from advisor.prediction import pilot_level
from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.context import SIGNED_METRICS
from advisor.prediction.forgone import LEAST_GAIN, fit_forgone
from advisor.prediction.gain import log_base, trust
from advisor.prediction.gain_level import fit_gain_level
from advisor.prediction.groups import Group, group_gain, grouped, knows_noise, start_error
from advisor.prediction.likeness import error_correlations
from advisor.prediction.metric_model import design_row, fit_metric
from advisor.prediction.posterior import Prior, update
from advisor.prediction.predictions import Estimate, Predictions
from advisor.prediction.scatter import (
    SCATTER_POWER,
    Spread,
    common_misfit,
    misfit_of,
    noise_between_seeds,
    quietness_of,
    scatter_given_gain,
    tilt_of,
)

Array = NDArray[np.float64]
METRIC_ERROR = 0.03  # standard deviation of a metric on a few hundred evaluation rows: binomial, 277 rows at 0.5
NEW_KIND_FACTOR = 4.0  # by which a loss may be off, either way, where no row is of the task, or none read what the model reads
FAR_FACTOR = 2.0  # how much intervals widen where no row is of the same kind of task, or of nearly such a recipe
FEWEST_DATA = 5  # data sets with such a head: two of the three that were run surprised, each predicted from the others
FAR_RECIPE = 4.0  # times the rows, the rate or the rank of any run
HIGH_RATE = 1.5  # times their highest rate: beyond, real runs of all modules learned nothing


@dataclass
class Predictor:
    """Fit with :meth:`fit`; learned attributes end in an underscore.

    Attributes:
        forgone_: which share of the gain a selection forgoes. gain_level_: what is expected of log G.
        tilt_: by how much shares rise with log G. misfit_: standard deviation of a selection's log loss around what is predicted
            of it; noise_: between seeds, in a usual group; both as shares of G. common_: share of the misfit's variance that all
            selections of a group have in common. new_misfit_, new_common_: of a model that no run was of.
        quietness_: power of the trust in a gain that misfit and noise fall with.
        start_sd_: standard deviation of log H, real around simulated.
    """

    groups_: list[Group] = field(default_factory=list)

    def fit(self, rows: Sequence[CalibrationRow], task: str) -> Predictor:
        """Learn all parts for targets of ``task``.

        Tasks without a new head (language models) are fitted apart from those with one, because their gains spread over another
        scale; where the rows hold fewer than two groups of the target's kind, or none of them has both a clear gain and a
        second seed, all rows are used and predictions widen.

        Raises:
            BadInput: fewer than two groups with an all-linear run, none with a clear gain, or none of these with a second
            seed.
        """
        everything = grouped(rows)
        alike = [g for g in everything if (g.context["task"] in HEADLESS) == (task in HEADLESS)]
        self.borrowed_ = len(alike) < 2 or not knows_noise(alike)
        self.groups_ = everything if self.borrowed_ else alike
        if len(self.groups_) < 2:
            raise BadInput(
                f"The calibration rows hold {len(self.groups_)} usable model-and-task group(s), two are needed.",
                "Run `advisor calibrate` on another task.",
            )
        taught = [] if self.borrowed_ else [g for g in self.groups_ if group_gain(g).is_clear]
        fits = fit_forgone(taught)
        self.forgone_ = fits.of_all
        forgone = [fits.without_data.get(g.data, fits.of_all).of(g.traits, g.context) for g in self.groups_]  # as of unseen data
        gains = [group_gain(g, shares) for g, shares in zip(self.groups_, forgone, strict=True)]
        self.gain_level_ = fit_gain_level(self.groups_, gains)
        clear = [(g, gain) for g, gain in zip(self.groups_, gains, strict=True) if gain.is_clear]
        if not clear:
            raise BadInput("In no calibration group do selections differ clearly.", "Calibrate with a higher --lr.")
        noise = noise_between_seeds(*zip(*clear, strict=True))
        if noise is None:
            raise BadInput("No calibration row was run with a second seed: noise is unknown.", "Calibrate with --seeds 2.")
        self.noise_ = noise
        shares = [s for s, gain in zip(forgone, gains, strict=True) if gain.is_clear]
        surprises = [self._surprise(g) for g, _ in clear]
        self.tilt_ = tilt_of([g for g, _ in clear], shares, surprises)
        tilted = [self.tilt_ * x * np.sqrt(g.apart) for x, (g, _) in zip(surprises, clear, strict=True)]
        of_new = [fits.without_model.get(g.model, fits.of_all).of(g.traits, g.context) for g, _ in clear]  # as of an unseen model

        def missed(shares: Sequence[Array]) -> tuple[float, float]:
            shares = [s + more for s, more in zip(shares, tilted, strict=True)]
            misfit = misfit_of([g for g, _ in clear], shares, noise)
            return misfit, common_misfit([g for g, _ in clear], shares, noise, misfit)

        self.misfit_, self.common_ = missed(shares)
        self.new_misfit_, self.new_common_ = max(missed(of_new), (self.misfit_, self.common_))  # by the misfit
        expected = [self.gain_level_.of(g.context)[0] for g in self.groups_]
        self.quietness_ = quietness_of(self.groups_, forgone, expected, Spread(self.misfit_, self.noise_))
        starts = [e for e in map(start_error, self.groups_) if e is not None]
        self.start_sd_ = math.sqrt(float(np.mean(np.square(starts)))) if starts else 0.1
        self.score_coef_, self.score_sd_ = fit_metric(self.groups_)
        self.tasks_ = {str(g.context["task"]) for g in self.groups_}
        return self

    def predict(self, traits: Array, context: Mapping[str, Any], distances: Array) -> Predictions:
        """Predict S selections of one probe.

        Args:
            traits: [S, 3] the features ``TRAITS``, differences to all-linear. context: see :func:`context_of`.
            distances: [S + 1, S + 1] share of parameters in which two selections differ, all-linear last
                (:func:`advisor.prediction.likeness.parameter_distances`).
        """
        far = self._far(context)
        widen = FAR_FACTOR if far else 1.0
        quantile = float(ndtri(0.5 + LEVEL / 2))
        forgone = self.forgone_.of(traits, context)
        tilt = self._tilt(forgone, distances)
        typical, misfit, common, noise = self._typical(context)
        log_gain_sd = widen * self._log_gain_sd(context)
        deviation = typical * forgone
        covariance = (widen * typical * misfit) ** 2 * error_correlations(distances, common)
        spread = np.sqrt(2 * np.clip(covariance[-1, -1] - covariance[-1, :-1], 0, None))
        seed_sd = typical * noise
        low, high = deviation - quantile * spread, deviation + quantile * spread
        relative = Estimate(*((1 - _exp(d)) / seed_sd for d in (deviation, high, low)))
        base = np.where(forgone == 1.0, context["log_start"], log_base(context))  # 1: no module, so the head alone
        log_loss = base - typical * (1 - forgone)
        around = quantile * math.hypot(typical * math.hypot(misfit, noise), self.start_sd_) * widen
        less, more = (math.exp(x) * (1 - forgone - tilt * x) for x in (-quantile * log_gain_sd, quantile * log_gain_sd))
        above = np.hypot(typical * (1 - forgone - less), around)
        below = np.hypot(typical * (more - (1 - forgone)), around)
        new = bool(self._new_kinds(context))
        if new:
            above, below = (np.maximum(side, math.log(NEW_KIND_FACTOR)) for side in (above, below))
        loss = Estimate(_exp(log_loss), _exp(log_loss - below), _exp(log_loss + above))
        score = self._score(log_loss, above, below, quantile, context)
        if new:
            score = Estimate(score.value, np.full(len(log_loss), _least(context)), np.ones(len(log_loss)))
        return Predictions(
            loss, score, relative, deviation, covariance[:-1, :-1], seed_sd, tuple(far), spread, log_gain_sd, typical * tilt
        )

    def given(
        self,
        traits: Array,
        context: Mapping[str, Any],
        distances: Array,
        observed: Sequence[int],
        losses: Sequence[float],
        measured: Array | None = None,
        level: float | None = None,
    ) -> Predictions:
        """Predict as :meth:`predict` does, after real runs of some of the S selections, see :mod:`advisor.prediction.posterior`.

        Deviation and covariance are those of the forgone shares times the gain's geometric mean: which of two selections
        is better does not depend on the gain.

        Args:
            observed: index of the selection of each run. losses: their validation losses.
            measured: [S + 1] share of the gain that each forgoes as a pilot run measured it, on the scale of the predicted ones
                (:func:`advisor.prediction.pilot_level.on_scale_of`), all-linear last; NaN where none did. It and the predicted
                share count alike.
            level: of a language model, what random sets lost in a pilot run (:func:`advisor.prediction.pilot_level.level_of`).
        """
        far = self._far(context)
        widen = FAR_FACTOR if far else 1.0
        quantile = float(ndtri(0.5 + LEVEL / 2))
        typical, misfit, common, noise = self._typical(context)
        forgone = np.append(self.forgone_.of(traits, context), 0.0)
        if measured is not None:
            forgone = np.where(np.isnan(measured), forgone, (forgone + np.nan_to_num(measured)) / 2)
        if level is not None:
            forgone = np.where(forgone == 1.0, 1.0, forgone + pilot_level.shift(level) * np.sqrt(distances[-1]))
            misfit, common = pilot_level.narrowed(misfit, common)
        covariance = (widen * misfit) ** 2 * error_correlations(distances, common)
        unknown = math.log(NEW_KIND_FACTOR) / quantile if self._new_kinds(context) else 0.0  # then the runs say the level
        prior = Prior(
            start=log_base(context),
            start_sd=max(widen * self.start_sd_, unknown),
            gain=typical,
            log_gain_sd=widen * self._log_gain_sd(context),
            forgone=forgone,
            covariance=covariance,
            noise=widen * noise,
            tilt=np.append(self._tilt(forgone[:-1], distances), 0.0),
        )
        log_losses = [math.log(loss) for loss in losses]
        found = update(prior, observed, log_losses)
        if observed and not unknown:  # a level that nothing was known of is no surprise
            power = 1.0 if self.gain_level_.headless else SCATTER_POWER
            scale = scatter_given_gain(math.log(found.gain / prior.gain), prior.log_gain_sd, found.log_gain_sd, power)
            noise *= math.sqrt(scale)
            found = update(replace(prior, covariance=scale * prior.covariance, noise=widen * noise), observed, log_losses)
        deviation = found.gain * (found.forgone - found.forgone[-1])[:-1]
        covariance = found.gain**2 * found.covariance
        own = np.diag(covariance)
        spread = np.sqrt(np.clip(own + own[-1] - 2 * covariance[-1], 0, None))[:-1]
        seed_sd = found.gain * noise
        low, high = deviation - quantile * spread, deviation + quantile * spread
        relative = Estimate(*((1 - _exp(d)) / seed_sd for d in (deviation, high, low)))
        value, least, most = (found.quantile(level)[:-1] for level in (0.5, 0.5 - LEVEL / 2, 0.5 + LEVEL / 2))
        score = self._score(value, most - value, value - least, quantile, context)
        loss = Estimate(_exp(value), _exp(least), _exp(most))
        sd, tilt = found.log_gain_sd, found.gain * (found.tilt - found.tilt[-1])[:-1]
        return Predictions(loss, score, relative, deviation, covariance[:-1, :-1], seed_sd, tuple(far), spread, sd, tilt)

    def _typical(self, context: Mapping[str, Any]) -> tuple[float, float, float, float]:
        """Median of G; the misfit as a share of it, and what selections have in common of its variance; noise as a share of G. At
        little trust misfit and noise are not as small in log loss as the gain."""
        known = self.gain_level_.knows(context)
        misfit, common = (self.misfit_, self.common_) if known else (self.new_misfit_, self.new_common_)
        spread = Spread(misfit, self.noise_).at(trust(context), self.quietness_)
        return math.exp(self.gain_level_.of(context)[0]), spread.misfit, common, spread.noise

    def _tilt(self, forgone: Array, distances: Array) -> Array:
        """[S] by how much each share rises with log G; 0 of no module, which forgoes all."""
        return np.where(forgone == 1.0, 0.0, self.tilt_ * np.sqrt(distances[-1, :-1]))

    def _surprise(self, group: Group) -> float:
        """Log of what all modules won in a group over what is expected of it."""
        everything = group.log_loss[group.selections.index(ALL_LINEAR)]
        return self.gain_level_.surprise(group.context, max(group.log_base - everything, LEAST_GAIN))

    def _log_gain_sd(self, context: Mapping[str, Any]) -> float:
        return self.gain_level_.of(context)[1]

    def _score(self, log_loss: Array, above: Array, below: Array, quantile: float, context: Mapping[str, Any]) -> Estimate:
        design = np.array([design_row(x, context) for x in log_loss])
        centre, slope = design @ self.score_coef_, self.score_coef_[0]
        own = quantile * self.score_sd_
        chance = float(context["chance"])
        ends = (centre, centre - np.hypot(slope * above, own), centre + np.hypot(slope * below, own))
        missing = (np.minimum(1.0, _exp(-end)) for end in ends)  # at worst guessing
        value, low, high = (1 - (1 - chance) * share for share in missing)
        error, least = quantile * METRIC_ERROR, _least(context)
        low, high = value - np.hypot(value - low, error), value + np.hypot(high - value, error)
        return Estimate(value, np.maximum(low, least), np.minimum(high, 1.0))

    def _new_kinds(self, context: Mapping[str, Any]) -> list[str]:
        """What no calibration run used here was of: the task, or what the model reads. Then the level is not known."""
        reasons = []
        if context["task"] not in self.tasks_:
            reasons.append(f"no calibration run used here was {_a_task(context)}")
        if (reads := context.get("reads", "text")) not in {g.context.get("reads", "text") for g in self.groups_}:
            reasons.append(f"no calibration run used here read {reads}")
        return reasons

    def _far(self, context: Mapping[str, Any]) -> list[str]:
        reasons = self._new_kinds(context)
        if context["task"] in self.tasks_ and self.borrowed_:
            reasons.append(f"too few calibration runs were of {_a_task(context)}")
        layers = context.get("head_layers", 1)
        if layers > 1 and len({g.data for g in self.groups_ if g.context.get("head_layers", 1) >= layers}) < FEWEST_DATA:
            reasons.append("its head has layers before the last one, which calibration runs of few data sets had")
        for name, label in (("log_train_rows", "training rows"), ("log_lr", "learning rate"), ("log_rank", "rank")):
            values = [g.context[name] for g in self.groups_]
            outside = max(min(values) - context[name], context[name] - max(values))
            value = math.exp(context[name])
            if outside > math.log(FAR_RECIPE):
                said = f"{value:.3g}" if name == "log_lr" else f"{value:,.0f}"
                reasons.append(f"{label} {said} is over 4 times outside all calibration runs")
            elif name == "log_lr" and context[name] > max(values) + math.log(HIGH_RATE):
                reasons.append(
                    f"learning rate {value:.3g} is above those of all calibration runs, where all modules may "
                    "learn nothing and a small set still does"
                )
        return reasons


def _a_task(context: Mapping[str, Any]) -> str:
    return f"{'an' if context['task'][0] in 'aeiou' else 'a'} {context['task']} task"


def _least(context: Mapping[str, Any]) -> float:
    """The metric's lowest value."""
    return -1.0 if context["metric"] in SIGNED_METRICS else 0.0


def _exp(values: Array) -> Array:
    """e to the values, finite also where a run diverged."""
    return np.asarray(np.exp(np.clip(values, -300.0, 300.0)))
