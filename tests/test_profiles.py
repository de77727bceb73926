"""Profiles of models and tasks: shipped ones, own ones, and checking them."""

from __future__ import annotations

from pathlib import Path

import pytest

from advisor.errors import BadInput
from advisor.profiles import load_profiles
from advisor.recipe import TASKS
from advisor.schema import METRICS


def test_task_profiles_are_complete() -> None:
    profiles = load_profiles("tasks")
    expected = "alpaca amazon chat cola gsm8k imdb mnli mrpc qnli qqp rte sst2 stsb wnli yelp"
    assert sorted(profiles) == expected.split()
    words: list[str] = []
    for profile in profiles.values():
        assert profile["task"] in TASKS
        assert profile["metric"] in METRICS[profile["task"]]
        assert ("label_column" in profile) == (profile["task"] != "causal-lm")
        words += profile["match"]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [1", "bad.yaml is not readable YAML"), ("- 1", "top level"), ("1: x", "field 1 is not a name")],
)
def test_corrupt_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bad.yaml").write_text(content)
    monkeypatch.setattr("advisor.profiles.files", lambda package: tmp_path)
    load_profiles.cache_clear()
    with pytest.raises(BadInput, match=message):
        load_profiles("models")
    with pytest.raises(BadInput, match="no 'nothing' profiles"):
        load_profiles("nothing")
    load_profiles.cache_clear()
