"""What a person reads: sentences, tables, Markdown, and the JSON beside them."""

from __future__ import annotations

import copy
import io
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import candidate, make_probe, make_scorer
from rich.console import Console

from advisor.advice import recommend as module
from advisor.advice.budget import parse_budget
from advisor.advice.recommend import Recommendation, Stability, recommend
from advisor.core.candidate import Candidate
from advisor.core.events import Session
from advisor.core.selections import HEAD_ONLY
from advisor.core.targets import Selection
from advisor.export.plan import plan_of
from advisor.prediction.calibration_rows import load_rows, parse_rows
from advisor.prediction.gain import log_base
from advisor.prediction.groups import grouped
from advisor.prediction.scorer import Scorer
from advisor.report.payload import ResolvedEntry, recommendation_file
from advisor.report.tables import CHOSEN, LEFT_OUT, TextTable, answer_table, module_map, report_markdown, score_table, tables
from advisor.report.verdict import (
    HEIGHT,
    LITTLE_TO_WIN,
    NOTHING_LEARNED,
    WIDTH,
    WON_BY_GUESSING,
    answer,
    short_verdict,
    verdict,
)
from advisor.report.words import NOT_KNOWN, change_span, change_words, count, gigabytes, loss_span, metric_span
from advisor.theory.linearity import Linearity

LINEARITY = Linearity("s", ("a",), 8, 0.1, 3.0, 2.0, 1.5, (0.25, 1.0), (0.02, 0.3), 0.05)


@pytest.fixture(scope="module")
def pair() -> tuple[Scorer, Recommendation]:
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "STABILITY_DRAWS", 2)
    scorer = make_scorer(make_probe(n=32, layers=3))
    own = candidate(scorer.probe, [0, 1], name="your config")
    found = recommend(scorer, parse_budget("30%"), Session(), baseline=own)
    patch.undo()
    return scorer, found


Pair = tuple[Scorer, Recommendation]


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (12, "12"), (999, "999"), (1234, "1.23k"), (1234567, "1.23M"), (2e9, "2B")]
)
def test_counts(number: float, text: str) -> None:
    assert count(number) == text


def test_sizes() -> None:
    assert gigabytes(1.5e9) == "1.50 GB"
    assert gigabytes(3e7) == "30 MB"


def render(table: TextTable, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, no_color=True, highlight=False).print(table.rich(width))
    return out.getvalue()


def test_names_are_never_markup() -> None:
    table = TextTable("[red]x[/]", ("a|b", "n"), (("[bold]q,v[/bold]", "1"), ("a|c", "[link=x]")))
    shown = render(table)
    for text in ("[red]x[/]", "[bold]q,v[/bold]", "[link=x]", "a|b"):
        assert text in shown
    assert "a\\|c" in table.markdown()
    assert table.markdown().count("\n| ") == 4  # heading, rule, two rows


@pytest.mark.parametrize("width", [120, 91, 90, 80, 60])
def test_no_name_and_no_number_is_cut_in_a_narrow_terminal(width: int) -> None:
    """Wide intervals: their columns wrap, nothing vanishes."""
    span = "+12 % (-3 … +40 %)", "0.71 (0.60 … 0.83)"
    names = ("last", "the whole model", "model.layers.0.self_attn.q_proj")
    rows = tuple((name, "1.23k", *span, "0.555", "12.34 GB", "97%") for name in names)
    table = TextTable("t", ("target set", "params", "loss vs all", "accuracy", "loss", "memory", "time"), rows)
    shown = render(table, width)
    assert max(map(len, shown.splitlines())) <= width
    head = next(i for i, line in enumerate(shown.splitlines()) if "──" in line)
    said = Counter("".join(shown.splitlines()[head + 1 :]).replace(" ", ""))
    assert said == Counter("".join("".join(row) for row in rows).replace(" ", ""))
    if width >= 80:
        assert {"last", "the", "whole", "model", "1.23k", "+40", "0.83)", "0.555", "12.34", "97%"} <= set(shown.split())


