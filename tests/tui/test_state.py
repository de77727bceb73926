"""The session's model, without any interface."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.candidate import Candidate
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from tui.engine import Opened
from tui.inputs import Inputs
from tui.state import EDITED, Change, State

SCORER = fakes.make_scorer(fakes.make_probe(n=16, layers=2))
TARGETS = SCORER.probe.targets
NAMES = [t.name for t in TARGETS]


def opened_state(names: list[str] | None = None) -> State:
    state = State()
    none = fakes.np.zeros(len(TARGETS))
    chosen = tuple(NAMES[:3] if names is None else names)
    state.open(
        Opened(Path("probe"), SCORER, none, none, none, {}, Inputs()), Candidate(Selection("start", chosen), LoraSettings())
    )
    return state


def test_toggling_adds_then_removes_in_model_order() -> None:
    state = opened_state([])
    state.toggle([NAMES[5], NAMES[1]])
    assert state.current is not None
    assert state.current.selection == Selection(EDITED, (NAMES[1], NAMES[5]))
    state.toggle([NAMES[5]])
    assert state.chosen == {NAMES[1]}


def test_a_group_is_completed_before_it_is_removed() -> None:
    state = opened_state()
    state.toggle(NAMES[2:5])
    assert state.chosen == set(NAMES[:5])
    state.toggle(NAMES[2:5])
    assert state.chosen == set(NAMES[:2])


def test_unknown_names_change_nothing() -> None:
    state = opened_state()
    state.toggle(["no such module"])
    assert not state._undo


def test_without_a_probe_nothing_happens() -> None:
    state = State()
    state.toggle(NAMES)
    assert (state.current, state.chosen, state.params, state.undo(), state.redo(), state.reset()) == (
        None,
        frozenset(),
        0,
        False,
        False,
        False,
    )


@given(st.lists(st.lists(st.integers(0, len(NAMES) - 1), min_size=1, max_size=4), min_size=1, max_size=12))
def test_undo_leads_back_through_every_selection_and_redo_forth(groups: list[list[int]]) -> None:
    state = opened_state()
    seen = [state.current]
    for group in groups:
        state.toggle(NAMES[i] for i in group)
        seen.append(state.current)
    for expected in reversed(seen[:-1]):
        assert state.undo()
        assert state.current == expected
    assert not state.undo()
    for expected in seen[1:]:
        assert state.redo()
        assert state.current == expected
    assert not state.redo()


def test_a_change_after_undo_forgets_what_was_undone() -> None:
    state = opened_state()
    state.toggle([NAMES[7]])
    state.undo()
    state.toggle([NAMES[8]])
    assert not state.redo()
    assert NAMES[7] not in state.chosen


@given(st.sets(st.integers(0, len(NAMES) - 1)), st.integers(1, 16))
def test_parameters_are_those_of_the_cost_model(chosen: set[int], rank: int) -> None:
    state = opened_state()
    own = {NAMES[i]: 3 for i in sorted(chosen)[:2]}
    candidate = Candidate(Selection("x", tuple(NAMES[i] for i in sorted(chosen))), LoraSettings(rank), own)
    assert state.params_of(candidate) == SCORER.cost(candidate).params


def test_ranks_of_removed_modules_go_with_them() -> None:
    state = opened_state()
    state.choose(Candidate(Selection("x", tuple(NAMES[:2])), LoraSettings(), {NAMES[0]: 2, NAMES[1]: 4}, {NAMES[0]: 8.0}))
    state.toggle([NAMES[0]])
    assert state.current is not None
    assert (state.current.ranks, state.current.alphas) == ({NAMES[1]: 4}, {})


def test_listeners_hear_what_changed_until_they_stop() -> None:
    state = opened_state()
    heard: list[Change] = []
    stop = state.subscribe(heard.append)
    state.toggle([NAMES[4]])
    state.show_measure("gain")
    state.show_measure("gain")
    state.show_measure("no such measure")
    state.keep("mine")
    state.set_inputs(rank=4)
    stop()
    state.undo()
    assert heard == [Change.SELECTION, Change.MEASURE, Change.NAMED, Change.INPUTS]


def test_kept_selections_name_what_equals_them() -> None:
    state = opened_state()
    state.keep("mine")
    state.toggle([NAMES[4]])
    assert state.title == EDITED
    state.toggle([NAMES[4]])
    assert state.title == "mine"
    state.forget("mine")
    assert not state.named


def test_opening_another_probe_drops_everything_said_of_the_last() -> None:
    state = opened_state()
    state.toggle([NAMES[4]])
    state.keep("mine")
    assert state.opened is not None
    state.open(state.opened, Candidate(all_linear(TARGETS), LoraSettings()))
    assert (state._undo, state.named, state.figures, state.recommendation) == ([], {}, None, None)
    assert state.chosen == set(NAMES)


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"rank": "eight"},
        {"rank": None},
        {"rank": True},
        {"budget": 5},
        {"epochs": "x"},
        {"alpha": []},
        {"no": 1},
        {"text_column": ""},
        {"text_column": [1]},
        {"model": None},
    ],
)
def test_inputs_that_another_version_wrote_fall_back_to_defaults(found: dict[str, object]) -> None:
    assert Inputs.from_dict(found) == Inputs()


def test_inputs_survive_the_trip_through_json() -> None:
    inputs = Inputs(model="m", data="d", text_column=("a", "b"), rank=4, lr=3e-4, rslora=True, budget="12modules")
    assert Inputs.from_dict(inputs.as_dict()) == inputs


def test_a_selection_that_only_a_search_has_named_is_not_called_by_its_number() -> None:
    state = opened_state()
    state.choose(Candidate(Selection("searched #138", tuple(NAMES[:2])), LoraSettings()))
    assert state.title == "found by the last search"
