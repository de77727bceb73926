"""What a person reads: sentences, tables, Markdown, and the JSON beside them."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from fakes import candidate, make_probe, make_scorer
from rich.console import Console

from advisor.advice import recommend as module
from advisor.advice.budget import parse_budget
from advisor.advice.recommend import Recommendation, Stability, recommend
from advisor.core.events import Session
from advisor.prediction.scorer import Scorer
from advisor.report.tables import (
    CHOSEN,
    LEFT_OUT,
    Table,
    count,
    gigabytes,
    module_map,
    recommendation_json,
    report_markdown,
    score_table,
    tables,
    verdict,
)
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


def render(table: Table, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, no_color=True, highlight=False).print(table.rich())
    return out.getvalue()


def test_names_are_never_markup() -> None:
    table = Table("[red]x[/]", ("a|b", "n"), (("[bold]q,v[/bold]", "1"), ("a|c", "[link=x]")))
    shown = render(table)
    for text in ("[red]x[/]", "[bold]q,v[/bold]", "[link=x]", "a|b"):
        assert text in shown
    assert "a\\|c" in table.markdown()
    assert table.markdown().count("\n| ") == 4  # heading, rule, two rows


def test_nothing_is_cut_at_80_columns(pair: Pair) -> None:
    scorer, found = pair
    for table in tables(scorer, found)[:2]:
        shown = render(table)
        assert "…" not in shown
        assert max(map(len, shown.splitlines())) <= 80
        for row in table.rows:
            for cell in row[1:]:
                assert cell in shown


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
    assert f"{found.picked.metric[0]:.3f} ({found.picked.metric[1]:.3f}–{found.picked.metric[2]:.3f})" in text
    assert f"{1 - found.picked.bounds[0].low:.1%}" in text
    assert text.count("Certificate C") == 2
    assert "σ = " in text
    assert "Far from" not in text
    assert "Linearisation: not measured." in text
    assert "--strategy" not in text
    other = "\n".join(verdict(scorer, replace(found, strategy="objective"), None))
    assert "Chosen by --strategy objective (smallest V(K)" in other


def test_verdict_speaks_up_when_nothing_can_be_told_apart_or_is_unstable(pair: Pair) -> None:
    scorer, found = pair
    others = len(found.equal_budget) - 1
    alike = "\n".join(verdict(scorer, replace(found, alike=others), None))
    assert "No detectable difference" in alike
    assert "No detectable difference" not in "\n".join(verdict(scorer, replace(found, alike=others - 1), None))
    shaky = "\n".join(verdict(scorer, replace(found, stability=Stability((0.5, 0.5), 20)), None))
    assert "raise --samples" in shaky
    assert "raise --samples" not in "\n".join(verdict(scorer, replace(found, stability=Stability((0.9, 0.8), 20)), None))


def test_json_is_plain_and_says_what_the_sentences_say(pair: Pair) -> None:
    scorer, found = pair
    shown = recommendation_json(scorer, found, LINEARITY, {"r": 8}, {"modules": 1})
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert shown["pick"]["targets"] == list(found.picked.candidate.selection.targets)
    assert shown["pick"]["predicted"]["loss"]["value"] == found.picked.loss[0]
    assert set(shown["stability"]["modules"]) == set(shown["pick"]["targets"])
    assert shown["baseline"] == "your config"
    assert shown["peft"] == {"r": 8}
    assert shown["provenance"]["samples"] == scorer.probe.samples
    assert shown["alike_at_equal_budget"] == found.alike
    assert len(shown["front"]) == len(found.front)
    assert shown["strategy"] == "predicted"
    assert Linearity.from_dict(shown["linearity"]) == LINEARITY
    assert recommendation_json(scorer, found, None, {}, {})["linearity"] is None


def test_report_holds_config_verdict_and_tables(pair: Pair) -> None:
    scorer, found = pair
    text = report_markdown(scorer, verdict(scorer, found, LINEARITY), tables(scorer, found), "r: 8\n")
    assert "```yaml\nr: 8\n```" in text
    assert LINEARITY.sentence("the pick") in text
    for line in verdict(scorer, found, LINEARITY):
        assert f"- {line}" in text
    for table in tables(scorer, found):
        assert table.markdown() in text