def test_nothing_is_cut_at_80_columns(pair: Pair) -> None:
    scorer, found = pair
    for table in tables(scorer, found)[:2]:
        shown = render(table)
        assert "…" not in shown
        assert max(map(len, shown.splitlines())) <= 80
        for row in table.rows:
            for cell in row[1:]:
                assert set(cell.split()) <= set(shown.split())


def test_score_table_holds_the_scores_in_order(pair: Pair) -> None:
    scores = list(pair[1].equal_budget)
    table = score_table("t", scores, "accuracy", [0])
    assert [row[0] for row in table.rows] == [s.name for s in scores]
    assert all(len(row) == len(table.columns) for row in table.rows)
    column = table.columns.index("accuracy")
    assert table.rows[0][column].startswith(f"{scores[0].metric[0]:.2f}")
    assert table.marked == {0}


def test_baseline_and_pick_are_marked(pair: Pair) -> None:
    scorer, found = pair
    equal, front, _ = tables(scorer, found)
    assert {equal.rows[i][0] for i in equal.marked} == {equal.rows[0][0], "your config"}
    assert equal.rows[0][1] == count(found.picked.cost.params)
    assert "30%" in equal.title
    assert len(front.rows) == len(found.front)


def test_module_map_marks_exactly_the_chosen_modules(pair: Pair) -> None:
    scorer, found = pair
    table = module_map(scorer, found)
    chosen = set(found.picked.candidate.selection.targets)
    by_place = {(str(t.layer), t.role): t.name for t in scorer.probe.targets}
    shares = 0.0
    for row in table.rows:
        for role, cell in zip(table.columns[1:], row[1:], strict=True):
            mark, share = cell.split()
            assert mark == (CHOSEN if by_place[row[0], role] in chosen else LEFT_OUT)
            shares += float(share)
    assert shares == pytest.approx(100, abs=1)


def test_verdict_says_what_was_found(pair: Pair) -> None:
    scorer, found = pair
    text = "\n".join(verdict(scorer, found, None))
    assert f"Adapt {len(found.picked.candidate.selection.targets)} of {len(scorer.probe.targets)} modules" in text
    assert metric_span(found.picked.metric, "accuracy") in text
    assert change_words(found.picked.vs_all, "all modules") in text
    assert f"{1 - found.picked.bounds[0].low:.1%}" in text
    assert text.count("Certificate C") == 2
    assert "σ = " in text
    assert "Far from" not in text
    assert "Linearity was not measured; --linearity does." in text
    assert "--strategy" not in text
    other = "\n".join(verdict(scorer, replace(found, strategy="objective"), None))
    assert "Chosen by --strategy objective (smallest V(K)" in other


def test_verdict_speaks_up_when_nothing_can_be_told_apart_or_is_unstable(pair: Pair) -> None:
    scorer, found = pair
    others = len(found.equal_budget) - 1
    alike = "\n".join(verdict(scorer, replace(found, untold=others), None))
    assert f"None of the {others} common target sets at this budget can be told apart" in alike
    some = "\n".join(verdict(scorer, replace(found, untold=others - 1), None))
    assert f"{others - 1} of {others} common target sets at this budget cannot be told apart" in some
    assert f"All {others} common target sets" in "\n".join(verdict(scorer, replace(found, untold=0), None))
    close = "\n".join(verdict(scorer, replace(found, untold=3, alike=1), None))
    assert "cannot be told apart from it. 1 of these ends within 5% of its loss." in close
    assert "All of these end within 5%" in "\n".join(verdict(scorer, replace(found, untold=2, alike=2), None))
    shaky = "\n".join(verdict(scorer, replace(found, stability=Stability((0.5, 0.5), 20)), None))
    assert "raise --samples" in shaky
    assert "raise --samples" not in "\n".join(verdict(scorer, replace(found, stability=Stability((0.9, 0.8), 20)), None))


@pytest.mark.parametrize(("won", "said"), [(-0.02, True), (0.01, True), (0.02, False), (1.0, False)])
def test_where_a_linear_probe_learns_nothing_the_answer_says_that_little_can_be_won(pair: Pair, won: float, said: bool) -> None:
    scorer = copy.copy(pair[0])
    scorer.context = {**scorer.context, "head_gain": won}
    assert any("does not beat guessing" in line for line in short_verdict(scorer, pair[1])) == said


