"""Real runs that confirm: which are made and when it is enough, what is said, written and resumed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from fakes import candidate, make_probe, make_scorer
from rich.console import Console
from scipy.stats import norm

from advisor.advice import recommend as recommend_module
from advisor.advice.budget import parse_budget
from advisor.advice.confirm import Confirmation, baseline_of, chances, confirm, decide, short_recipe
from advisor.advice.recommend import Recommendation, recommend, reconsider
from advisor.core.candidate import Candidate, RealRun
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.prediction.gain import TRAITS
from advisor.prediction.payload import plain
from advisor.prediction.predictions import Estimate, Predictions
from advisor.prediction.scorer import Scorer
from advisor.report.confirmation import CAVEAT, confirm_entry, confirm_table, confirmed
from advisor.report.verdict import answer
from advisor.report.words import duration
from advisor.theory.features import feature_table

Array = np.ndarray
pytestmark = pytest.mark.usefixtures("own_folders")


# --- which runs, and when it is enough --------------------------------------------------------------------------------

NONE = Estimate(*(np.zeros(5),) * 3)


def scripted(deviation: Sequence[float], sd: Sequence[float], seed_sd: float = 0.01) -> Predictions:
    return Predictions(NONE, NONE, NONE, np.array(deviation), np.diag(np.square(sd)), seed_sd, ())


def test_chances_are_those_of_the_gaussian() -> None:
    covariance = np.array([[1, 0, 0], [0, 0.04, 0.03], [0, 0.03, 0.04]])
    p = Predictions(NONE, NONE, NONE, np.array([9.0, 0.0, 0.1]), covariance, 0.02, ())
    best, sure = chances(p, [1, 2], 2)
    difference = norm(0.1, math.sqrt(0.02))
    assert best == pytest.approx([1 - difference.cdf(0), difference.cdf(0)], abs=0.02)
    assert sure == pytest.approx(difference.cdf(0.04), abs=0.02)
    assert chances(p, [1, 2], 2)[1] == sure
    assert best.sum() == pytest.approx(1)


def test_settled_after_the_first_two_stops() -> None:
    batches: list[list[int]] = []

    def run(chosen: Sequence[int]) -> list[bool]:
        batches.append(list(chosen))
        return [True] * len(chosen)

    sure = scripted([0, 1, 1, 1, 1], [0.01] * 5)
    found = decide(lambda runs: sure, np.arange(5), range(5), [0, 4], 5, run)
    assert batches == [[0, 4]]
    assert found.sure >= 0.95
    assert found.picked == 0
    # two seed deviations apart is as good as the best
    close = scripted([0.01, 0, 1, 1, 1], [1e-4] * 5)
    assert decide(lambda runs: close, np.arange(5), range(5), [0, 4], 5, run).sure == 1
    assert len(batches) == 2


def test_the_likeliest_best_that_was_not_run_comes_next() -> None:
    order: list[list[int]] = []

    def predict(runs: Sequence[int]) -> Predictions:
        # what was run turns out bad; 3 is likelier the best than 2, 2 than 1
        deviation = np.array([0.0, 0.3, 0.2, 0.1, 0.5])
        deviation[list(runs)] += 0.5
        return scripted(deviation, [0.5] * 5)

    def run(chosen: Sequence[int]) -> list[bool]:
        order.append(list(chosen))
        return [True] * len(chosen)

    decide(predict, np.arange(5), [0, 1, 2, 3], [0, 4], 5, run)
    assert order == [[0, 4], [3], [2], [1]]
    order.clear()
    decide(predict, np.arange(5), [0, 1, 2, 3], [0, 4], 5, run, at_once=2)
    assert order == [[0, 4], [3, 2], [1]]
    order.clear()
    decide(predict, np.arange(5), [0, 1, 2, 3], [0, 4], 4, run, at_once=3)
    assert order == [[0, 4], [3, 2]]
    order.clear()
    decide(predict, np.arange(5), [0, 1, 2, 3], [0, 4], 1, run)
    assert order == [[0]]
    order.clear()
    decide(predict, np.arange(5), [0, 1, 2, 3], [0, 4], 99, run)  # no more finalists than there are
    assert [i for batch in order for i in batch] == [0, 4, 3, 2, 1]


def test_what_failed_is_neither_folded_in_nor_picked() -> None:
    seen: list[list[int]] = []

    def predict(runs: Sequence[int]) -> Predictions:
        seen.append(list(runs))
        return scripted([0.0, 0.1, 0.2, 0.3, 0.4], [0.3] * 5)

    found = decide(predict, np.full(5, 7), range(4), [0, 4], 4, lambda chosen: [i not in (0, 1) for i in chosen])
    assert found.failed == (0, 1)
    assert found.runs == (4, 2)
    assert seen == [[4], [4], [4, 2]]
    assert found.left == (2, 3)
    assert found.picked == 2
    assert len(found.best) == 2
    none = decide(predict, np.full(5, 7), range(4), [0, 4], 3, lambda chosen: [False] * len(chosen))
    assert (none.picked, none.left, none.sure, none.runs) == (0, (0, 1, 2, 3), 0.0, ())
    assert none.failed == (0, 4, 1)  # none of them twice


# --- with a scorer ----------------------------------------------------------------------------------------------------

Both = tuple[Scorer, Recommendation]


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    patch = pytest.MonkeyPatch()
    patch.setattr(recommend_module, "STABILITY_DRAWS", 2)
    scorer = make_scorer(make_probe(n=32, layers=2))
    yield scorer, recommend(scorer, parse_budget("30%"), Session())
    patch.undo()


def lucky(scorer: Scorer, factors: dict[str, float], wall_s: float = 20.0, asked: list[str] | None = None) -> Any:
    """Runs whose loss, and what they measure, is the predicted one times a factor by name; a factor of 0 fails."""

    def run_all(candidates: Sequence[Candidate], measured: Sequence[Selection] = ()) -> list[RealRun | str]:
        alone = scorer.predict([Candidate(s, scorer.settings) for s in measured]).loss.value if measured else []
        switched = {s.targets: float(v) * (factors.get(s.name) or 1.0) for s, v in zip(measured, alone, strict=True)}
        losses = scorer.predict(candidates).loss.value
        result: list[RealRun | str] = []
        for c, loss in zip(candidates, losses, strict=True):
            factor = factors.get(c.selection.name, factors.get("*", 1.0))
            if asked is not None:
                asked.append(c.selection.name)
            run = RealRun(c, float(loss) * factor, 0.75, wall_s, switched, 5.0 if switched else 0.0)
            result.append(run if factor else "the loss is nan")
        return result

    return run_all


def test_scorer_given_runs_predicts_them_and_keeps_them_on_a_subsample(both: Both) -> None:
    scorer, rec = both
    run = RealRun(rec.pool[3], 0.5, 0.8, 1.0)
    given = scorer.given([run])
    plain, after = scorer.predict(rec.pool[:5]), given.predict(rec.pool[:5])
    assert len(after.deviation) == 5
    assert after.loss.value[3] == pytest.approx(0.5, rel=0.05)
    widths = [np.log(found.loss.high[3] / found.loss.low[3]) for found in (after, plain)]
    assert widths[0] < 0.4 * widths[1]
    assert scorer.runs == ()
    assert scorer.predict(rec.pool[:5]).loss.value.tolist() == plain.loss.value.tolist()
    again = given.on(scorer.probe)
    assert again.runs == (run,)
    assert again.predict(rec.pool[:5]).loss.value.tolist() == after.loss.value.tolist()
    assert given.score(rec.pool[3:4])[0].loss[0] == pytest.approx(after.loss.value[3], rel=1e-6)
    assert given.at(TrainingRecipe(train_rows=64)).runs == ()


def test_runs_at_the_own_recipe(both: Both) -> None:
    scorer, rec = both
    asked: list[str] = []
    found = confirm(scorer, rec, short_recipe(scorer, None), 4, lucky(scorer, {"*": 1.1}, asked=asked))
    assert found.same_recipe
    assert 3 <= len(found.runs) <= 4
    assert [c.role for c in found.runs][:3] == ["pilot", "pick", "baseline"]
    assert {c.role for c in found.runs[3:]} <= {"candidate"}
    assert found.runs[0].run.candidate == rec.pool[0]
    shown = {rec.pool[i].selection.targets for i in rec.finalists}
    assert shown | {(), rec.pool[0].selection.targets} <= set(found.runs[0].run.switched)
    assert not any(c.run.switched for c in found.runs[1:])
    assert found.runs[1].run.candidate in [rec.pool[i] for i in rec.finalists]
    assert found.runs[2].run.candidate.selection.name.startswith("q,v")
    assert [c.run.candidate.selection.name for c in found.runs] == asked
    assert len(set(asked)) == len(asked)
    assert found.scorer.runs == tuple(c.run for c in found.runs)
    for c in found.runs:
        assert c.before[1] < c.before[0] < c.before[2]
        assert c.before[0] == pytest.approx(scorer.predict([c.run.candidate]).loss.value[0])
        assert c.after[2] / c.after[1] < c.before[2] / c.before[1]
        assert abs(math.log(c.after[0] / c.run.loss)) < abs(math.log(c.before[0] / c.run.loss))
    assert sum(f.best for f in found.finalists) == pytest.approx(1)
    assert found.finalists[0].candidate == found.picked == rec.pool[found.order[0]]
    assert sorted(found.order) == sorted(rec.finalists)
    assert found.order[1:] == tuple(i for i in rec.finalists if i != found.order[0])
    assert found.cost_s == 20 * len(found.runs) + 5
    assert found.sweep_runs == 2 * len(rec.finalists)
    assert found.sweep_s == pytest.approx(20 * 2 * len(rec.finalists))
    again = reconsider(rec, found.scorer, found.scorer, found.order, 0, Session())
    assert again.picked.candidate == found.picked
    assert again.finalists == found.order
    assert again.picked.loss == pytest.approx(found.finalists[0].after)
    assert again.equal_budget[0].candidate == found.picked
    assert len(again.pool) == again.considered == rec.considered
    assert confirm(scorer, rec, scorer.recipe, 4, lucky(scorer, {"*": 1.1})).order == found.order


def test_a_pilot_moves_what_it_measured_towards_what_it_saw(both: Both) -> None:
    """Halfway, in shares of the gain; other settings and unmeasured selections keep the simulated share."""
    scorer, rec = both
    names = [rec.pool[i] for i in rec.finalists[:3]]
    everything, nothing = rec.pool[0].selection.targets, ()
    switched = {everything: 0.5, nothing: 1.0, names[0].selection.targets: 0.6, names[1].selection.targets: 0.9}
    pilot = RealRun(rec.pool[0], float(scorer.predict([rec.pool[0]]).loss.value[0]), 0.8, 1.0, switched)
    other = replace(names[0], settings=LoraSettings(4, 8))
    shown = [*names, other]
    blind, seeing = (scorer.given([replace(pilot, switched=s)]).predict(shown) for s in ({}, switched))
    gain = scorer.context["log_start"] - math.log(pilot.loss)
    moved = (seeing.deviation - blind.deviation) / gain
    forgone = shares_of(scorer, shown)
    alike = sorted([0.0, 1.0, *forgone[:2]])[1:3]  # as shares, in the order that was measured
    np.testing.assert_allclose(moved[:2], (np.array(alike) - forgone[:2]) / 2, rtol=0.25, atol=0.01)
    assert abs(moved[2:]).max() <= 0.1 * max(abs(moved[:2]).max(), 0.1)


def shares_of(scorer: Scorer, candidates: Sequence[Candidate]) -> np.ndarray:
    """The predicted share of the gain that each candidate forgoes."""
    traits = feature_table(scorer.view, scorer.weights(candidates), TRAITS)
    return scorer.predictor.forgone_.of(traits, scorer.context)


def test_a_budget_of_memory_without_room_for_all_modules_has_no_pilot(both: Both) -> None:
    scorer, _ = both
    whole = scorer.cost(Candidate(all_linear(scorer.probe.targets), scorer.settings)).memory_bytes
    for share, roles in ((0.9, ["pick", "baseline"]), (1.1, ["pilot", "pick"])):
        rec = recommend(scorer, parse_budget(f"{share * whole / 1e9}GB"), Session())
        found = confirm(scorer, rec, scorer.recipe, 2, lucky(scorer, {}))
        assert [c.role for c in found.runs] == roles


def test_a_pilot_that_failed_is_not_run_again(both: Both) -> None:
    scorer, rec = both
    asked: list[str] = []
    found = confirm(scorer, replace(rec, finalists=(0,)), scorer.recipe, 4, lucky(scorer, {"*": 0.0}, asked=asked))
    assert len(asked) == len(set(asked)) == 2  # and the baseline
    assert [name for name, _ in found.failed] == asked
    assert (found.picked, found.sure) == (rec.pool[0], 0.0)


def test_a_pilot_says_nothing_of_other_ranks(both: Both) -> None:
    scorer, rec = both
    one = rec.pool[rec.finalists[0]]
    switched = {rec.pool[0].selection.targets: 0.5, (): 1.0, one.selection.targets: 0.9}
    seeing = scorer.given([RealRun(rec.pool[0], 0.5, 0.8, 1.0, switched)])
    other = replace(one, ranks={one.selection.targets[0]: 16})
    shares = seeing._measured([one, other, replace(one, settings=LoraSettings(4, 8))])
    assert shares[0] == pytest.approx(shares_of(scorer, [one])[0], abs=1e-9)  # it lies between all and none
    assert np.isnan(shares[1:3]).all()
    assert shares[3] == 0  # all modules


def test_a_pilot_that_fails_leaves_the_runs_as_they_were(both: Both) -> None:
    scorer, rec = both
    found = confirm(scorer, rec, scorer.recipe, 3, lucky(scorer, {"all-linear": 0.0, "*": 1.0}))
    assert found.failed == (("all-linear", "the loss is nan"),)
    assert [c.role for c in found.runs] == ["pick", "baseline"]
    assert found.runs[0].run.candidate == rec.picked.candidate
    assert "pilot" not in "\n".join(confirmed(found, scorer))
    own = next(i for i, c in enumerate(rec.pool) if c == rec.pool[0])
    wide = replace(rec, finalists=(*rec.finalists, own))  # as where all modules are within the budget
    again = confirm(scorer, wide, scorer.recipe, 1, lucky(scorer, {"all-linear": 0.0, "*": 1.0}))
    assert own not in again.order


def test_a_bad_run_of_the_pick_changes_it(both: Both) -> None:
    scorer, rec = both
    old = rec.picked.name
    found = confirm(scorer, rec, scorer.recipe, 4, lucky(scorer, {old: 2.0, "*": 0.8}))
    assert found.picked.selection.targets != rec.picked.candidate.selection.targets
    assert found.pick_before == rec.picked.candidate
    text = "\n".join(confirmed(found, scorer))
    before, after = rec.picked.candidate.selection, found.picked.selection
    dropped, added = len(set(before.targets) - set(after.targets)), len(set(after.targets) - set(before.targets))
    said = f"from {before.called} to {after.called} ({dropped} dropped, {added} added): the real runs move"
    assert f"The pick changed {said}" in text
    assert ("The pick itself was not run" in text) == (found.picked not in [c.run.candidate for c in found.runs])
    unseen = replace(found, runs=tuple(c for c in found.runs if c.run.candidate != found.picked))
    assert "The pick itself was not run" in "\n".join(confirmed(unseen, scorer))
    shown = plain(confirm_entry(found, scorer))
    assert (shown["pick_before"], shown["pick_after"]) == (old, found.picked.selection.name)


def test_a_failed_run_is_left_out(both: Both) -> None:
    scorer, rec = both
    old = rec.picked.name
    found = confirm(scorer, rec, scorer.recipe, 3, lucky(scorer, {old: 0.0, "*": 1.0}))
    assert found.failed == ((old, "the loss is nan"),)
    assert len(found.runs) == 2
    assert rec.finalists[0] not in found.order
    text = "\n".join(confirmed(found, scorer))
    assert f"Left out: the real run of {old} failed (the loss is nan)." in text
    assert f"The pick changed from {rec.picked.candidate.selection.called} to {found.picked.selection.called} (" in text
    assert "added): the real run of the first failed." in text
    assert plain(confirm_entry(found, scorer))["failed"] == [{"name": old, "reason": "the loss is nan"}]


def test_where_all_fail_the_pick_stays(both: Both) -> None:
    scorer, rec = both
    found = confirm(scorer, rec, scorer.recipe, 3, lucky(scorer, {"*": 0.0}))
    assert found.order == rec.finalists
    assert len(found.failed) == 3
    assert not found.settled
    lines = confirmed(found, scorer)
    assert lines[0] == "All real runs failed, so the pick is as predicted."
    assert len(lines) == 4
    several = ["loss is nan. Lower --lr.", "loss is nan. Lower --lr.", "out of memory.", "worker died."]
    reasons = tuple((f"set {i}", f"set {i}: {reason}") for i, reason in enumerate(several))
    said = str(answer(scorer, rec, replace(found, failed=reasons), "out", ["lora.yaml"])).replace("\n", " ")
    assert "as predicted. Loss is nan. Lower --lr. Out of memory." in said  # on the screen, each once and not too many
    assert "orker died" not in said
    assert "--effort" not in said.split("Next: ")[1]
    shown = plain(confirm_entry(found, scorer))
    json.dumps(shown, allow_nan=False)
    assert shown["runs"] == []
    assert shown["sweep_cost_s"] is None
    again = reconsider(rec, found.scorer, found.scorer, found.order, 0, Session())
    assert again.picked == rec.picked
    assert again.stability == rec.stability


def test_runs_of_another_recipe_decide_there_and_leave_the_numbers(both: Both) -> None:
    scorer, rec = both
    recipe = short_recipe(scorer, 64)
    assert recipe == replace(scorer.recipe, train_rows=64)
    short = scorer.at(recipe)
    assert short.context["log_train_rows"] == pytest.approx(math.log(64))
    found = confirm(scorer, rec, recipe, 3, lucky(short, {rec.picked.name: 1.5}))
    assert not found.same_recipe
    assert found.scorer.recipe == recipe
    for c in found.runs:
        assert c.before[0] == pytest.approx(short.predict([c.run.candidate]).loss.value[0])
        assert c.before[0] != pytest.approx(scorer.predict([c.run.candidate]).loss.value[0])
    expected = short.given([c.run for c in found.runs]).predict([f.candidate for f in found.finalists])
    assert [f.after[0] for f in found.finalists] == pytest.approx(expected.loss.value.tolist())
    again = reconsider(rec, scorer, found.scorer, found.order, 0, Session())
    assert again.picked.candidate == found.picked
    assert again.picked.loss[0] == pytest.approx(scorer.predict([found.picked]).loss.value[0])
    text = "\n".join(confirmed(found, scorer))
    assert "on 64 training rows" in text
    assert "The prediction is for 400 training rows, and the runs are on 64" in text
    shown = plain(confirm_entry(found, scorer))
    assert (shown["train_rows"], shown["same_recipe"]) == (64, False)
    assert "64 training rows" in confirm_table(found, scorer).title


@pytest.mark.parametrize(
    ("available", "recipe_rows", "asked", "expected"),
    [
        (400, None, None, None),
        (5000, None, None, 2048),
        (5000, 600, None, 600),
        (5000, 300, None, 300),
        (5000, None, 100, 100),
        (5000, 64, 100, 64),
        (5000, None, 9999, None),
        (512, None, None, None),
    ],
)
def test_rows_of_a_run(available: int, recipe_rows: int | None, asked: int | None, expected: int | None) -> None:
    recipe = TrainingRecipe(train_rows=recipe_rows, epochs=9)
    scorer = make_scorer(make_probe(n=24, layers=1, train_rows=available), recipe=recipe)
    found = short_recipe(scorer, asked)
    assert found == TrainingRecipe(train_rows=expected, epochs=9)


def test_the_baseline(both: Both) -> None:
    scorer, rec = both
    qv = {t.name for t in scorer.probe.targets if t.role in ("query", "value")}
    found = baseline_of(rec, scorer)
    assert found is not None
    assert set(found.selection.targets) == qv
    assert found.settings.rank <= 8
    own = candidate(scorer.probe, [0, 1], LoraSettings(16, 32), "your config")
    with_own = recommend(scorer, parse_budget("30%"), Session(), baseline=own)
    assert baseline_of(with_own, scorer) == own
    made = confirm(scorer, with_own, scorer.recipe, 3, lucky(scorer, {}))
    assert [c.role for c in made.runs] == ["pilot", "pick", "baseline"]
    assert made.runs[2].run.candidate == own
    others = [s for s in rec.equal_budget if set(s.candidate.selection.targets) != qv]
    without = replace(rec, equal_budget=scorer.score([s.candidate for s in others]))
    assert baseline_of(without, scorer) == others[1].candidate
    alone = replace(rec, equal_budget=scorer.score([rec.picked.candidate]))
    assert baseline_of(alone, scorer) is None
    assert [c.role for c in confirm(scorer, alone, scorer.recipe, 2, lucky(scorer, {})).runs] == ["pilot", "pick"]
    assert [c.role for c in confirm(scorer, alone, scorer.recipe, 1, lucky(scorer, {})).runs] == ["pilot"]


def test_a_baseline_that_is_a_finalist_is_run_once_and_may_be_picked(both: Both) -> None:
    scorer, rec = both
    rival = rec.pool[rec.finalists[5]]
    own = replace(rival, selection=replace(rival.selection, name="your config"))
    with_own = replace(rec, equal_budget=scorer.score([rec.picked.candidate, own]), baseline=1)
    asked: list[str] = []
    found = confirm(scorer, with_own, scorer.recipe, 30, lucky(scorer, {rival.selection.name: 0.5, "*": 1.1}, asked=asked))
    assert asked[0] == "all-linear"
    assert rival.selection.name in asked[1:3]
    assert len(asked) == len(set(asked))
    assert found.picked == rival


def test_what_is_said(both: Both) -> None:
    scorer, rec = both
    found = confirm(scorer, rec, scorer.recipe, 2, lucky(scorer, {}, wall_s=23.0))
    first = confirmed(found, scorer)[0]
    count = len(rec.finalists)
    assert first.startswith("2 real runs of 26 s on 400 training rows: with probability ")
    assert "switching the adapters of all other modules off; this took 5 s." in confirmed(found, scorer)[1]
    assert f"the best of {count} finalists" in first
    times = round(46 * count / 51)
    assert (
        f"A sweep over all finalists with 2 seeds each would cost {times} times that ({duration(46 * count)} instead of 51 s)."
        in first
    )
    assert "; more runs may still change it." in confirmed(replace(found, sure=0.94), scorer)[0]
    assert not any("not run" in line or "changed" in line for line in confirmed(found, scorer)[:1])
    assert confirmed(found, scorer)[-1] == CAVEAT
    assert ", so it is settled." in confirmed(replace(found, sure=0.95), scorer)[0]
    table = confirm_table(found, scorer)
    assert len(table.rows) == 2
    assert table.rows[0][0] == "all-linear (pilot)"
    assert table.rows[1][0] == f"{rec.picked.name} (pick)"
    assert table.rows[0][2] == f"{found.runs[0].run.loss:.3f}"
    assert table.rows[0][3] == "0.750"
    assert table.rows[0][5] == "28 s"
    printed = StringIO()
    Console(width=80, file=printed).print(table.rich())
    said = printed.getvalue()
    assert all(cell in said for row in table.rows for cell in row[1:])  # no number is cut
    assert all(word in said for word in ("all-linear", "(pilot)", "(pick)"))
    shown = plain(confirm_entry(found, scorer))
    json.dumps(shown, allow_nan=False)
    assert shown["cost_s"] == 51
    assert [r["measured"] for r in shown["runs"]] == [len(found.runs[0].run.switched), 0]
    assert [r["measured_s"] for r in shown["runs"]] == [5, 0]
    assert shown["sweep_runs"] == 2 * count
    assert shown["sweep_cost_s"] == pytest.approx(46 * count)
    assert [r["loss"] for r in shown["runs"]] == [c.run.loss for c in found.runs]
    assert shown["runs"][0]["targets"] == list(rec.pool[0].selection.targets)
    for entry in (*shown["runs"], *shown["finalists"]):
        assert {"value", "low", "high"} == set(entry["before"]) == set(entry["after"])


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59, 95, 7200)] == ["0 s", "59 s", "1.6 min", "2.0 h"]


def test_confirmation_is_the_same_for_the_same_seed(both: Both) -> None:
    scorer, rec = both

    def made() -> Confirmation:
        return confirm(scorer, rec, scorer.recipe, 4, lucky(scorer, {rec.picked.name: 1.3}))

    assert confirm_entry(made(), scorer) == confirm_entry(made(), scorer)


def test_reconsidering_keeps_the_baseline_and_asks_the_decider_for_stability(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, rec = both
    own = candidate(scorer.probe, [0, 1], LoraSettings(16, 32), "your config")
    with_own = replace(rec, equal_budget=scorer.score([rec.picked.candidate, own]), baseline=1)
    asked: list[Scorer] = []
    monkeypatch.setattr(recommend_module, "_stability", lambda decider, *_: asked.append(decider) or rec.stability)
    decider = scorer.at(TrainingRecipe(train_rows=64))
    again = reconsider(with_own, scorer, decider, rec.finalists, 0, Session())
    assert asked == [decider]
    assert again.baseline == 1
    assert again.equal_budget[1].candidate == own
