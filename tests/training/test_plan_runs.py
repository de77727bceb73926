"""Which real runs a calibration plans."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import bert_targets, make_probe, with_blocks

from advisor import real_runs
from advisor.core.errors import Interrupted
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import HEAD_ONLY, target_sets
from advisor.core.targets import LoraSettings
from advisor.models.prepare import Source
from advisor.training.runner import PlannedRun
from advisor.training.runs import plan_runs

TARGETS = bert_targets(4)
SETTINGS = LoraSettings(4, 8)
QV = ("query", "value")


def plan(runs: int, **options: Any) -> list[PlannedRun]:
    return plan_runs(TARGETS, TARGETS, QV, SETTINGS, runs=runs, **options)


def test_plan_starts_with_the_head_and_the_recipes() -> None:
    named = [HEAD_ONLY, *(s.name for s in target_sets(TARGETS, QV))]
    planned = plan(30)
    assert [p.selection.name for p in planned[: len(named)]] == named
    assert planned[0].selection.targets == ()
    assert len(planned) == 30
    assert len({p.selection.targets for p in planned}) == 30
    assert len({p.key for p in planned}) == 30
    total = sum(t.lora_params(4) for t in TARGETS)
    for p in planned[len(named) :]:
        share = float(p.selection.name.split()[1].rstrip("%")) / 100
        assert p.selection.params(TARGETS, 4) <= share * total + 1
        assert p.selection.params(TARGETS, 4) > 0.3 * share * total
    names = [p.selection.name for p in planned[len(named) :]]
    assert {n.split()[1] for n in names} == {"7%", "18%", "36%"}


def test_few_runs_are_a_prefix_of_many() -> None:
    assert [p.key for p in plan(12)] == [p.key for p in plan(30)][:12]
    assert [p.selection.name for p in plan(2)] == [HEAD_ONLY, "all-linear"]


def test_seeds_repeat_every_selection() -> None:
    planned = plan(20, seeds=2)
    first, second = planned[:10], planned[10:]
    assert [p.seed for p in planned] == [0] * 10 + [1] * 10
    assert [p.selection for p in first] == [p.selection for p in second]
    assert len({p.key for p in planned}) == 20
    assert len(plan(21, seeds=2)) == 20
    assert plan(20) == plan(20)
    assert plan(20, seed=1)[:8] == plan(20)[:8]
    assert plan(20, seed=1)[12:] != plan(20)[12:]


def test_a_small_model_runs_out_of_selections() -> None:
    small = plan_runs(bert_targets(1), bert_targets(1), QV, SETTINGS, runs=500)
    assert 10 < len(small) < 2**6
    assert len({p.selection.targets for p in small}) == len(small)


@pytest.mark.parametrize(
    ("runs", "seeds", "says"),
    [
        (3, 2, ["2 runs, not 3: selections × seeds are 1 × 2.", "No run adapts a module: the first selection is"]),
        (7, 2, ["6 runs, not 7: selections × seeds are 3 × 2."]),
        (6, 2, []),
    ],
)
def test_fewer_runs_than_asked_for_and_none_that_adapt_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int, seeds: int, says: list[str]
) -> None:
    probe = make_probe()
    loaded = SimpleNamespace(made_of={}, loaded=SimpleNamespace(task=probe.task))
    monkeypatch.setattr(real_runs, "prepare", lambda *_, **__: loaded)

    def calibrate(*_: Any, **__: Any) -> list[Any]:
        raise Interrupted("Enough.")

    monkeypatch.setattr(real_runs, "calibrate", calibrate)
    events: list[Any] = []
    options: dict[str, Any] = {"train_rows": 8, "runs": runs, "seeds": seeds, "workers": 1, "eval_rows": 6, "probe": probe}
    with pytest.raises(Interrupted):
        real_runs.calibrate_folder(
            Source("m", "d"), SETTINGS, lambda task: TrainingRecipe(), tmp_path, Session(events.append), **options
        )
    said = [event.text for event in events if hasattr(event, "text")]
    assert len(said) == len(says)
    assert all(text.startswith(start) for text, start in zip(said, says, strict=True))


def test_random_selections_are_of_modules_that_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which the probe tells, so that it is made before them; the common target sets are as PEFT has them."""
    probe = make_probe()
    asleep = [t.name for t in probe.targets][::3]
    blocks = {name: getattr(probe, name).copy() for name in ("weight_blocks", "gradient_blocks")}
    for array in blocks.values():
        array[::3] = 0
    made_of = {"model_fingerprint": "m"}
    loaded = SimpleNamespace(made_of=made_of, loaded=SimpleNamespace(task=probe.task))
    monkeypatch.setattr(real_runs, "prepare", lambda *_, **__: loaded)
    monkeypatch.setattr(real_runs, "run_probe", lambda *_: with_blocks(probe, **blocks))
    planned: list[PlannedRun] = []

    def calibrate(source: Source, runs: list[PlannedRun], *_: Any, **__: Any) -> list[Any]:
        planned.extend(runs)
        raise Interrupted("Enough.")

    monkeypatch.setattr(real_runs, "calibrate", calibrate)
    recipe = TrainingRecipe(train_rows=8)
    options: dict[str, Any] = {"train_rows": 8, "runs": 40, "seeds": 1, "workers": 1, "eval_rows": 6}
    with pytest.raises(Interrupted):
        real_runs.calibrate_folder(Source("m", "d"), SETTINGS, lambda task: recipe, tmp_path, Session(), **options)
    usual = {s.name for s in target_sets(probe.targets, QV)} | {HEAD_ONLY}
    drawn = [run.selection for run in planned if run.selection.name not in usual]
    assert len(drawn) > 20
    assert not any({*selection.targets} & {*asleep} for selection in drawn)
    assert any({*run.selection.targets} >= {*asleep} for run in planned)
