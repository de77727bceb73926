"""Where a file cannot say the pick: the best selection that it can, written beside it, trains in its tool what it says."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from command import advisor, refused, write_data
from exporting import tool_arguments, trained

from advisor.advice.recommend import pick
from advisor.api import recommend
from advisor.core.candidate import Candidate
from advisor.core.events import Session
from advisor.core.folders import WRITTEN_FILE
from advisor.core.reading import sealed
from advisor.core.targets import Selection
from advisor.export import FORMATS
from advisor.export.alternatives import PREFIX, best_for, can_say, sayable
from advisor.export.plan import Plan, plan_of
from advisor.models.load import meta_model
from advisor.results import Recommended

MODELS = {"bert": "classification", "gpt2": "causal-lm", "gpt_neox": "causal-lm", "llama": "causal-lm"}
ONE_RANK = {"llama-factory": "llama_factory.yaml", "trl": "trl.yaml"}


@dataclass(frozen=True)
class Advice:
    """A recommendation in every format, each module at a rank of its own."""

    name: str
    model: Path
    found: Recommended
    notes: list[str]

    @property
    def json(self) -> dict[str, Any]:
        return self.found.json


@pytest.fixture(scope="module", params=MODELS)
def advice(
    request: pytest.FixtureRequest,
    tiny_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    own_folders: Path,
) -> Advice:
    name, folder = request.param, tmp_path_factory.mktemp("advice")
    model, notes = tiny_model(name, MODELS[name]), []
    session = Session(lambda event: notes.append(str(getattr(event, "text", ""))))
    found = recommend(
        model,
        write_data(folder, MODELS[name]),
        samples=24,
        device="cpu",
        budget="60%",
        rank="auto",
        out=folder / "r",
        format=list(FORMATS),
        session=session,
    )
    return Advice(name, model, found, notes)


def trains(advice: Advice, plan: Plan, file: str, text: str) -> None:
    """PEFT, handed what the file's tool hands it, gives LoRA to the plan's modules alone, at its ranks and scales."""
    model = meta_model(str(advice.model), plan.task, num_labels=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        found = trained(model, tool_arguments(file, text))
    own = {name: plan.module_settings(name) for name in plan.names}
    assert found == {name: (settings.rank, pytest.approx(settings.scale)) for name, settings in own.items()}


def test_what_is_written_beside_a_file_trains_what_it_says(advice: Advice) -> None:
    folder, pick_plan = advice.found.folder, advice.json["plan"]
    written = [p.name for p in folder.iterdir() if p.name.startswith(PREFIX)]
    kept = [(name, file, each) for name, f in advice.json["formats"].items() for file, each in f["alternatives"].items()]
    assert sorted(PREFIX + file for _, file, _ in kept) == sorted(written)
    assert set(written) <= set(advice.found.files)
    for name, file, each in kept:
        plan = Plan.from_dict({**pick_plan, **each["plan"]}, "here")
        text = (folder / f"{PREFIX}{file}").read_text()
        trains(advice, plan, file, text)
        assert set(plan.names) != set(pick_plan["selection"]["targets"])
        assert text.splitlines()[1] == f"# {each['reason']}"
        assert "Another selection than the one chosen" in each["reason"]
        assert f"{plan.params:,} LoRA parameters" in each["reason"]
        said = [line for line in (*advice.notes, *advice.json["warnings"]) if f"{PREFIX}{file}: {each['reason']}" in line]
        assert said, name
        assert "Exact" not in (folder / file).read_text()


def test_a_classifier_has_none_in_tools_for_language_models(advice: Advice) -> None:
    found = [file for f in advice.json["formats"].values() for file in f["alternatives"]]
    if advice.name == "bert":
        assert found == []
    if advice.name == "gpt_neox":
        assert "unsloth_studio.yaml" in found  # which takes whole roles of this family


def test_export_writes_the_same_bytes(advice: Advice, tmp_path: Path) -> None:
    folder = advice.found.folder
    assert advisor("export", folder, "--format", ",".join(FORMATS), "--out", tmp_path).code == 0
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in folder.iterdir()} - {
        "recommendation.json",
        "report.md",
        "report.html",
    }
    for path in set(tmp_path.iterdir()) - {tmp_path / WRITTEN_FILE}:
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


def test_the_best_of_all_whole_roles_is_found(advice: Advice) -> None:
    """By the pick's own rule, among all unions of roles that fit; GPT-NeoX has four."""
    if advice.name != "gpt_neox":
        pytest.skip("only here a file takes whole roles alone")
    scorer, rec = advice.found.scorer, advice.found.advice
    targets = scorer.probe.targets
    roles = list(dict.fromkeys(t.role for t in targets))
    unions = [set(u) for n in range(1, len(roles) + 1) for u in itertools.combinations(roles, n)]
    pool = [Candidate(Selection("u", tuple(t.name for t in targets if t.role in u)), scorer.settings) for u in unions]
    costs = [scorer.cost(candidate) for candidate in pool]
    fits = [
        i
        for i, (c, cost) in enumerate(zip(pool, costs, strict=True))
        if rec.budget.allows(cost, len(c.selection.targets), targets, scorer.settings.rank)
    ]
    predictions, params = scorer.predict(pool), scorer.weights(pool).params.sum(1).astype(int)
    best, _ = pick(predictions, params, fits)
    alternative = advice.json["formats"]["unsloth"]["alternatives"]["unsloth_studio.yaml"]
    assert tuple(alternative["plan"]["selection"]["targets"]) == pool[best].selection.targets