def test_where_a_class_is_rare_every_set_wins_what_guessing_does_and_nothing_is_said(pair: Pair) -> None:
    scorer = copy.copy(pair[0])
    for log_guess, said in ((-0.01, True), (-0.5, False)):
        scorer.context = {**scorer.context, "head_gain": 0.0, "log_start": 0.0, "log_simulated": -0.03, "log_guess": log_guess}
        assert any("does not beat guessing" in line for line in short_verdict(scorer, pair[1])) == said


def test_what_it_says_of_such_data_sets_is_so_in_the_shipped_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/nowhere")  # no rows of one's own
    found = [g for g in grouped(load_rows()) if g.context["head_gain"] <= NOTHING_LEARNED]
    groups = [g for g in found if g.context["log_start"] - log_base(g.context) < WON_BY_GUESSING]
    assert len({g.data for g in groups}) == 7
    assert "On seven of eight such data sets" in LITTLE_TO_WIN
    for group in groups:
        alone = np.mean([math.log(r.val_loss) for r in group.rows if r.selection == HEAD_ONLY])
        assert 1 - math.exp(group.log_loss.min() - alone) < 0.07, group.name
    exam = Path(__file__).parents[2] / "benchmarks" / "rows" / "exam" / "minilm-suggestion-512-0.002-6x1.jsonl"
    (eighth,) = grouped(parse_rows(exam.read_text(encoding="utf-8").splitlines(), exam.name))
    assert eighth.context["head_gain"] <= NOTHING_LEARNED
    assert 1 - math.exp(eighth.log_loss.min() - eighth.log_base) == pytest.approx(0.45, abs=0.005)


def test_json_is_plain_and_says_what_the_sentences_say(pair: Pair) -> None:
    scorer, found = pair

    def made(linearity: Linearity | None) -> dict[str, Any]:
        return recommendation_file(
            scorer,
            found,
            verdict=short_verdict(scorer, found),
            linearity=linearity,
            peers=(),
            confirm=None,
            plan=plan_of(found.picked.candidate, scorer.probe),
            arguments={"r": 8},
            resolved=ResolvedEntry(1, 2),
            formats={},
            warnings=(),
        ).json()

    shown = made(LINEARITY)
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert shown["pick"]["targets"] == list(found.picked.candidate.selection.targets)
    assert shown["pick"]["predicted"]["loss"]["value"] == found.picked.loss[0]
    assert shown["verdict"] == short_verdict(scorer, found)
    assert set(shown["stability"]["modules"]) == set(shown["pick"]["targets"])
    assert shown["baseline"] == "your config"
    assert shown["peft"] == {"r": 8}
    assert shown["provenance"]["samples"] == scorer.probe.samples
    assert shown["untold_at_equal_budget"] == found.untold
    assert len(shown["front"]) == len(found.front)
    assert shown["strategy"] == "predicted"
    assert Linearity.from_dict(shown["linearity"]) == LINEARITY
    assert made(None)["linearity"] is None
    for entry in (shown["all_linear"], *shown["equal_budget"][1:]):
        low, high = entry["vs_pick"]["low"], entry["vs_pick"]["high"]
        assert (entry["beside_pick"] != "apart") == (low <= 0 <= high)  # the interval of the difference decides


FILES = ("lora.yaml", "adapter_config.json", "report.md", "report.html", "recommendation.json")
SHORTEST = 8  # lines


def fits(text: str) -> None:
    lines = text.splitlines()
    assert SHORTEST <= len(lines) < HEIGHT  # one is left for the prompt
    assert max(map(len, lines)) <= WIDTH


