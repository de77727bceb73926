"""``report.html``: valid, self-contained, escaped, and of the same numbers as ``recommendation.json``."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from fakes import candidate, make_probe, make_scorer
from html_page import Element, parse
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from advisor.advice import recommend as module
from advisor.advice.budget import parse_budget
from advisor.advice.peer_picks import peer_picks
from advisor.advice.recommend import recommend
from advisor.core.events import Session
from advisor.export.plan import plan_of
from advisor.report.drawings import Cell, Mark, _spread, heat_map, intervals, pareto, spectra
from advisor.report.html import report_html
from advisor.report.payload import FormatEntry, RecommendationFile, ResolvedEntry, recommendation_file
from advisor.report.verdict import short_verdict
from advisor.report.words import NOT_KNOWN, change_span, count, gigabytes, loss_span, metric_span, ranges
from advisor.theory.linearity import Linearity

LINEARITY = Linearity("s", ("a",), 8, 0.1, 3.0, 2.0, 1.5, (0.25, 1.0), (0.02, 0.3), 0.05)
YAML = "# LoRA config\npeft_type: LORA\nr: 8\ntarget_modules:\n- a.b\n"
SECTIONS = (
    "what-to-do",
    "map",
    "front",
    "compared",
    "certificate",
    "linearity",
    "warnings",
    "stability",
    "cost",
    "config",
    "provenance",
)
FIGURES = ("heat-map", "pareto", "spectra", "intervals-difference", "intervals-metric")
TASKS = {"binary": ("classification", 2), "six": ("classification", 6), "regression": ("regression", 0), "lm": ("causal-lm", 0)}
HOSTILE = '<script>alert("x")</script>&amp;\' onload="y" {{ 7*7 }} $x^{2}$'

Shown = dict[str, Any]
Recommended = Callable[..., Shown]
Render = Callable[[str], str]


def read(shown: Shown) -> RecommendationFile:
    """The payload whose JSON is ``shown``."""
    return TypeAdapter(RecommendationFile).validate_python(shown)


def page_of(shown: Shown, yaml_text: str = YAML) -> str:
    return report_html(read(shown), yaml_text)


@pytest.fixture(scope="module")
def recommended() -> Recommended:
    """The content of ``recommendation.json`` for a synthetic probe of a task; anew at every call."""
    found: dict[tuple[str, str], Shown] = {}

    def make(task: str = "binary", name: str = "") -> Shown:
        if (task, name) not in found:
            kind, classes = TASKS[task]
            probe = make_probe(kind, classes or 2, n=32, layers=3)
            if name:
                targets = tuple(replace(t, name=f"{t.name}.{name}", role=f"{t.role} {name}") for t in probe.targets)
                info = {
                    **probe.info,
                    "class_names": [name, "b"],
                    "model": name,
                    "data": name,
                    "head": [name],
                    "qv_roles": [f"{role} {name}" for role in probe.info["qv_roles"]],
                    "footprint": {**probe.info["footprint"], "targets": tuple(t.name for t in targets)},
                }
                probe = replace(probe, targets=targets, info=info)
            scorer = make_scorer(probe)
            own = candidate(probe, [0, 1], name=f"your config {name}".strip())
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "STABILITY_DRAWS", 2)
                rec = recommend(scorer, parse_budget("30%"), Session(), baseline=own)
            peers = peer_picks(scorer, rec.budget, [s.candidate for s in rec.equal_budget], granularity="module", seed=0)
            pick = rec.picked
            shown = recommendation_file(
                scorer,
                rec,
                verdict=short_verdict(scorer, rec),
                linearity=LINEARITY,
                peers=peers,
                confirm=None,
                plan=plan_of(pick.candidate, probe),
                arguments={"r": 8},
                resolved=ResolvedEntry(len(pick.candidate.selection.targets), 1),
                formats={"peft": FormatEntry("exact", (), ("lora.yaml",), {})},
                warnings=[],
            ).json()
            found[task, name] = json.loads(json.dumps(shown, allow_nan=False))
        return copy.deepcopy(found[task, name])

    return make


@pytest.fixture(scope="module")
def rendered(recommended: Recommended) -> Render:
    """The page of a task."""
    return cache(lambda task: page_of(recommended(task)))


def cells(row: Element) -> list[str]:
    return [cell.text.strip() for cell in row.children]


def table(page: Element, caption: str) -> list[list[str]]:
    """The body of the table with this caption."""
    (found,) = [t for t in page.all("table") if caption in t.all("caption")[0].text]
    return [cells(row) for row in found.one("tbody").all("tr")]


@pytest.mark.parametrize("task", TASKS)
def test_the_page_is_valid_and_complete(rendered: Render, task: str) -> None:
    text = rendered(task)
    page = parse(text)
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    assert len(set(ids)) == len(ids)
    assert [s.attributes["id"] for s in page.all("section")] == list(SECTIONS)
    for element in page.all():
        for name in ("aria-labelledby", "data-copy"):
            assert set((element.attributes.get(name) or "").split()) <= set(ids)
    for reference in re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", text):
        assert "".join(reference) in ids
    svgs = page.all("svg")
    assert [svg.one("title").attributes["id"] for svg in svgs] == [f"{name}-title" for name in FIGURES]
    assert all(len(svg.one("desc").text) > 40 for svg in svgs)
    assert {svg.attributes["role"] for svg in svgs} == {"img"}
    headings = [e.tag for e in page.all() if re.fullmatch("h[1-6]", e.tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


@pytest.mark.parametrize("task", TASKS)
def test_nothing_is_asked_of_anyone(rendered: Render, task: str) -> None:
    text = rendered(task)
    page = parse(text)
    for element in page.all():
        for name in ("src", "srcset", "data", "action", "poster", "background", "xlink:href"):
            assert name not in element.attributes, element
        assert (element.attributes.get("href") or "#").startswith("#")
        assert element.tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video"}
        assert not [name for name in element.attributes if name.startswith("on")]
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert not [u for u in re.findall(r"url\(([^)]*)", text) if not u.startswith("#")]
    (script,) = page.all("script")
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"] or ""
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy


def test_it_works_without_the_script(rendered: Render) -> None:
    page = parse(rendered("binary"))
    assert all("hidden" in button.attributes for button in page.all("button"))
    assert page.one("code", id="yaml").text == YAML
    assert 'LoraConfig(**yaml.safe_load(open("lora.yaml")))' in page.one("code", id="paste").text
    assert not page.all("details")


def row_of(entry: Shown, measure: str) -> list[str]:
    metric, loss = (tuple(entry["predicted"][what].values()) for what in ("metric", "loss"))
    cost = entry["cost"]
    return [
        count(entry["params"]),
        change_span(tuple(entry["vs_all_linear"].values())),
        metric_span(metric, measure),
        loss_span(loss),
        gigabytes(cost["memory_bytes"]),
        f"{cost['time_vs_all_linear']:.0%}",
    ]


@pytest.mark.parametrize("task", TASKS)
def test_the_numbers_are_those_of_the_json(recommended: Recommended, rendered: Render, task: str) -> None:
    shown, page = recommended(task), parse(rendered(task))
    pick, equal = shown["pick"], shown["equal_budget"]
    said = {"apart": "yes", "alike": "alike", "not known": "no"}
    told = [said[entry["beside_pick"]] for entry in [*equal[1:], shown["all_linear"]]]
    names = ["the pick", *(entry["name"] for entry in equal[1:]), "all modules"]
    rows = [
        [name, *row_of(entry, shown["metric"]), word]
        for name, entry, word in zip(names, [pick, *equal[1:], shown["all_linear"]], ["", *told], strict=True)
    ]
    assert table(page, "Common target sets") == rows
    assert [row[1:] for row in table(page, "Pareto front")] == [row_of(entry, shown["metric"]) for entry in shown["front"]]
    peers = table(page, "What other methods would pick")
    assert len(peers) == len(shown["peers"]) > 3
    for (peer, entry), row in zip(shown["peers"].items(), peers, strict=True):
        assert row[0].split(" (=")[0] == peer
        assert row[1:] == (row_of(entry, shown["metric"]) if "predicted" in entry else [f"no pick: {entry['reason']}"])
    tiles = {tile.one("dt").text.split()[0]: tile.one("dd").text for tile in page.one("dl", **{"class": "tiles"}).all("div")}
    assert tiles["Loss"].startswith(change_span(tuple(pick["vs_all_linear"].values())))
    assert tiles["LoRA"].startswith(count(pick["params"]))
    expected = page.one("section", id="what-to-do").text
    assert len(shown["verdict"]) >= 4
    for sentence in shown["verdict"]:
        assert sentence in expected
    assert f"Adapt {len(pick['targets'])} of {len(shown['plan']['targets'])} modules" in expected
    certificate = [li.text for li in page.one("section", id="certificate").all("li")]
    bounds = [b for b in pick["bounds"] if b["id"] == "C"]
    assert len(certificate) == len(bounds) == (1 if task == "lm" else 2)
    for text, bound in zip(certificate, bounds, strict=True):
        assert text.startswith(f"{1 - bound['low']:.1%}")
        assert f"σ = {bound['sigma']:.3g}" in text
        assert ("the head" in text) == (task != "lm")
    modules = table(page, "The picked modules")
    assert [row[0] for row in modules] == pick["targets"]
    assert [row[2] for row in modules] == [f"{shown['stability']['modules'][name]:.0%}" for name in pick["targets"]]
    assert LINEARITY.sentence("the pick") in page.one("section", id="linearity").text


def test_the_heat_map_marks_the_picked_modules(recommended: Recommended, rendered: Render) -> None:
    shown, svg = recommended(), parse(rendered("binary")).all("svg")[0]
    targets, picked = shown["plan"]["targets"], shown["pick"]["targets"]
    shares = [f"{100 * shown['kernel']['shares'][t['name']]:.1f}" for t in targets]
    texts = svg.all("text")
    roles = list(dict.fromkeys(t["role"] for t in targets))
    assert [t.text for t in texts if t.text in roles] == roles
    assert sorted(t.text for t in texts if "." in t.text) == sorted(shares)
    bold = sorted(t.text for t in texts if "font-weight: 700" in (t.attributes["style"] or ""))
    assert bold == sorted(s for s, t in zip(shares, targets, strict=True) if t["name"] in picked)
    assert len(svg.all("use")) == len(picked)  # the dots: not by colour alone


def test_modules_at_one_place_are_added_and_ranks_written() -> None:
    cells = [Cell(0, "q", 0.25, True, 12), Cell(0, "q", 0.5, False), Cell(None, "out", 0.25, True, 4)]
    texts = [t.text for t in parse(heat_map(cells).svg()).all("text")]
    assert texts == ["layer", "q", "out", "0", "75.0 1/2 r12", "–", "25.0 r4"]


def test_every_mark_has_a_shape_and_hollow_is_not_told_apart() -> None:
    def mark(label: str, kind: str, untold: bool) -> Mark:
        return Mark(label, kind, 100, (0.5, 0.4, 0.6), (0.5, 0.4, 0.6), untold)

    marks = [mark("the pick", "pick", False), mark("a", "common", True), mark("b", "common", False)]
    page = parse(intervals(marks, "accuracy", "metric").svg())
    fills = [re.search(r"fill: ([^;]+)", use.attributes["style"] or "") for use in page.all("use")]
    assert [f[1] for f in fills if f and "paper" in f[1]] == ["var(--paper)"]
    shapes = {path.attributes["d"] for path in page.all("path") if "id" in path.attributes}
    assert len(shapes) >= 2


@pytest.mark.parametrize("task", TASKS)
def test_figures_take_all_colours_from_the_page(rendered: Render, task: str) -> None:
    """So that they can be read in light, in dark and printed."""
    text = rendered(task)
    svgs = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(svgs) == len(FIGURES)
    for svg in svgs:
        assert not re.findall(r"#[0-9a-fA-F]{3,6}\b(?!-)", re.sub(r"(url\(|href=\")#[\w-]+", "", svg))
        drawn = [e for e in parse(svg).all() if e.tag in ("path", "text", "use")]
        for element in drawn:
            style = element.attributes.get("style") or ""
            if element.tag == "text":
                assert "fill: var(--" in style
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    for variable in set(re.findall(r"var\((--\w+)\)", text)):
        assert style[1].count(f"{variable}:") == 2, variable  # light and dark


def test_names_from_outside_are_text(recommended: Recommended) -> None:
    shown = recommended(name=HOSTILE)
    shown["warnings"] = [HOSTILE]
    text = page_of(shown, f"# {HOSTILE}\n")
    page = parse(text)
    assert len(page.all("script")) == 1
    assert not [e for e in page.all() if "onload" in e.attributes]
    assert "<script>alert" not in text
    assert "&amp;amp;" in text
    assert page.one("code", id="yaml").text == f"# {HOSTILE}\n"
    assert [row[0] for row in table(page, "The picked modules")] == shown["pick"]["targets"]
    assert f"your config {HOSTILE}" in [row[0] for row in table(page, "Common target sets")]
    assert HOSTILE in page.one("section", id="warnings").text
    assert HOSTILE in page.one("section", id="provenance").text
    assert "your config" in page.all("svg")[3].text


def test_what_cannot_be_printed_is_escaped(recommended: Recommended) -> None:
    shown = recommended()
    shown["pick"]["warnings"] = ["a\x00b\x1bc\u202ed\ne\ud800f"]
    shown["equal_budget"][1]["name"] = "x\x00\ny"
    text = page_of(shown)
    assert "a\\x00b\\x1bc\\u202ed\\ne\\ud800f" in text
    text.encode()
    assert "x\\x00\\ny" in [row[0] for row in table(parse(text), "Common target sets")]


def test_the_same_content_gives_the_same_bytes(recommended: Recommended, rendered: Render, tmp_path: Path) -> None:
    """Also in another process with other hashes, and under the user's own matplotlib settings."""
    shown, expected = recommended("six"), rendered("six")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "lines.linewidth": 9}):
        assert page_of(shown) == expected
        assert matplotlib.rcParams["font.size"] == 30
    (tmp_path / "shown.json").write_text(json.dumps(shown))
    code = (
        "import json, sys; from pathlib import Path; from pydantic import TypeAdapter;"
        "from advisor.report.html import report_html; f = Path(sys.argv[1]);"
        "from advisor.report.payload import RecommendationFile;"
        "shown = TypeAdapter(RecommendationFile).validate_python(json.loads((f / 'shown.json').read_text()));"
        "(f / 'page').write_text(report_html(shown, sys.argv[2]), encoding='utf-8')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path), YAML], check=True, env=environment, timeout=120)
    assert (tmp_path / "page").read_text(encoding="utf-8") == expected


def warnings_of(shown: Shown) -> list[str]:
    section = parse(page_of(shown)).one("section", id="warnings")
    return [li.text for li in section.all("li")] or [section.all("p")[0].text]


def test_warnings(recommended: Recommended) -> None:
    shown = recommended()
    shown["stability"]["mean"] = 0.9
    assert warnings_of(shown) == ["None."]
    shown["stability"]["mean"] = 0.5
    shown["pick"]["warnings"] = ["Far from the calibration rows: x."]
    shown["warnings"] = ["unsloth: lossy."]
    shown["strategy"] = "objective"
    shown["linearity"]["gaps"] = [0.1, 0.9]
    found = "\n".join(warnings_of(shown))
    for words in ("Far from", "unsloth: lossy.", "--strategy objective", "unstable (50%", "poor model"):
        assert words in found
    assert "5 warnings" in page_of(shown)
    shown["linearity"] = None
    page = page_of(shown)
    assert "Not measured." in page
    assert "Linearity was not measured" in "\n".join(warnings_of(shown))


def answer(shown: Shown) -> str:
    return " ".join(parse(page_of(shown)).one("section", id="what-to-do").text.split())


def test_what_can_be_told_from_the_target_sets(recommended: Recommended) -> None:
    shown = recommended()
    names = [entry["name"] for entry in shown["equal_budget"][1:]]
    for entry in shown["equal_budget"]:
        entry["beside_pick"] = "not known"
    assert f"No detectable difference. None of the {len(names)} other" in answer(shown)
    first, second = shown["equal_budget"][1:3]
    first["beside_pick"] = second["beside_pick"] = "apart"
    first["vs_pick"]["value"], second["vs_pick"]["value"] = 0.5, -0.5
    text = answer(shown)
    assert f"worse than the pick, beyond the uncertainty: {names[0]}." in text
    assert f"better than the pick, beyond the uncertainty: {names[1]}." in text
    assert f"Cannot be told apart from the pick: {'; '.join(names[2:])}." in text
    assert "No detectable difference" not in text
    del shown["equal_budget"][1:]
    shown["baseline"] = None
    assert "No common target set fits" in answer(shown)


def test_a_pick_of_everything(recommended: Recommended) -> None:
    """The front is one point, nothing is left to add, and there is no larger selection to speak of."""
    shown = recommended("regression")
    names = [t["name"] for t in shown["plan"]["targets"]]
    shown["pick"] |= {**shown["all_linear"], "targets": names}
    shown["stability"]["modules"] = dict.fromkeys(names, 1.0)
    shown["front"], shown["equal_budget"], shown["peers"] = [shown["all_linear"]], [shown["all_linear"]], {}
    page = parse(page_of(shown))
    assert all(row[1:7] == table(page, "Pareto front")[0][1:] for row in table(page, "Common target sets"))
    assert len(table(page, "Pareto front")) == 1


def test_ranks_by_module(recommended: Recommended) -> None:
    shown = recommended()
    pick = shown["pick"]
    pick["rank_pattern"], pick["alpha_pattern"] = {pick["targets"][0]: 3}, {pick["targets"][0]: 6.0}
    shown["plan"]["ranks"], shown["plan"]["alphas"] = pick["rank_pattern"], pick["alpha_pattern"]
    page = parse(page_of(shown))
    assert "ranks 3–8 by module" in page.text
    assert table(page, "The picked modules")[0][3:] == ["3", "6"]
    assert any(t.text.endswith(" r3") for t in page.all("svg")[0].all("text"))


def test_real_runs_are_shown(recommended: Recommended) -> None:
    shown = recommended()
    around = {"value": 0.5, "low": 0.4, "high": 0.6}
    run = {
        "name": "q,v",
        "role": "baseline",
        "targets": ["a"],
        "rank": 8,
        "alpha": 16.0,
        "loss": 0.4321,
        "metric": 0.8765,
        "wall_s": 65.0,
        "before": around,
        "after": around,
        "measured": 0,
        "measured_s": 0.0,
    }
    pilot = {**run, "name": "all-linear", "role": "pilot", "measured": 27, "measured_s": 31.0}
    shown["confirm"] = {
        "asked": 2,
        "recipe": shown["recipe"],
        "runs": [pilot, run],
        "train_rows": 512,
        "sweep_runs": 4,
        "sweep_cost_s": None,
        "cost_s": 161.0,
        "probability": 0.93,
        "finalists": [{"name": n, "before": around, "after": around, "probability_best": 0.5} for n in "ab"],
        "settled": False,
        "pick_before": "a",
        "pick_after": "b",
        "same_recipe": False,
        "failed": [{"name": "mlp", "reason": "it diverged"}],
    }
    page = parse(page_of(shown))
    assert table(page, "before and after") == [
        ["all-linear", "pilot", "0.500 (0.400–0.600)", "0.432", "0.876", "0.500 (0.400–0.600)", "1.6 min"],
        ["q,v", "baseline", "0.500 (0.400–0.600)", "0.432", "0.876", "0.500 (0.400–0.600)", "1.1 min"],
    ]
    assert "includes 31 s for the 27 selections" in page.one("section", id="confirmed").text  # and what a pilot is
    text = page.one("section", id="confirmed").text
    assert "With probability 93%" in text
    assert "from a to b" in text
    assert "The real run of mlp failed: it diverged" in page.one("section", id="warnings").text
    assert "--effort pilot" not in page.text
    shown["confirm"]["runs"] = []
    assert "All real runs failed" in page_of(shown)


def test_figures_of_odd_numbers() -> None:
    same = Mark("the pick", "pick", 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for drawing in (
        spectra([("a", [0.0, 0.0]), ("b", [0.0, 0.0])], 1.0),
        spectra([("a", [1e-9, 0.0]), ("b", [1e9, 1.0])], 1.0),
        spectra([("a", [1.0, 0.5]), ("b", [2.0, 1.0])], 1e6),
        pareto([(8, 0.5)], [same], "accuracy"),
        pareto([(8, -1e3), (10**9, 1e-6)], [same, replace(same, label="漢字 العربية", kind="peer", params=10**9)], "accuracy"),
        intervals([same], "accuracy", "metric"),
        heat_map([Cell(None, "r" * 80, 0.0, False)]),
        heat_map([Cell(layer, role, 1e-4, layer % 7 == 0) for layer in range(80) for role in "abcdefg"]),
    ):
        svg = drawing.svg()
        (root,) = parse(svg).children
        assert root.tag == "svg"
        assert "nan" not in svg


@given(st.lists(st.floats(0, 300), max_size=30))
def test_labels_keep_their_order_and_distance(wanted: list[float]) -> None:
    wanted = sorted(wanted)
    found = _spread(wanted, 15.0, 0.0, 500.0)
    assert len(found) == len(wanted)
    assert all(after - before >= 15 - 1e-6 for before, after in pairwise(found))
    assert all(-1e-6 <= place <= 500 + 1e-6 for place in found)
    if all(after - before >= 15 for before, after in pairwise(wanted)):
        assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([3], "3"), ([0, 1, 2], "0–2"), ([5, 1, 2, 2, 9], "1–2, 5, 9"), ([10, 11], "10–11")]
)
def testranges(numbers: Sequence[int], text: str) -> None:
    assert ranges(numbers) == text


