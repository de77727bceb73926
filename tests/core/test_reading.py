"""Reading files: special files, sizes, YAML aliases, checksums, and one short line for whatever is wrong."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter

from advisor.core import file_hash as module
from advisor.core.checked import Alpha, Count, Name, Rank, Written, check
from advisor.core.errors import BadInput
from advisor.core.file_hash import file_hash
from advisor.core.probe import load_probe
from advisor.core.reading import check_seal, checksum, parse_json, parse_yaml, read_bytes, sealed
from advisor.core.store import PROBE_FILE
from advisor.training.runs import RUNS_FILE, read_runs
from advisor.workflow import JSON_FILE, export_formats

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.randoms())
def test_a_seal_holds_through_json_in_any_order_and_breaks_with_any_change(content: dict[str, Any], random: Any) -> None:
    back = json.loads(json.dumps(sealed(content)))
    shuffled = dict(random.sample(list(back.items()), len(back)))
    check_seal(shuffled, "f", "")
    for key in content:
        if key != "checksum":
            with pytest.raises(BadInput, match="f: checksum"):
                check_seal({**back, key: [back[key]]}, "f", "")
    assert checksum(content) == checksum(back)


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for ever
    (tmp_path / "large").write_bytes(b"x" * 11)
    for name, said in (("fifo", "regular"), ("large", "at most 10"), (".", "regular"), ("none", "no such file")):
        with pytest.raises(BadInput, match=said):
            read_bytes(tmp_path / name, "thing", most=10)
    with pytest.raises(BadInput, match="not a regular"):
        read_bytes(Path("/dev/zero"), "thing")
    endless = Path("/proc/kmsg")  # a regular file of no size, whose reading waits for ever
    if endless.exists():
        assert read_bytes(endless, "thing") == b""


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [bomb(30), "&a [*a]", "[" * 100_000, "a: [1", "\x00", b"\xff\xfe\xff", "x: " + "9" * 10_000, "!!python/object:os.x {}"],
)
def test_yaml_that_is_too_much_is_refused_at_once(text: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError) as caught:
        parse_yaml(text)
    assert time.monotonic() - start < 60
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 400


def test_yaml_with_honest_aliases_is_read() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}
    assert parse_yaml("") is None


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "{", b"\xff", "NaN", "[Infinity]"])
def test_json_that_is_none_is_said_in_a_line(text: str) -> None:
    with pytest.raises(BadInput, match=r"^f: the thing is damaged") as caught:
        parse_json(text, "f", "thing")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text", ['{"r": 8, "r": 4}', '[{"a": {"r": 1, "x": 2, "r": 1}}]', r'{"r": 1, "\u0072": 2}', '{"a": [], "r": 1, "r": 2}']
)
def test_a_key_that_is_there_twice_is_named(text: str) -> None:
    with pytest.raises(BadInput, match=r"^f: the thing is damaged: the key 'r' is there twice"):
        parse_json(text, "f", "thing")
    with pytest.raises(ValueError, match="the key 'r' is there twice"):  # JSON is YAML too
        parse_yaml(text)


def test_a_key_twice_in_yaml_is_named_unless_a_merge_brings_it() -> None:
    for text in ("r: 1\n'r': 1", "a: {r: 1, r: 2}", "- r: 1\n  b: 2\n  r: 3", "a: &x {b: 1}\nr: *x\nr: 1"):
        with pytest.raises(ValueError, match="the key 'r' is there twice"):
            parse_yaml(text)
    merged = "a: &a {r: 1}\nb: &b {<<: *a, r: 2}\nc: {<<: *b, r: 3}\nd: {<<: [*a, *b]}"
    assert parse_yaml(merged) == {"a": {"r": 1}, "b": {"r": 2}, "c": {"r": 3}, "d": {"r": 1}}


class Example(Written):
    name: Name
    rank: Rank = 8
    alpha: Alpha = 16
    count: Count = 0
    pattern: dict[Name, Rank] = Field(default_factory=dict)


EXAMPLES = TypeAdapter(list[Example])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (3, "f: the content is 3: it should be a list"),
        ([{}], "f, entry 1: the field name is missing"),
        ([{"name": "a"}, {"name": "a", "rnak": 1}], "f, entry 2: the field 'rnak' is unknown. Did you mean rank?"),
        ([{"name": "a", "rank": True}], "f, entry 1: rank is true: it should be a whole number"),
        ([{"name": "a", "rank": 8.0}], "f, entry 1: rank is 8.0: it should be a whole number"),
        ([{"name": "a", "rank": 10**400}], "f, entry 1: rank is a whole number of 400 digits"),
        ([{"name": "a", "alpha": "16"}], "f, entry 1: alpha is '16': it should be a number"),
        ([{"name": "a", "alpha": float("nan")}], "f, entry 1: alpha is nan: it should be a finite number"),
        ([{"name": "a", "alpha": 10**400}], "f, entry 1: alpha is a whole number of 400 digits"),
        ([{"name": "\ud800"}], r"f, entry 1: name is '\ud800': it should be a text of valid Unicode"),
        ([{"name": "a", "pattern": {"x.0.y": 0}}], "f, entry 1: pattern.x.0.y is 0: it should be"),
        ([{"name": "a", "pattern": {"\x1b[31m": 0}}], r"f, entry 1: pattern.'\x1b[31m' is 0"),
    ],
)
def test_an_error_names_entry_and_field_in_one_short_line(content: Any, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        check(EXAMPLES, content, "f", "Correct it.")
    assert str(caught.value).startswith(said)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@given(JSON)
def test_whatever_the_content_it_fits_or_is_bad_input(content: Any) -> None:
    for value in (content, [content], [{"name": content}], [{"name": "a", "pattern": content}]):
        with suppress(BadInput):  # anything else fails the test
            check(EXAMPLES, value, "f", "Correct it.")


def test_a_whole_number_stays_one_where_any_is_allowed() -> None:
    assert type(check(EXAMPLES, [{"name": "a", "alpha": 16}], "f", "")[0].alpha) is int


def test_a_remembered_hash_is_trusted_only_while_the_file_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "REMEMBERED_FROM", 10)
    monkeypatch.setattr(module, "SETTLED", -1.0)
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 100)
    first = file_hash(path)
    (kept,) = (tmp_path / "cache").rglob("*.json")
    content = json.loads(kept.read_text())
    kept.write_text(json.dumps(sealed({"mark": content["mark"], "sha256": "remembered"})))
    assert file_hash(path) == "remembered"
    kept.write_text(json.dumps({**content, "sha256": "forged"}))  # the seal is broken
    assert file_hash(path) == first
    before = path.stat()
    path.write_bytes(b"a" * 50 + b"b" + b"a" * 49)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as an editor may leave it that keeps times
    assert file_hash(path) != first
    kept.write_text("[]")
    assert file_hash(path) not in (first, "remembered")


def test_a_file_changed_just_now_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change again within the resolution of the file system's clock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "REMEMBERED_FROM", 10)
    (tmp_path / "weights").write_bytes(b"a" * 100)
    file_hash(tmp_path / "weights")
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_what_a_newer_version_wrote_is_not_called_damaged(tmp_path: Path) -> None:
    """Else its owner would be told to delete it."""
    for name in (PROBE_FILE, JSON_FILE, RUNS_FILE):
        (tmp_path / name).write_text('{"schema": 99}\n', encoding="utf-8")
    for name, read in (
        (PROBE_FILE, load_probe),
        (RUNS_FILE, read_runs),
        (JSON_FILE, lambda folder: export_formats(folder, ["peft"], folder)),
    ):
        with pytest.raises(BadInput, match=rf"{name}.*: a newer version of the advisor wrote it\. Update this one\."):
            read(tmp_path)
