"""What is said of linearity, and where it goes: verdict, JSON, the probe, the scorer's bounds, the recommendation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import make_probe, make_rows, make_scorer

from advisor import workflow
from advisor.advice import recommend as recommend_module
from advisor.advice.budget import parse_budget
from advisor.core.candidate import Candidate
from advisor.core.errors import OutOfMemory
from advisor.core.events import Event, Note, Session, Warn
from advisor.core.probe import Probe, load_probe
from advisor.core.reading import sealed
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import all_linear, target_sets
from advisor.core.targets import LoraSettings, Selection
from advisor.models.prepare import Prepared
from advisor.probing import linear_check
from advisor.probing.run import measure_selections, run_probe
from advisor.probing.settings import ProbeSettings
from advisor.theory.bounds import ESTIMATED
from advisor.theory.linearity import LINEAR, NOT, PARTLY, Linearity

TinyModel = Callable[..., Path]
PLAIN = Linearity("q,v", ("a", "b"), 8, 0.1, 3.0, 2.0, 1.5, (0.25, 1.0), (0.02, 0.08), 0.05)
WITH_CONSTANTS = replace(PLAIN, lipschitz=5.0, gradient_lipschitz=0.5, input_lipschitz=0.1, input_gradient_lipschitz=0.2)


# --- words and numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "verdict", "word"),
    [
        (0.0, LINEAR, "good"),
        (0.1, LINEAR, "good"),
        (0.1001, PARTLY, "rough"),
        (0.5, PARTLY, "rough"),
        (0.51, NOT, "poor"),
        (math.inf, NOT, "poor"),
        (math.nan, NOT, "poor"),
    ],
)
def test_verdict_and_sentence_follow_the_gap_at_the_full_step(gap: float, verdict: str, word: str) -> None:
    seen = replace(PLAIN, gaps=(0.9, gap))
    assert (seen.gap is gap or seen.gap == gap, seen.verdict) == (True, verdict)
    said = seen.sentence("the pick")
    assert said.startswith(f"Linearisation is a {word} model here: at the kernel ridge solution of the pick ")
    assert f"by {gap:.0%} on 8 rows (up to 10% counts as linear, up to 50% as partly)" in said
    assert said.endswith("with LoRA's B alone moved, by 5%. A·B curvature is unseen.")


def test_sentence_without_a_name_or_without_lora() -> None:
    said = replace(PLAIN, lora_gap=None).sentence()
    assert "solution of q,v the" in said
    assert "alone" not in said
    assert said.endswith("A·B curvature is unseen.")


@pytest.mark.parametrize("seen", [PLAIN, WITH_CONSTANTS, replace(PLAIN, targets=(), lora_gap=None, distance=0.0)])
def test_through_json_and_back(seen: Linearity) -> None:
    shown = json.loads(json.dumps(seen.as_dict(), allow_nan=False))
    assert shown == seen.as_dict()
    assert Linearity.from_dict(shown) == seen
    assert (shown["gap"], shown["verdict"]) == (seen.gap, seen.verdict)


def test_what_the_constants_say() -> None:
    """λ° = 2‖f0−Y‖Lip(f)/radius and its inverse, the horizon of Theorem 4 without a pull."""
    shown = WITH_CONSTANTS.as_dict()
    assert shown["threshold_pull"] == pytest.approx(2 * 3 * 5 / 2)
    assert shown["horizon_without_pull"] == pytest.approx(1 / 15)
    flow = WITH_CONSTANTS.flow
    assert flow is not None
    assert (flow.lipschitz, flow.gradient_lipschitz, flow.residual, flow.radius) == (5, 0.5, 3, 2)
    assert flow.sampled
    for none in (PLAIN, replace(WITH_CONSTANTS, distance=0.0), replace(WITH_CONSTANTS, gradient_lipschitz=None)):
        assert none.flow is None
        assert none.as_dict()["threshold_pull"] is none.as_dict()["horizon_without_pull"] is None
    still = replace(WITH_CONSTANTS, residual=0.0)
    assert still.as_dict()["horizon_without_pull"] is None  # for ever


@pytest.mark.parametrize("field", ["residual", "distance", "lora_gap", "gaps", "lipschitz", "input_gradient_lipschitz"])
def test_finite_or_not(field: str) -> None:
    assert PLAIN.is_finite
    assert WITH_CONSTANTS.is_finite
    for bad in (math.inf, math.nan):
        assert not replace(WITH_CONSTANTS, **{field: (0.1, bad) if field == "gaps" else bad}).is_finite


def test_a_field_that_is_missing_is_an_error() -> None:
    fields = PLAIN.as_dict()
    del fields["gaps"]
    with pytest.raises(KeyError):
        Linearity.from_dict(fields)


# --- the probe --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(ready: Callable[..., Prepared], tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Probe, Path]:
    """A probe of a tiny BERT, loaded from its folder."""
    prepared, folder = ready("bert", "binary"), tmp_path_factory.mktemp("probe")
    run_probe(prepared, ProbeSettings(linearity=True), folder, Session())
    return prepared, load_probe(folder), folder


Bert = tuple[Prepared, Probe, Path]


def test_the_probe_keeps_it_for_all_linear_and_qv(bert: Bert) -> None:
    """As measured on the model directly, with the fitted head; constants for all-linear alone."""
    prepared, probe, folder = bert
    stored = [Linearity.from_dict(fields) for fields in json.loads((folder / "probe.json").read_text())["linearity"]]
    roles = prepared.loaded.qv_roles()
    wanted = [s for s in target_sets(prepared.loaded.targets, roles) if s.name in ("all-linear", "q,v")]
    assert [(s.selection, s.targets) for s in stored] == [(s.name, s.targets) for s in wanted]
    assert [s.lipschitz is None for s in stored] == [False, True]
    assert all(s.rows == 32 and s.distance > 0 and s.is_finite for s in stored)
    assert prepared.loaded.head_is_fitted
    again = measure_selections(prepared, ProbeSettings(), LoraSettings(), wanted, Session())
    assert again == stored
    assert probe.info["linearity"] == [s.as_dict() for s in again]


def test_measuring_alone_fits_the_head_first(ready: Callable[..., Prepared], bert: Bert) -> None:
    """As when a cached probe is loaded and the pick is measured on a fresh model."""
    prepared, probe, _ = bert
    fresh = ready("bert", "binary")
    assert not fresh.loaded.head_is_fitted
    everything = all_linear(fresh.loaded.targets)
    pick = workflow.measure_pick(fresh, ProbeSettings(), LoraSettings(), Session())(everything)
    assert fresh.loaded.head_is_fitted
    assert pick == Linearity.from_dict(probe.info["linearity"][0])
    unfitted = measure_selections(ready("bert", "binary"), ProbeSettings(head="fresh"), LoraSettings(), [everything], Session())
    assert unfitted[0].residual != pick.residual
    assert prepared.loaded.head_is_fitted


def test_bounds_of_the_flow_are_there_where_it_was_measured(bert: Bert) -> None:
    """Theorems 2 and 4, estimated, for all-linear at the default rank; no such entries for anything else."""
    _, probe, _ = bert
    scorer = make_scorer(probe)
    everything = Candidate(all_linear(probe.targets), LoraSettings())
    stored = scorer.linearity(everything)
    assert stored is not None
    assert stored.flow is not None
    flow = {b.id: b for b in scorer.bounds(everything) if b.id in ("Thm 2", "Thm 3", "Thm 4")}
    assert set(flow) == {"Thm 2", "Thm 4"}
    assert {b.status for b in flow.values()} == {ESTIMATED}
    assert all(b.reason and b.high is not None and math.isfinite(b.high) for b in flow.values())
    assert flow["Thm 2"].high == pytest.approx(stored.distance)  # at the horizon the path may reach the sphere
    assert [b.as_dict() for b in scorer.bounds(everything)] == json.loads(
        json.dumps([b.as_dict() for b in scorer.bounds(everything)], allow_nan=False)
    )
    qv = next(s for s in target_sets(probe.targets, ("query", "value")) if s.name == "q,v")
    assert scorer.linearity(Candidate(qv, LoraSettings())) is not None
    others = [
        Candidate(qv, LoraSettings()),  # measured without constants
        Candidate(Selection("one", (probe.targets[0].name,)), LoraSettings()),
        Candidate(everything.selection, LoraSettings(4, 16)),
        Candidate(everything.selection, LoraSettings(8, 16, True)),
        replace(everything, ranks={probe.targets[0].name: 2}),
        replace(everything, alphas={probe.targets[0].name: 2.0}),
    ]
    for other in others:
        assert not {b.id for b in scorer.bounds(other)} & {"Thm 2", "Thm 3", "Thm 4"}
    for other in others[1:]:
        assert scorer.linearity(other) is None  # other modules, or another rank than it was measured at


def test_theorem_2_survives_rounding_at_the_edge_of_the_ball() -> None:
    """Its time is when the bound reaches the radius: rounding must not push it out."""
    probe = make_probe(n=32, layers=1)
    names = tuple(t.name for t in probe.targets)
    rows = make_rows(2, 6)
    for number in range(30):
        numbers = {"lipschitz": 1.1 + number / 7, "residual": 0.3 + number / 11, "distance": 1 / (1 + number)}
        seen = replace(WITH_CONSTANTS, targets=names, **numbers)
        scorer = make_scorer(replace(probe, info={**probe.info, "linearity": [seen.as_dict()]}), rows)
        bounds = scorer.bounds(Candidate(Selection("s", names), LoraSettings()))
        found = {b.id: b.status for b in bounds if b.id in ("Thm 2", "Thm 4")}
        assert found == {"Thm 2": ESTIMATED, "Thm 4": ESTIMATED}, number


def test_it_can_be_left_out(ready: Callable[..., Prepared], bert: Bert, tmp_path: Path) -> None:
    """Nothing else changes by it."""
    probe = run_probe(ready("bert", "binary"), ProbeSettings(linearity=False), tmp_path / "p", Session())
    assert probe.info["linearity"] == []
    assert (probe.weight_blocks == bert[1].weight_blocks).all()
    assert (probe.gradient_blocks == bert[1].gradient_blocks).all()
    scorer = make_scorer(probe)
    everything = Candidate(all_linear(probe.targets), LoraSettings())
    assert scorer.linearity(everything) is None
    assert not {b.id for b in scorer.bounds(everything)} & {"Thm 2", "Thm 4"}


def test_too_large_or_too_little_memory_is_said_and_leaves_the_rest(
    ready: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_memory(*arguments: Any, **options: Any) -> list[Linearity]:
        raise OutOfMemory("One row of 9 tokens does not fit in memory.", "Lower --max-length.")

    events: list[Event] = []
    with monkeypatch.context() as patch:
        patch.setattr(linear_check, "measure_linearity", no_memory)
        probe = run_probe(ready("bert", "binary"), ProbeSettings(linearity=True), tmp_path / "a", Session(emit=events.append))
    assert probe.info["linearity"] == []
    assert any(isinstance(e, Warn) and "Linearity: not measured. One row" in e.text for e in events)
    monkeypatch.setattr(linear_check, "COPYABLE_PARAMETERS", 100)
    prepared = ready("bert", "binary")
    selection = all_linear(prepared.loaded.targets)
    assert measure_selections(prepared, ProbeSettings(), LoraSettings(), [selection], Session(emit=events.append)) == []
    assert not prepared.loaded.head_is_fitted
    assert any(isinstance(e, Note) and "too large" in e.text for e in events)
    assert workflow.measure_pick(prepared, ProbeSettings(), LoraSettings(), Session())(selection) is None


@pytest.mark.parametrize(
    ("name", "kind"), [("gpt2", "regression"), ("llama", "causal-lm"), ("roberta", "four"), ("bert", "twelve")]
)
def test_other_tasks_have_it_too(ready: Callable[..., Prepared], name: str, kind: str) -> None:
    prepared = ready(name, kind)
    one = Selection("one", (prepared.loaded.targets[0].name,))
    seen = measure_selections(prepared, ProbeSettings(), LoraSettings(2, 4, True), [one], Session())[0]
    assert seen.is_finite
    assert seen.distance >= seen.lora_distance > 0
    assert (seen.flow is None) == (kind == "twelve")


# --- the recommendation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measured", [True, False])
def test_the_recommendation_says_it_of_the_pick(
    bert: Bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: bool
) -> None:
    """Measured on the model where the probe has nothing; the same in JSON, verdict and report."""
    prepared, probe, _ = bert
    monkeypatch.setattr(recommend_module, "STABILITY_DRAWS", 2)
    monkeypatch.setattr(workflow, "load_rows", lambda: make_rows(2, 8))
    asked: list[Selection] = []

    def linearity_of(selection: Selection) -> Linearity | None:
        asked.append(selection)
        return replace(PLAIN, selection=selection.name, targets=selection.targets, gaps=(0.1, 0.333)) if measured else None

    written = workflow.recommend_folder(
        probe,
        workflow.Question(
            LoraSettings(4, 8),
            TrainingRecipe(),
            parse_budget("30%"),
        ),
        Session(),
        tmp_path / "out",
        linearity_of=linearity_of,
    )
    shown = json.loads((tmp_path / "out" / "recommendation.json").read_text())
    report = (tmp_path / "out" / "report.md").read_text()
    assert [list(s.targets) for s in asked] == [shown["pick"]["targets"]]
    (line,) = (line for line in written.verdict if line.startswith("Linear"))
    assert line in report
    assert shown == sealed(written.json)
    if measured:
        assert Linearity.from_dict(shown["linearity"]).targets == asked[0].targets
        assert (shown["linearity"]["verdict"], shown["linearity"]["gap"]) == (PARTLY, 0.333)
        assert "rough model here: at the kernel ridge solution of the pick" in line
        assert "33%" in line
    else:
        assert shown["linearity"] is None
        assert line == "Linearity was not measured; --linearity does."
    assert prepared.loaded.head_is_fitted


def test_what_was_warned_of_on_loading_stands_in_report_and_json(
    bert: Bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that weights which the folder lacks stay random; also where the probe is found and no model is loaded."""
    _, probe, _ = bert
    monkeypatch.setattr(recommend_module, "STABILITY_DRAWS", 2)
    monkeypatch.setattr(workflow, "load_rows", lambda: make_rows(2, 8))
    said = [{"text": f"{kind} of loading.", "warning": kind == "Warning", "brief": False} for kind in ("Warning", "Note")]
    asked = workflow.Question(LoraSettings(), TrainingRecipe(), parse_budget("100%"))
    warned = replace(probe, info={**probe.info, "said": said})
    written = workflow.recommend_folder(warned, asked, Session(), tmp_path / "out")
    assert "Warning of loading." in written.json["warnings"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Warning of loading." in report
    assert "Note of loading." not in report


def test_what_the_probe_knows_is_not_measured_again(bert: Bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All-linear at the default rank and 100 %: taken from the probe, constants and all."""
    _, probe, _ = bert
    monkeypatch.setattr(recommend_module, "STABILITY_DRAWS", 2)
    monkeypatch.setattr(workflow, "load_rows", lambda: make_rows(2, 8))

    def never(selection: Selection) -> Linearity | None:
        raise AssertionError(selection)

    written = workflow.recommend_folder(
        probe,
        workflow.Question(LoraSettings(), TrainingRecipe(), parse_budget("100%"), strategy="objective"),
        Session(),
        tmp_path / "out",
        linearity_of=never,
    )
    assert written.json["linearity"] == probe.info["linearity"][0]
    assert written.json["linearity"]["lipschitz"] > 0
    assert {"Thm 2", "Thm 4"} <= {b["id"] for b in written.json["pick"]["bounds"]}