@pytest.mark.parametrize("task", ["classification", "regression", "causal-lm"])
@pytest.mark.parametrize("budget", ["5%", "30%", "100%"])
def test_the_short_answer_fits_one_screen(task: str, budget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STABILITY_DRAWS", 2)
    scorer = make_scorer(make_probe(task, n=24, layers=4))
    found = recommend(scorer, parse_budget(budget), Session())
    for rec in (found, replace(found, stability=Stability((0.1,), 2)), replace(found, untold=len(found.equal_budget) - 1)):
        shown = answer(scorer, rec, None, "recommendation", FILES)
        fits(str(shown))
        assert 3 <= len(shown.table.rows) <= 6
        assert shown.sentences[0].startswith(f"Adapt {len(found.picked.candidate.selection.targets)} of ")
        assert "recommendation: lora.yaml" in str(shown)
        assert "--verbose" in " ".join(str(shown).split())


def test_the_short_answer_fits_with_many_kinds_of_modules_and_reasons_for_doubt(pair: Pair) -> None:
    """Scattered modules are counted, not listed; rows of the table give way."""
    scorer, found = pair
    names = found.pool[0].selection.targets
    pick = Candidate(Selection("searched", names[::2]), scorer.settings, {names[0]: 3}, {})
    predictions = replace(found.front.predictions, far=("no calibration run used here read images",) * 2)
    rec = replace(found, picked=scorer.score([pick])[0], front=replace(found.front, predictions=predictions))
    text = str(answer(scorer, rec, None, "a/rather/long/path/of/a/folder/for/a/recommendation", FILES))
    fits(text)
    words = " ".join(text.split())
    assert (
        "No calibration run used here read images: selections are only ranked, and the level of loss and metric is not known"
        in words
    )
    assert "Expected of one run" not in words
    assert "ranks 3–8 by module" in " ".join(text.split())


def test_the_short_answers_table_holds_the_pick_all_modules_and_qv(pair: Pair) -> None:
    scorer, found = pair
    table = answer_table(scorer, found, 6)
    names = [row[0] for row in table.rows]
    assert names[:2] == ["the pick", "all modules"]
    assert "your config" in names
    assert any(name.startswith("q,v") for name in names)
    assert [row[2] for row in table.rows][:2] == [change_span(found.picked.vs_all), "the same"]
    others = [s.vs_all[0] for name in names[4:] for s in found.equal_budget if s.name == name]
    assert others == sorted(others)


def test_the_names_of_modules_are_printable(pair: Pair) -> None:
    scorer, found = pair
    targets = tuple(replace(t, role=f"\x1b[31m{t.role}\n") for t in scorer.probe.targets)
    other = copy.copy(scorer)
    other.probe = replace(scorer.probe, targets=targets, info={**scorer.probe.info, "qv_roles": []})
    text = str(answer(other, found, None, "out", FILES))
    assert "\x1b" not in text
    fits(text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ((0.14, -0.06, 0.8), "+14% (-6 to +80%)"),
        ((-0.3, -0.6, -0.1), "-30% (-60 to -10%)"),
        ((0.0, 0.0, 0.0), "the same"),
        ((0.5, 0.1, 12.0), "+50% (+10 to +1,200%)"),  # which is lower is known
        ((0.5, 0.1, 40.0), "higher"),  # … but not by how much
        ((0.1, -0.6, 1.4), NOT_KNOWN),  # one end is six times the other
        ((0.001, -0.2, 0.3), "0% (-20 to +30%)"),
    ],
)
def test_changes(change: tuple[float, float, float], text: str) -> None:
    assert change_span(change) == text


def test_levels_that_say_nothing() -> None:
    assert metric_span((0.5, 0.0, 1.0), "accuracy") == NOT_KNOWN
    assert metric_span((0.5, 0.1, 0.89), "accuracy") == "0.500 (0.100–0.890)"
    assert metric_span((0.5, -0.5, 1.0), "matthews") == "0.500 (-0.500–1.000)"
    assert metric_span((0.5, -0.7, 1.0), "spearman") == NOT_KNOWN
    assert loss_span((0.5, 0.2, 0.7)) == "0.500 (0.200–0.700)"
    assert loss_span((0.5, 0.1, 0.7)) == NOT_KNOWN


def test_report_holds_config_verdict_and_tables(pair: Pair) -> None:
    scorer, found = pair
    text = report_markdown(scorer, verdict(scorer, found, LINEARITY), tables(scorer, found), "r: 8\n")
    assert "```yaml\nr: 8\n```" in text
    assert LINEARITY.sentence("the pick") in text
    for line in verdict(scorer, found, LINEARITY):
        assert f"- {line}" in text
    for table in tables(scorer, found):
        assert table.markdown() in text