@pytest.mark.parametrize("name", ONE_RANK)
def test_in_place_of_a_poor_pick_another_at_one_rank(advice: Advice, name: str) -> None:
    """What a file with one rank can say best does not depend on what was picked, and it trains that."""
    if advice.name == "bert":
        pytest.skip("these tools know no classifiers")
    scorer, rec, file = advice.found.scorer, advice.found.advice, ONE_RANK[name]
    pool = sayable(scorer, rec, 0, Session())
    assert not any(candidate.ranks for candidate in pool)
    by_loss = sorted(pool, key=lambda c: scorer.predict([c]).deviation[0])
    poor = by_loss[-1].selection
    first = poor.targets[0]
    picked = Candidate(poor, scorer.settings, {first: 3}, {first: 5.0})
    plan = plan_of(picked, scorer.probe)
    if len(poor.targets) > 1:
        assert not can_say(FORMATS[name], file, plan, picked) or FORMATS[name].render(plan).files[file].fidelity == "lossy"
    other = replace(rec, picked=scorer.score([picked])[0])
    found = best_for(FORMATS[name], file, plan, pool, scorer, other)
    assert found is not None
    rendered = found.rendered(FORMATS[name])
    assert rendered.fidelity == "alternative"
    trains(advice, found.plan, file, rendered.text)
    targets, rank = scorer.probe.targets, scorer.settings.rank
    assert rec.budget.allows(scorer.cost(Candidate(found.plan.selection, scorer.settings)), len(found.plan.names), targets, rank)
    before, after = (scorer.predict([c]).deviation[0] for c in (picked, Candidate(found.plan.selection, found.plan.settings)))
    assert after <= before


def test_beyond_the_budget_an_alternative_stays_within_what_was_chosen(advice: Advice) -> None:
    if advice.name != "gpt_neox":
        pytest.skip("only here a file takes whole roles alone")
    scorer, rec = advice.found.scorer, advice.found.advice
    targets, rank = scorer.probe.targets, scorer.settings.rank
    mine = Candidate(Selection("mine", tuple(t.name for t in targets[1:])), scorer.settings)
    assert not rec.budget.allows(scorer.cost(mine), len(targets) - 1, targets, rank)
    plan = plan_of(mine, scorer.probe)
    found = best_for(FORMATS["unsloth"], "unsloth_studio.yaml", plan, sayable(scorer, rec, 0, Session()), scorer, rec)
    assert found is not None
    assert found.plan.params <= plan.params
    of_the_pick = advice.json["formats"]["unsloth"]["alternatives"]["unsloth_studio.yaml"]["plan"]["selection"]["targets"]
    before, after = scorer.predict(
        [Candidate(Selection("b", tuple(of_the_pick)), scorer.settings), Candidate(found.plan.selection, found.plan.settings)]
    ).deviation
    assert after <= before  # there is more room


def test_a_damaged_alternative_is_bad_input(advice: Advice, tmp_path: Path) -> None:
    shown = json.loads((advice.found.folder / "recommendation.json").read_text())
    for damaged, says in (
        ({"trl": {"alternatives": {"trl.yaml": {}}}}, "the field formats.trl.alternatives.trl.yaml.reason is missing"),
        ({"trl": 5}, "formats.trl is 5"),
        ([], "formats is []"),
        (
            {"trl": {"alternatives": {"../x": {"reason": "", "plan": {}}}}},
            "formats.trl.alternatives: '../x' is no file of this format",
        ),
    ):
        (tmp_path / "recommendation.json").write_text(json.dumps(sealed({**shown, "formats": damaged})))
        said = refused(2, "export", tmp_path, "--format", "trl", "--out", tmp_path / "o")
        assert f"recommendation.json: {says}" in said
        assert not (tmp_path / "o").exists()
