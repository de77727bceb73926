"""Files are whole or not there; every failure names the file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from advisor.core import store
from advisor.core.errors import BadInput, NotFinite


def test_text_comes_back_as_utf8_without_newline_changes(tmp_path: Path) -> None:
    store.write_text(tmp_path / "a.md", "Ω\r\nnaïve\n")
    assert (tmp_path / "a.md").read_bytes() == "Ω\r\nnaïve\n".encode()


def test_json_round_trip_replaces_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    store.write_json(path, {"old": 1})
    store.write_json(path, {"σ": [1.5, None, True]})
    assert store.read_json(path, "probe") == {"σ": [1.5, None, True]}
    assert os.listdir(tmp_path) == ["probe.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [{"x": float("-inf")}]])
def test_json_refuses_numbers_that_are_not_finite(tmp_path: Path, value: object) -> None:
    path = tmp_path / "probe.json"
    store.write_json(path, {"kept": 1})
    with pytest.raises(NotFinite, match=r"probe\.json"):
        store.write_json(path, value)
    assert store.read_json(path, "probe") == {"kept": 1}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "probe.json"
    store.write_text(path, "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(BadInput, match=r"probe\.json: cannot be written: No space left on device"):
        store.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["probe.json"]


def test_any_error_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "blocks.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), store.replacing(path) as part:
        _write_half(part)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["blocks.safetensors"]


def _write_half(part: Path) -> None:
    part.write_bytes(b"half of the n")
    raise ZeroDivisionError


def test_kill_in_the_middle_of_a_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    store.write_json(path, {"kept": 1})
    program = (
        "import os, pathlib, signal, sys\n"
        "from advisor.core import store\n"
        "os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.write_json(pathlib.Path(sys.argv[1]), {'kept': 2})\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False, env={**os.environ, "PYTHONPATH": str(root)})
    assert done.returncode == -9
    assert store.read_json(path, "probe") == {"kept": 1}


@pytest.mark.parametrize("place", ["missing/a.json", "file/a.json", "folder"])
def test_places_that_cannot_be_written_are_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match=place) as caught:
        store.write_text(tmp_path / place, "x")
    assert caught.value.exit_code == 2
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "damaged"),
        (b'{"a": 1', "damaged"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b"\xff\xfe\xff", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"[1]", r"not a JSON object \(list\)"),
        (b"null", r"not a JSON object \(NoneType\)"),
    ],
)
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "probe.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"probe\.json: .*{says}") as caught:
        store.read_json(path, "probe")
    assert caught.value.exit_code == 2


def test_a_folder_in_place_of_a_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="this is not a regular file, so the probe"):
        store.read_json(tmp_path, "probe")


def test_inside_takes_plain_names_and_subfolders(tmp_path: Path) -> None:
    assert store.inside(tmp_path, "lora.yaml") == tmp_path / "lora.yaml"
    assert store.inside(tmp_path, "sub/lora.yaml") == tmp_path / "sub" / "lora.yaml"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "sub/../../x", "/etc/passwd", "a\0b", "link/x"])
def test_inside_refuses_names_that_lead_out(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="inside"):
        store.inside(folder, name)


def test_import_loads_no_torch() -> None:
    root = Path(__file__).resolve().parents[2]
    program = "import sys, advisor.core.store; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": str(root)})
