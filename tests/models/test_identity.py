"""A model is identified by every file that decides what it computes or which tokens it sees, wherever it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from advisor.core.errors import BadInput
from advisor.models.identity import model_fingerprint

FILES = {
    "config.json": b'{"hidden_act": "silu"}',
    "model-00001-of-00002.safetensors": bytes(range(256)) * 64,
    "model-00002-of-00002.safetensors": bytes(300),
    "model.safetensors.index.json": b"{}",
    "tokenizer.json": b'{"model": {}}',
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tool.jinja": b"x",
    "special_tokens_map.json": b"{}",
    "preprocessor_config.json": b"{}",
    "modeling_own.py": b"pass",
    "spiece.model": b"sp",
    "merges.txt": b"a b",
    "vocab.txt": b"a",
}
OTHERS = {"README.md": b"r", "generation_config.json": b"{}", "optimizer.pt": b"o", "recommendation.json": b"{}"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, content in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "model"


def test_a_copy_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    for name, content in OTHERS.items():
        (copy / name).write_bytes(content)
    assert model_fingerprint(str(copy), None, None) == model_fingerprint(str(folder), None, None)


@pytest.mark.parametrize("name", FILES)
def test_any_bit_of_any_file_counts(folder: Path, name: str) -> None:
    original = model_fingerprint(str(folder), None, None)
    path = folder / name
    for at in {0, len(FILES[name]) // 2, len(FILES[name]) - 1}:
        content = bytearray(FILES[name])
        content[at] ^= 1
        path.write_bytes(content)
        assert model_fingerprint(str(folder), None, None) != original
    path.write_bytes(FILES[name])
    assert model_fingerprint(str(folder), None, None) == original
    path.unlink()
    assert model_fingerprint(str(folder), None, None) != original


def test_how_weights_are_quantised_counts(folder: Path) -> None:
    assert len({model_fingerprint(str(folder), None, how) for how in (None, "4bit", "8bit")}) == 3


def test_a_hub_model_is_identified_by_its_snapshot(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / commit
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr(
        "advisor.models.identity.try_to_load_from_cache",
        lambda name, file, revision: str(snapshot / file) if (name, revision) == ("org/name", commit) else None,
    )
    assert model_fingerprint("org/name", commit, None) == model_fingerprint(str(folder), None, None)
    (snapshot / "config.json").write_text(json.dumps({"hidden_act": "relu"}))
    assert model_fingerprint("org/name", commit, None) != model_fingerprint(str(folder), None, None)


@pytest.mark.parametrize("name", ["moved", "org/moved", "{there}", "{there}/moved"])
def test_what_is_not_there_is_no_model(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(BadInput, match=r"no such folder|no file of a model"):
        model_fingerprint(name.format(there=tmp_path / "there"), None, None)
