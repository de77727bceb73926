"""Folders of probes: saved and loaded, damaged, of another model or data, or in use by another process."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from probes import Stop, same
from safetensors.numpy import load_file, save_file

from advisor.core.errors import BadInput, Interrupted
from advisor.core.events import Session
from advisor.core.folders import LOCK_FILE
from advisor.core.probe import load_probe, save_probe
from advisor.models.prepare import Prepared, Source, prepare
from advisor.probe_cache import made_from
from advisor.probing.run import PARTIAL, run_probe
from advisor.probing.settings import ProbeSettings

TinyModel = Callable[..., Path]
Ready = Callable[..., Prepared]
SETTINGS = ProbeSettings(linearity=False)


@pytest.fixture(scope="module")
def finished(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished probe of BERT; copy before changing it."""
    folder = tmp_path_factory.mktemp("finished")
    path, _ = oracle.write_rows(folder, "binary")
    source = Source(str(tiny_model("bert")), str(path), eval_data=str(path), device="cpu", label_column="label")
    run_probe(prepare(source, Session()), SETTINGS, folder / "probe", Session())
    return folder / "probe"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "probe"))


def test_a_probe_survives_saving_and_loading(copied: Path, tmp_path: Path) -> None:
    probe = load_probe(copied)
    save_probe(probe, tmp_path / "again")
    again = load_probe(tmp_path / "again")
    assert same(probe, again)
    assert again.targets == probe.targets
    assert again.info == probe.info
    assert again.head is not None
    assert probe.samples == oracle.ROWS
    assert (probe.task, probe.class_names) == ("classification", ("c00", "c01"))


@pytest.mark.parametrize("partial", [False, True])
def test_the_folder_of_another_probe_is_refused(ready: Ready, tmp_path: Path, partial: bool) -> None:
    settings = ProbeSettings(micro_batch=6, linearity=False)
    if partial:
        with pytest.raises(Interrupted):
            run_probe(ready("gpt2", "binary"), settings, tmp_path / "p", Stop("Forward", 3).session)
    else:
        run_probe(ready("gpt2", "binary"), settings, tmp_path / "p", Session())
    with pytest.raises(BadInput, match="p: holds a probe with another settings"):
        run_probe(ready("gpt2", "binary"), replace(settings, seed=1), tmp_path / "p", Session())
    with pytest.raises(BadInput, match="another model fingerprint"):
        run_probe(ready("bert", "binary"), settings, tmp_path / "p", Session())
    with pytest.raises(BadInput, match="data fingerprint"):
        run_probe(ready("gpt2", "three"), settings, tmp_path / "p", Session())


def test_the_users_own_files_stay(ready: Ready, tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "identity.json").write_text("mine")
    run_probe(ready("gpt2", "binary"), ProbeSettings(micro_batch=6, linearity=False), tmp_path, Session())
    assert (tmp_path / "partial" / "identity.json").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"partial", "probe.json", "blocks.safetensors"}
    other = tmp_path / "other"
    other.mkdir()
    (other / "blocks.safetensors").write_text("mine")
    with pytest.raises(BadInput, match=r"blocks\.safetensors: is there already"):
        run_probe(ready("gpt2", "binary"), ProbeSettings(micro_batch=6, linearity=False), other, Session())
    assert [path.read_text() for path in other.iterdir()] == ["mine"]


