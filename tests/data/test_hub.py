"""Data sets of the hub, with a stand-in for the network, from the cache, and from disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rowfiles import Write, labelled

from advisor.core.errors import BadInput
from advisor.data.dataset import load_dataset
from advisor.data.tables import has_evaluation


def test_hub_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def offline(*names: object, revision: str | None) -> None:
        raise ConnectionError("Couldn't reach the Hub\n(offline)")

    monkeypatch.setattr(datasets, "get_dataset_split_names", offline)
    with pytest.raises(BadInput, match=r"no file or folder glue/sst2.*Couldn't reach the Hub \(offline\)") as caught:
        load_dataset("glue/sst2")
    assert "HF_HUB_OFFLINE is set" in caught.value.hint


def test_hub_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["negative", "positive"])}
    )
    rows = {"sentence": ["dull film", "great film", "unlabelled"], "label": [0, 1, -1]}
    asked = []

    def names(repository: str, config: str | None, revision: str | None) -> list[str]:
        if config is None:
            raise FileNotFoundError(repository)
        return ["train", "validation", "test"]

    def load(repository: str, config: str | None, split: str, revision: str | None) -> Any:
        asked.append((repository, config, split))
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(datasets, "get_dataset_split_names", names)
    monkeypatch.setattr(datasets, "load_dataset", load)
    train = load_dataset("glue/sst2")
    assert train.schema.class_names == ("negative", "positive")
    assert "Left out: 1 row without a label." in train.notes
    load_dataset("nyu-mll/glue/sst2", like=train.schema)
    assert asked == [("glue", "sst2", "train"), ("nyu-mll/glue", "sst2", "validation")]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> str:
    """A data set as the hub client leaves it in its cache: owner___name/config/version/commit."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "cache" / "user___name" / "default" / "0.0.0" / COMMIT
    parts = {name: write(f"{name}.jsonl", labelled(labels)) for name, labels in (("train", [0, 1] * 15), ("test", [1]))}
    built = datasets.load_dataset("json", data_files=parts, cache_dir=tmp_path / "made")
    made = Path(built["train"].cache_files[0]["filename"]).parent
    folder.parent.mkdir(parents=True)
    made.rename(folder)
    for file in folder.glob("json-*.arrow"):
        file.rename(folder / file.name.replace("json-", "name-"))
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "dataset_name": "name"}))
    return "user/name"


def test_the_cache_serves_offline(cached: str) -> None:
    train = load_dataset(cached)
    assert len(train.examples) == 30
    assert "The hub data set's train split is read." in train.notes
    for name in (f"{cached}:default", f"{cached}/default", f"{cached}@{COMMIT}", f"{cached}:default@{COMMIT[:8]}"):
        assert load_dataset(name).fingerprint == train.fingerprint
    assert has_evaluation(cached)
    assert load_dataset(cached, like=train.schema).examples[0].label == 1


def test_a_revision_that_is_not_cached_is_refused(cached: str) -> None:
    with pytest.raises(BadInput, match=f"cached copy is commit {COMMIT}, not main"):
        load_dataset(f"{cached}@main")


def test_a_config_that_is_not_cached_is_refused(cached: str) -> None:
    with pytest.raises(BadInput, match="no hub data set could be read"):
        load_dataset(f"{cached}:other")


def test_saved_data_sets(tmp_path: Path, write: Write) -> None:
    datasets = pytest.importorskip("datasets")
    rows, test = datasets.Dataset.from_list(labelled([0, 1] * 5)), datasets.Dataset.from_list(labelled([1]))
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": test}).save_to_disk(tmp_path / "both")
    expected = load_dataset(write("a.jsonl", labelled([0, 1] * 5))).examples
    train = load_dataset(str(tmp_path / "one"))
    assert train.examples == load_dataset(str(tmp_path / "both")).examples == expected
    assert not has_evaluation(str(tmp_path / "one"))
    assert has_evaluation(str(tmp_path / "both"))
    assert len(load_dataset(str(tmp_path / "both"), like=train.schema).examples) == 1
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(BadInput, match="one cannot be read"):
        load_dataset(str(tmp_path / "one"))
