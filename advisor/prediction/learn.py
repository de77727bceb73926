"""Calibration rows from finished runs and the probe of their model and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advisor.core.errors import BadInput
from advisor.core.probe import Probe
from advisor.core.recipe import TrainingRecipe, default_recipe
from advisor.core.targets import LoraSettings
from advisor.prediction.calibration_rows import CalibrationRow
from advisor.prediction.probe_view import FEATURE_KERNELS, probe_context, probe_view
from advisor.theory.features import ProbeView, Weights, all_feature_names, feature_table


def _group_name(provenance: Mapping[str, Any], recipe: TrainingRecipe, settings: LoraSettings) -> str:
    """Model, data and rows; what else differs from the defaults, since selections are only compared at one recipe."""
    name = f"{provenance['model']} on {provenance['data']}, {provenance['train_rows']} rows"
    usual = default_recipe(provenance["task"])
    for field_name, label in (("lr", "lr"), ("epochs", "epochs"), ("batch_size", "batch")):
        if getattr(recipe, field_name) != getattr(usual, field_name):
            name += f", {label} {getattr(recipe, field_name):g}"
    if settings != LoraSettings():
        name += f", rank {settings.rank}, alpha {settings.alpha:g}" + (", rslora" if settings.rslora else "")
    return name


def rows_from_runs(runs: Sequence[Mapping[str, Any]], probe: Probe) -> list[CalibrationRow]:
    """Calibration rows: each run of :mod:`advisor.training.runs` beside its selection's features on ``probe``.

    A run with ranks of single modules becomes none, nor one whose validation loss is 0, of which there is no logarithm.

    Raises:
        BadInput: a run is of another model or other data than the probe.
    """
    rows = []
    runs = [run for run in runs if "ranks" not in run and run["result"]["val_loss"] > 0]
    identity = probe.info["identity"]
    said = {"dtype": identity.get("dtype"), "source_seed": probe.info.get("source", {}).get("seed")}
    beside = {key: value for key, value in said.items() if value is not None}  # runs do not say these, and all of a folder agree
    everything = np.array([t.lora_params(1) for t in probe.targets], dtype=np.float64)
    views: dict[tuple[LoraSettings, TrainingRecipe], ProbeView] = {}
    for run in runs:
        provenance, settings = {**run["provenance"], **beside}, LoraSettings(**run["settings"])
        for what in ("model", "data"):
            if provenance[f"{what}_fingerprint"] != identity[f"{what}_fingerprint"]:
                raise BadInput(f"The {what} of the runs is not the {what} of the probe.", "Use another --out folder.")
        recipe = TrainingRecipe(**run["recipe"])
        if (settings, recipe) not in views:
            views[settings, recipe] = probe_view(probe, settings, recipe)
        view = views[settings, recipe]
        mask = np.array([[float(t.name in set(run["selection"]["targets"])) for t in probe.targets]])
        weights = Weights(mask * everything * settings.rank, {kind: mask for kind in FEATURE_KERNELS})
        names = all_feature_names()
        features = feature_table(view, weights, names)[0]
        result = run["result"]
        rows.append(
            CalibrationRow(
                group=_group_name(provenance, recipe, settings),
                selection=run["selection"]["name"],
                params=result["lora_params"],
                seed=run["seed"],
                features=dict(zip(names, (round(float(f), 6) for f in features), strict=True)),
                context=probe_context(probe, view, settings, recipe),
                recipe=run["recipe"],
                settings=run["settings"],
                train_loss=result["train_loss"],
                val_loss=result["val_loss"],
                metric=provenance["metric"],
                score=result["metric"],
                provenance=provenance,
                mask="".join("1" if adapted else "0" for adapted in mask[0]),
            )
        )
    return rows
