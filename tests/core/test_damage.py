"""Any flipped bit, cut or foreign field in a file of ours: the same content as before, or one line that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fakes import make_probe, make_rows, run_row
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from advisor.core.errors import BadInput
from advisor.core.probe import load_probe, save_probe
from advisor.core.targets import LoraSettings, Selection
from advisor.export.plan import Plan
from advisor.prediction.calibration_rows import parse_rows
from advisor.prediction.selection_file import parse_selections, read_selections
from advisor.training.runner import PlannedRun
from advisor.training.runs import RUNS_FILE, read_runs

PROBE = make_probe(n=16, layers=1)
NAME = PROBE.targets[0].name
PLAN = Plan(
    Selection("pick", (NAME,)), LoraSettings(), PROBE.targets, "classification", ("classifier",), "m", outputs=3, ranks={NAME: 4}
)


def read_probe(path: Path) -> Any:
    probe = load_probe(path.parent)
    arrays = {name: value.tobytes() for name, value in vars(probe).items() if hasattr(value, "tobytes")}
    known = {name: probe.info[name] for name in PROBE.info}  # the name of the checksum itself may be what was hit
    return arrays, probe.targets, known, probe.head and probe.head.weight.tobytes()


def read_selection(path: Path) -> Any:
    entries, where = read_selections(path)
    return parse_selections(entries, PROBE, LoraSettings(), where)


READERS: dict[str, Callable[[Path], Any]] = {
    "probe.json": read_probe,
    "blocks.safetensors": read_probe,
    "runs.jsonl": lambda path: read_runs(path.parent),
    "rows.jsonl": lambda path: parse_rows(path.read_bytes().splitlines(), str(path)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind."""
    from advisor.training.runs import _append

    folder = tmp_path_factory.mktemp("files")
    save_probe(PROBE, folder)
    for seed in range(2):
        _append(folder / RUNS_FILE, run_row(PlannedRun(Selection("s", (NAME,)), LoraSettings(), seed)))
    (folder / "rows.jsonl").write_text("".join(row.as_json() + "\n" for row in make_rows(1, 2, 1)))
    (folder / "selection.json").write_text(json.dumps([{"name": "a", "targets": [NAME], "rank": 4, "alpha": 8}]))
    return folder


MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_found_or_changes_nothing(folder: Path, name: str) -> None:
    path, read = folder / name, READERS[name]
    whole = path.read_bytes()
    sound = read(path)

    named = whole.find(b'"checksum"')
    examples = [(named + i, bit) for i in range(1, 9) for bit in range(8)] if named >= 0 else []

    @MANY
    @given(st.integers(0, len(whole) - 1), st.integers(0, 7))
    def flip(at: int, bit: int) -> None:
        content = bytearray(whole)
        content[at] ^= 1 << bit
        path.write_bytes(content)
        try:
            found = read(path)
        except BadInput as error:
            assert name in error.what  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            assert len(str(error)) < 1000  # noqa: PT017
        else:
            # A line break that is lost or made at the very end cuts off the last line, which is then done again.
            assert found == sound or (isinstance(found, list) and found == sound[: len(found)])

    for place in examples:
        flip = example(*place)(flip)
    try:
        flip()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", READERS)
def test_a_cut_is_found_or_leaves_whole_lines(folder: Path, name: str) -> None:
    path, read = folder / name, READERS[name]
    whole = path.read_bytes()
    sound = read(path)

    @MANY
    @example(0)
    @given(st.integers(0, len(whole) - 1))
    def cut(at: int) -> None:
        path.write_bytes(whole[:at])
        try:
            found = read(path)
        except BadInput as error:
            assert name in error.what  # noqa: PT017
        else:
            assert found == sound or (isinstance(found, list) and found == sound[: len(found)])

    try:
        cut()
    finally:
        path.write_bytes(whole)


VALUES = st.sampled_from(
    [None, True, 0, -1, 10**400, 1e308, float("nan"), "x", "\ud800", [], {}, [1], {"a": 1}, [[]], "x" * 9999]
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value in a JSON object."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [found for key, value in inner for found in [(*path, key), *places(value, (*path, key))]]


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(content))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return copy


@pytest.mark.parametrize("name", ["probe.json", "runs.jsonl", "rows.jsonl", "selection.json"])
def test_a_field_of_another_kind_names_the_file(folder: Path, name: str) -> None:
    """Also in files of older versions, which have no checksum."""
    path, read = folder / name, {**READERS, "selection.json": read_selection}[name]
    whole = path.read_bytes()
    content = json.loads(whole.splitlines()[0] if name.endswith("l") else whole)
    if isinstance(content, dict):
        content.pop("checksum", None)

    @MANY
    @given(st.sampled_from(places(content)), VALUES)
    def change(place: tuple[Any, ...], value: Any) -> None:
        path.write_text(json.dumps(replaced(content, place, value)) + "\n")
        try:
            read(path)
        except BadInput as error:
            assert name in error.what  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            assert len(str(error)) < 1000  # noqa: PT017

    try:
        change()
    finally:
        path.write_bytes(whole)


@MANY
@given(st.sampled_from(places(json.loads(json.dumps(PLAN.as_dict())))), VALUES)
def test_a_plan_with_a_field_of_another_kind_is_refused_or_can_be_read(place: tuple[Any, ...], value: Any) -> None:
    changed = replaced(PLAN.as_dict(), place, value)
    try:
        plan = Plan.from_dict(changed, "here")
    except BadInput as error:
        assert error.what.startswith("here: plan")  # noqa: PT017
    else:
        assert isinstance(plan.settings, LoraSettings)
        assert set(plan.names) <= {target.name for target in plan.targets}
        assert asdict(plan)