def test_a_finished_probe_is_read_without_a_lock_and_swept(ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ProbeSettings(micro_batch=6, linearity=False)
    whole = run_probe(ready("gpt2", "binary"), settings, tmp_path, Session())
    (tmp_path / PARTIAL).mkdir()  # a process was killed while it removed this
    (tmp_path / PARTIAL / "rows-000000-000006.safetensors").write_text("x")
    (tmp_path / LOCK_FILE).write_text("1 on a machine")

    def refuse(*arguments: Any) -> None:
        raise AssertionError("a lock")

    monkeypatch.setattr("advisor.probing.run.locked", refuse)
    assert same(run_probe(ready("gpt2", "binary"), settings, tmp_path, Session()), whole)
    assert {path.name for path in tmp_path.iterdir()} == {"probe.json", "blocks.safetensors"}


def test_a_probe_killed_between_its_two_files_is_made_again(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, replaced = ProbeSettings(micro_batch=6, linearity=False), os.replace
    whole = run_probe(ready("gpt2", "binary"), settings, tmp_path / "whole", Session())

    def stop(old: Path, new: Path) -> None:
        if Path(new) == tmp_path / "p" / "probe.json":
            raise KeyboardInterrupt
        replaced(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            run_probe(ready("gpt2", "binary"), settings, tmp_path / "p", Session())
    assert (tmp_path / "p" / "blocks.safetensors").exists()
    assert same(run_probe(ready("gpt2", "binary"), settings, tmp_path / "p", Session()), whole)
    assert {path.name for path in (tmp_path / "p").iterdir()} == {"probe.json", "blocks.safetensors"}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path: Path, **changes: Any) -> None:
    info = json.loads(path.read_text())
    info.update(changes)
    path.write_text(json.dumps({k: v for k, v in info.items() if changes.get(k, "") is not None}))


def swap(path: Path, **changes: Any) -> None:
    arrays = load_file(path)
    arrays.update(changes)
    save_file({k: v for k, v in arrays.items() if v is not None}, path)


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "truncated blocks": ("blocks.safetensors", truncate),
    "empty blocks": ("blocks.safetensors", lambda p: p.write_bytes(b"")),
    "no blocks": ("blocks.safetensors", Path.unlink),
    "blocks are text": ("blocks.safetensors", lambda p: p.write_text("hello " * 99)),
    "another file's tensors": ("blocks.safetensors", lambda p: save_file({"a": np.ones(3)}, p)),
    "blocks of other size": ("blocks.safetensors", lambda p: swap(p, weight=np.ones((2, 36, 36), np.float32))),
    "a missing block": ("blocks.safetensors", lambda p: swap(p, gradient=None)),
    "a missing head": ("blocks.safetensors", lambda p: swap(p, head=None)),
    "a head of other size": ("blocks.safetensors", lambda p: swap(p, head=np.ones((5, 5), np.float32))),
    "an f0 of other size": ("blocks.safetensors", lambda p: swap(p, f0=np.ones((5, 1)))),
    "truncated probe": ("probe.json", truncate),
    "a list": ("probe.json", lambda p: p.write_text("[1, 2]")),
    "not text": ("probe.json", lambda p: p.write_bytes(bytes(range(256)))),
    "foreign JSON": ("probe.json", lambda p: p.write_text('{"model_type": "bert"}')),
    "another schema": ("probe.json", lambda p: edit(p, schema=0)),
    "no targets": ("probe.json", lambda p: edit(p, targets=None)),
    "garbled targets": ("probe.json", lambda p: edit(p, targets=[{"name": "x"}])),
    "targets are numbers": ("probe.json", lambda p: edit(p, targets=[1, 2])),
    "no task": ("probe.json", lambda p: edit(p, task=None)),
    "garbled head": ("probe.json", lambda p: edit(p, head_block={"norm": 1})),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_probe_is_refused_by_file(copied: Path, what: str) -> None:
    file, damage = DAMAGE[what]
    damage(copied / file)
    with pytest.raises(BadInput, match=file) as caught:
        load_probe(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", DAMAGE)
def test_what_a_damaged_probe_says_to_do_mends_it(copied: Path, finished: Path, what: str) -> None:
    file, damage = DAMAGE[what]
    damage(copied / file)
    (copied / "notes.txt").write_text("mine")
    source, settings = made_from(load_probe(finished), False)
    with pytest.raises(BadInput) as caught:
        run_probe(prepare(source, Session()), settings, copied, Session())
    for name in re.search(r"Delete (\S+) and (\S+) there, then probe again", caught.value.hint).groups():  # type: ignore[union-attr]
        (copied / name).unlink(missing_ok=True)
    assert same(run_probe(prepare(source, Session()), settings, copied, Session()), load_probe(finished))
    assert (copied / "notes.txt").read_text() == "mine"


def test_a_bfloat16_checkpoint_in_its_place_is_refused(copied: Path) -> None:
    from safetensors.torch import save_file as save_tensors

    save_tensors({"weight": torch.ones(2, 2, dtype=torch.bfloat16)}, copied / "blocks.safetensors")
    with pytest.raises(BadInput, match=r"blocks\.safetensors"):
        load_probe(copied)


def test_resuming_into_a_probe_without_identity_is_refused(copied: Path, ready: Ready) -> None:
    edit(copied / "probe.json", identity=None)
    with pytest.raises(BadInput, match=r"probe\.json: the field identity is missing"):
        run_probe(ready("bert", "binary"), SETTINGS, copied, Session())


def test_a_folder_without_a_probe_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"probe\.json: no such file"):
        load_probe(tmp_path)


@pytest.mark.parametrize(("field", "index"), [("weight", 3), ("gradient", 5), ("head", None)])
def test_a_nan_block_is_named(copied: Path, field: str, index: int | None) -> None:
    blocks = load_file(copied / "blocks.safetensors")[field].copy()
    blocks[(0, 1) if index is None else (index, 0, 1)] = np.nan
    swap(copied / "blocks.safetensors", **{field: blocks})
    edit(copied / "probe.json", files=None, checksum=None)  # as an older version wrote it
    name = "head" if index is None else json.loads((copied / "probe.json").read_text())["targets"][index]["name"]
    with pytest.raises(BadInput, match=rf"blocks\.safetensors: .*{name}.*NaN"):
        load_probe(copied)