@pytest.mark.parametrize("task", TASKS)
def test_the_json_is_that_of_the_payload(recommended: Recommended, task: str) -> None:
    """Nothing is lost or renamed between the two."""
    shown = recommended(task)
    assert json.loads(json.dumps(read(shown).json())) == shown


def test_an_interval_that_says_nothing_is_not_printed(recommended: Recommended) -> None:
    shown = recommended()
    for entry in (shown["pick"], shown["all_linear"], *shown["equal_budget"], *shown["front"], *shown["peers"].values()):
        if "predicted" in entry:
            entry["predicted"]["metric"] = {"value": 0.5, "low": 0.0, "high": 1.0}
            entry["predicted"]["loss"] = {"value": 0.5, "low": 0.1, "high": 1.0}
            entry["vs_all_linear"] = {"value": 0.1, "low": -0.6, "high": 1.4}
    page = parse(page_of(shown))
    for row in (*table(page, "Common target sets"), *table(page, "Pareto front")):
        assert row[2:5] == [NOT_KNOWN] * 3


def test_shares_and_eigenvalues_in_the_json(recommended: Recommended) -> None:
    """Against the blocks themselves: shares of the trace, and eigenvalues of the sum of the picked blocks and the head's."""
    probe = make_probe(n=32, layers=3)
    scorer = make_scorer(probe)
    kernel, picked = recommended()["kernel"], set(recommended()["pick"]["targets"])
    traces = {t.name: float(np.trace(block)) for t, block in zip(probe.targets, scorer.kernels.blocks, strict=True)}
    total = sum(traces.values())
    assert kernel["shares"] == pytest.approx({name: trace / total for name, trace in traces.items()})
    inside = np.array([t.name in picked for t in probe.targets])
    for key, chosen in (("pick", inside), ("all", np.ones_like(inside))):
        matrix = scorer.kernels.blocks[chosen].sum(0) + scorer.kernels.head
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(kernel["eigenvalues"][key], expected, rtol=1e-6, atol=1e-9 * expected[0])
