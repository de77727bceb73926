"""Scores of selections: order, the promised JSON, ranks per module, calibration rows from runs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from fakes import candidate, make_probe, make_scorer

from advisor.core.candidate import Candidate
from advisor.core.errors import BadInput
from advisor.core.probe import Probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import HEAD_ONLY, all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.prediction.gain import USUALLY_ALIGNED
from advisor.prediction.learn import rows_from_runs
from advisor.prediction.payload import scores_json
from advisor.prediction.probe_view import probe_context, probe_view, subsample, training_rows
from advisor.prediction.selection_file import parse_selections
from advisor.theory.bounds import certificate
from advisor.theory.features import all_feature_names, feature_table, recipe_loss
from advisor.theory.spectrum import Spectrum, alignment

PROBE = make_probe(layers=2)
NAMES = [t.name for t in PROBE.targets]
SETTINGS = LoraSettings()


def parse(*entries: Any, probe: Probe = PROBE) -> list[Candidate]:
    return parse_selections(list(entries), probe, SETTINGS, "file.json")


def numbers_in(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [n for v in (value.values() if isinstance(value, dict) else value) for n in numbers_in(v)]
    return [value] if isinstance(value, int | float) else []


@pytest.mark.parametrize("task", ["classification", "regression", "causal-lm"])
def test_json_is_exactly_as_promised(task: str) -> None:
    probe = make_probe(task, layers=2)
    scorer = make_scorer(probe)
    names = [t.name for t in probe.targets]
    entries = [
        {"name": "two", "targets": names[3:1:-1]},
        {"name": "none", "targets": []},
        {"name": "all", "targets": names, "rank": 4, "alpha": 32, "rslora": True},
    ]
    shown = scores_json(scorer.score(parse(*entries, probe=probe)), scorer)
    assert shown == json.loads(json.dumps(shown, allow_nan=False))
    assert list(shown) == ["schema", "metric", "higher_is_better", "level", "selections"]
    assert (shown["schema"], shown["higher_is_better"], shown["level"]) == (1, True, 0.9)
    assert shown["metric"] == probe.info["metric"]
    assert [s["name"] for s in shown["selections"]] == ["two", "none", "all"]
    for entry in shown["selections"]:
        assert list(entry) == [
            "name",
            "params",
            "params_with_head",
            "rank",
            "alpha",
            "predicted",
            "relative",
            "vs_all_linear",
            "kernel",
            "bounds",
            "cost",
            "warnings",
        ]
        assert list(entry["predicted"]) == ["loss", "metric"]
        for interval in (*entry["predicted"].values(), entry["relative"], entry["vs_all_linear"]):
            assert list(interval) == ["value", "low", "high"]
            assert interval["low"] <= interval["value"] <= interval["high"]
        for bound in entry["bounds"]:
            assert list(bound) == [
                "id",
                "quantity",
                "added",
                "kernel",
                "head",
                "sigma",
                "low",
                "high",
                "status",
                "reason",
            ]
        heads = [False] if task == "causal-lm" else [True, False]
        wanted = [("C", head) for head in heads]
        wanted += [(id, head) for head in heads for id in ("B", "A", "Weyl", "Thm 6", "Thm 7", "Thm 5")]
        assert [(b["id"], b["head"]) for b in entry["bounds"]] == wanted
        assert all((b["low"] is None) == (b["status"] == "does-not-apply") for b in entry["bounds"])
        assert list(entry["cost"]) == ["memory_bytes", "time_vs_all_linear"]
        assert isinstance(entry["warnings"], list)
    assert all(math.isfinite(n) for n in numbers_in(shown))
    full = shown["selections"][2]
    assert (full["rank"], full["alpha"]) == (4, 32)
    assert full["params"] == sum(t.lora_params(4) for t in probe.targets)
    assert full["params_with_head"] == full["params"] + probe.info["head_parameters"]
    assert full["bounds"][0]["low"] == pytest.approx(1.0)
    assert shown["selections"][1]["params"] == 0


def test_scores_do_not_depend_on_company_or_order() -> None:
    scorer = make_scorer(PROBE)
    candidates = [candidate(PROBE, [0, 1]), candidate(PROBE, [5, 8, 9]), candidate(PROBE, range(12))]
    together = scorer.score(candidates)
    for c, score in zip(candidates, together, strict=True):
        alone = scorer.score([c])[0]
        for name in ("loss", "metric", "relative"):
            assert getattr(alone, name) == pytest.approx(getattr(score, name))
    backwards = scorer.score(candidates[::-1])
    assert [s.loss for s in backwards][::-1] == [pytest.approx(s.loss) for s in together]
    assert len(together) == 3
    assert together[2].relative[0] == pytest.approx(0, abs=1e-9)


def test_rank_alpha_and_scaling_of_a_selection() -> None:
    plain, own = parse(
        {"name": "a", "targets": NAMES[:3]},
        {"name": "b", "targets": NAMES[:3], "rank": 2, "alpha": 3.5, "rslora": True},
    )
    assert plain.settings == SETTINGS
    assert own.settings == LoraSettings(2, 3.5, True)


def test_patterns_reach_parameters_memory_and_features() -> None:
    scorer = make_scorer(PROBE)
    pattern = {NAMES[1]: 32, NAMES[4]: 1}
    base, mixed, louder = parse(
        {"name": "a", "targets": NAMES[:5]},
        {"name": "b", "targets": NAMES[:5], "rank_pattern": pattern},
        {"name": "c", "targets": NAMES[:5], "alpha_pattern": {NAMES[1]: 64}},
    )
    scores = scorer.score([base, mixed, louder])
    ranks = [32 if i == 1 else 1 if i == 4 else 8 for i in range(5)]
    by_hand = sum(t.lora_params(r) for t, r in zip(PROBE.targets[:5], ranks, strict=True))
    assert scores[0].cost.params == sum(t.lora_params(8) for t in PROBE.targets[:5])
    assert scores[1].cost.params == by_hand
    assert scores[1].cost.params_with_head - by_hand == PROBE.info["head_parameters"]
    # weights, gradient and Adam's moments in float32, and A's output, which is rank wide
    extra = 16 * (by_hand - scores[0].cost.params) + 4 * (sum(ranks) - 40) * 32 * 20
    assert scores[1].cost.memory_bytes - scores[0].cost.memory_bytes == pytest.approx(extra, abs=8)
    assert scores[2].cost == scores[0].cost
    assert scores[2].loss[0] != scores[0].loss[0]


def test_a_pattern_over_all_modules_is_the_same_as_a_rank() -> None:
    scorer = make_scorer(PROBE)
    by_pattern, by_rank = parse(
        {"name": "a", "targets": NAMES[:4], "rank_pattern": dict.fromkeys(NAMES[:4], 3)},
        {"name": "b", "targets": NAMES[:4], "rank": 3},
    )
    a, b = scorer.score([by_pattern, by_rank])
    assert a.loss == pytest.approx(b.loss)
    assert a.relative == pytest.approx(b.relative)
    assert (a.cost.params, a.cost.memory_bytes) == (b.cost.params, b.cost.memory_bytes)


GOOD = {"name": "a", "targets": NAMES[:2]}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({**GOOD, "targets": [NAMES[0], "encoder.layer.9.query"]}, "encoder.layer.9.query"),
        ({**GOOD, "targets": [NAMES[0], NAMES[0]]}, "twice"),
        ({**GOOD, "targets": "query"}, "list"),
        ({**GOOD, "targets": None}, "list"),
        ({"targets": NAMES[:2]}, "name"),
        ({"name": "a"}, "targets"),
        ({**GOOD, "name": 3}, "name"),
        ({**GOOD, "dropout": 0.1}, "dropout"),
        ({**GOOD, "rank": 0}, "rank"),
        ({**GOOD, "rank": 2.5}, "rank"),
        ({**GOOD, "rank": "8"}, "rank"),
        ({**GOOD, "rank": True}, "rank"),
        ({**GOOD, "alpha": "16"}, "alpha"),
        ({**GOOD, "alpha": -1}, "alpha"),
        ({**GOOD, "alpha": float("nan")}, "alpha"),
        ({**GOOD, "alpha": float("inf")}, "alpha"),
        ({**GOOD, "rslora": "no"}, "rslora"),
        ({**GOOD, "rank_pattern": {"query": 4}}, "query"),
        ({**GOOD, "rank_pattern": {NAMES[0]: "4"}}, "rank"),
        ({**GOOD, "rank_pattern": [4]}, "rank_pattern"),
        ({**GOOD, "rank_pattern": {NAMES[5]: 4}}, NAMES[5]),
        ({**GOOD, "alpha_pattern": {NAMES[0]: 0}}, "alpha"),
        ({**GOOD, "alpha_pattern": "x"}, "alpha_pattern"),
        ("q,v", "object"),
    ],
)
def test_a_bad_selection_is_named(entry: Any, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse(GOOD, entry)
    assert "file.json, selection 2" in caught.value.what
    assert said in caught.value.what


@pytest.mark.parametrize("content", [{}, [], "x", None, {"name": "a", "targets": []}])
def test_not_a_list_of_selections(content: Any) -> None:
    with pytest.raises(BadInput, match=r"file\.json"):
        parse_selections(content, PROBE, SETTINGS, "file.json")


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_sigma(sigma: float) -> None:
    with pytest.raises(BadInput, match="--sigma"):
        make_scorer(PROBE, sigma=sigma)


def test_certificate_uses_the_asked_kernel_and_sigma() -> None:
    scorer = make_scorer(PROBE, kernel="weight", sigma=0.5)
    chosen = candidate(PROBE, [1, 2])
    mask = np.isin(NAMES, chosen.selection.targets).astype(float)
    found = [bound for bound in scorer.bounds(chosen) if bound.id == "C"]
    for bound, head in zip(found, (True, False), strict=True):
        assert bound == certificate(scorer.kernels, mask, PROBE.z, 0.5, head)
        assert (bound.kernel, bound.sigma) == ("weight", 0.5)
    default = make_scorer(PROBE)
    assert default.sigma == pytest.approx(1e-2 * np.trace(default.kernels.blocks.sum(0)) / PROBE.samples)


@pytest.mark.parametrize("settings", [SETTINGS, LoraSettings(4)])
def test_certificate_from_a_spectrum_is_the_certificate(settings: LoraSettings) -> None:
    scorer = make_scorer(PROBE)
    chosen = Candidate(candidate(PROBE, [1, 2]).selection, settings)
    weights = scorer.block_weights([chosen], scorer.kernels.kind)
    found = scorer.certificate(weights[0], Spectrum.of(scorer.kernels.of(weights)[0]))
    expected = certificate(scorer.kernels, weights[0], PROBE.z, scorer.sigma)
    assert found.low == pytest.approx(expected.low, rel=1e-5)
    assert replace(found, low=None) == replace(expected, low=None)


def test_subsample_is_what_a_smaller_probe_would_hold() -> None:
    keep = np.array([0, 3, 4, 11, 20, 21, 22, 30, 33, 39])
    smaller = subsample(PROBE, keep)
    assert smaller.samples == 10
    for m in range(len(NAMES)):
        np.testing.assert_array_equal(smaller.weight_blocks[m], PROBE.weight_blocks[m][np.ix_(keep, keep)])
    assert smaller.head is not None
    assert PROBE.head is not None
    np.testing.assert_array_equal(smaller.head.weight, PROBE.head.weight[np.ix_(keep, keep)])
    for name in ("y", "z", "f0", "labels", "folds", "losses"):
        np.testing.assert_array_equal(getattr(smaller, name), getattr(PROBE, name)[keep])
    everything = subsample(PROBE, np.arange(PROBE.samples))
    a, b = (make_scorer(p).score([candidate(PROBE, [0, 5])])[0] for p in (everything, PROBE))
    assert a.loss == pytest.approx(b.loss)
    assert math.isfinite(make_scorer(smaller).score([candidate(PROBE, [0, 5])])[0].loss[0])


def test_training_rows_are_those_there_are() -> None:
    assert training_rows(PROBE, TrainingRecipe()) == 400
    assert training_rows(PROBE, TrainingRecipe(train_rows=100)) == 100
    assert training_rows(PROBE, TrainingRecipe(train_rows=4000)) == 400


def run_of(selection: Selection, settings: LoraSettings, recipe: TrainingRecipe, seed: int = 0) -> dict[str, Any]:
    params = selection.params(PROBE.targets, settings.rank)
    return {
        "selection": asdict(selection),
        "settings": asdict(settings),
        "recipe": recipe.as_dict(),
        "seed": seed,
        "result": {"train_loss": 0.2, "val_loss": 0.4, "metric": 0.8, "lora_params": params},
        "provenance": {
            "model_fingerprint": "model",
            "data_fingerprint": "data",
            "model": "fake/bert",
            "data": "fake.jsonl",
            "train_rows": 400,
            "metric": "accuracy",
            "task": "classification",
        },
    }


def test_rows_from_runs_hold_the_features_that_predictions_are_made_from() -> None:
    recipe = TrainingRecipe(train_rows=200, lr=5e-4)
    scorer = make_scorer(PROBE, recipe=recipe)
    chosen = candidate(PROBE, [0, 4, 9]).selection
    lower = LoraSettings(4, 16)
    runs = [
        run_of(chosen, SETTINGS, recipe),
        run_of(all_linear(PROBE.targets), SETTINGS, recipe, 1),
        run_of(Selection(HEAD_ONLY, ()), SETTINGS, recipe),
        run_of(chosen, lower, recipe),
    ]
    rows = rows_from_runs(runs, PROBE)
    table = feature_table(scorer.view, scorer.weights([Candidate(chosen, SETTINGS)]), all_feature_names())[0]
    np.testing.assert_allclose([rows[0].features[n] for n in all_feature_names()], table, atol=1e-5)
    assert rows[0].context == pytest.approx(scorer.context)
    assert set(rows[1].features) == set(all_feature_names())
    np.testing.assert_allclose(list(rows[1].features.values()), 0, atol=1e-6)
    assert rows[2].features["params"] < rows[0].features["params"]
    view = probe_view(PROBE, lower, recipe)
    assert rows[3].context == pytest.approx(probe_context(PROBE, view, lower, recipe))
    assert (rows[1].seed, rows[0].val_loss, rows[0].score, rows[0].metric) == (1, 0.4, 0.8, "accuracy")
    usual = "fake/bert on fake.jsonl, 400 rows, lr 0.0005"
    assert [row.group for row in rows] == [usual] * 3 + [usual + ", rank 4, alpha 16"]
    assert [row.provenance for row in rows] == [run["provenance"] for run in runs]
    assert [len(row.mask) for row in rows] == [len(NAMES)] * 4
    assert [i for i, c in enumerate(rows[0].mask) if c == "1"] == [0, 4, 9]


def test_rows_say_the_dtype_and_the_seed_of_the_data_as_the_probe_does() -> None:
    identity = {**PROBE.info["identity"], "dtype": "bfloat16"}
    run = run_of(Selection("a", ()), SETTINGS, TrainingRecipe())
    (row,) = rows_from_runs([run], replace(PROBE, info={**PROBE.info, "identity": identity, "source": {"seed": 5}}))
    assert row.provenance == {**run["provenance"], "dtype": "bfloat16", "source_seed": 5}


@pytest.mark.parametrize(
    ("task", "recipe", "settings", "said"),
    [
        ("classification", {}, {}, ""),
        ("causal-lm", {"epochs": 3, "lr": 2e-4, "batch_size": 16}, {}, ""),
        ("causal-lm", {}, {}, ", lr 0.001, epochs 6, batch 32"),
        ("regression", {"epochs": 2}, {"rslora": True}, ", epochs 2, rank 8, alpha 16, rslora"),
        ("classification", {"train_rows": 7}, {"alpha": 2.5}, ", rank 8, alpha 2.5"),
    ],
)
def test_groups_are_named_by_what_differs_from_the_defaults(
    task: str, recipe: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    run = run_of(Selection("a", ()), LoraSettings(**settings), TrainingRecipe(**recipe))
    run["provenance"]["task"] = task
    (row,) = rows_from_runs([run], PROBE)
    assert row.group == "fake/bert on fake.jsonl, 400 rows" + said


@pytest.mark.parametrize("task", ["classification", "regression", "causal-lm"])
def test_context_of_a_probe(task: str) -> None:
    """Both ends of the simulated recipe, and guessing by the shares of the probe's classes."""
    probe = make_probe(task, layers=2)
    recipe = TrainingRecipe(train_rows=100)
    view = probe_view(probe, SETTINGS, recipe)
    context = probe_context(probe, view, SETTINGS, recipe)
    nothing, everything = recipe_loss(view, np.array([[0.0] * 12, [1.0] * 12]))
    wanted = {"log_start": nothing, "log_simulated": everything, "log_train_rows": 100, "log_lr": 1e-3, "log_rank": 8}
    assert {key: math.exp(context[key]) for key in wanted} == pytest.approx(wanted)
    assert context["chance"] == (0.5 if task == "classification" else 0.0)
    assert context["log_guess"] == pytest.approx(math.log(math.log(2)) if task == "classification" else 0.0)
    kernels = view.kernels["adam"].of(np.array([[0.0] * 12, [1.0] * 12]))
    head, both = (alignment(kernel, probe.y) for kernel in kernels)
    assert context["aligned"] == pytest.approx(USUALLY_ALIGNED if task == "causal-lm" else both - head)
    assert context["log_counted"] == context["log_start"]  # this probe does not say it
    counted = probe_context(replace(probe, info={**probe.info, "counted_loss": 0.4}), view, SETTINGS, recipe)
    assert counted["log_counted"] == pytest.approx(math.log(0.4))
    if task == "classification":
        assert both > head
        probe = replace(probe, labels=np.where(np.arange(40) < 10, 1, 0))
        assert probe_context(probe, view, SETTINGS, recipe)["chance"] == 0.75


def test_head_only_is_predicted_at_the_simulated_start() -> None:
    scorer = make_scorer(PROBE)
    found = scorer.predict([candidate(PROBE, []), candidate(PROBE, range(12))])
    assert math.log(found.loss.value[0]) == pytest.approx(scorer.context["log_start"])
    assert found.deviation[1] == pytest.approx(0, abs=1e-12)


def test_runs_of_another_model_are_refused() -> None:
    other = replace(PROBE, info={**PROBE.info, "identity": {"model_fingerprint": "another", "data_fingerprint": "data"}})
    with pytest.raises(BadInput, match="The model of the runs is not"):
        rows_from_runs([run_of(Selection("a", ()), SETTINGS, TrainingRecipe())], other)


@pytest.mark.parametrize("bad", [{"lr": float("inf")}, {"lr": float("nan")}, {"lr": 0}, {"epochs": 0}, {"batch_size": -1}])
def test_recipes_are_positive_and_finite(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="must be positive"):
        TrainingRecipe(**bad)  # type: ignore[arg-type]
