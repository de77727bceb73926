"""Splitting and sampling: seeded, stratified, in bounded memory."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.core.errors import BadInput
from advisor.data.dataset import Dataset, load_dataset, sample_rows, split_evaluation
from advisor.data.examples import Example
from advisor.data.schema import METRICS, Schema


def made_of(labels: list[int], task: str = "classification") -> Dataset:
    examples = tuple(Example(texts=(str(i),), label=label) for i, label in enumerate(labels))
    names = tuple(map(str, range(8))) if task == "classification" else ()
    return Dataset(examples, Schema(task, ("text",), "label", names, METRICS[task][0]), "made", (), "", len(labels))


many_labels = st.lists(st.integers(0, 7), min_size=20, max_size=120)
seeds = st.integers(0, 2**31)


@given(many_labels, seeds, st.floats(0.01, 0.99), st.sampled_from(["classification", "regression"]))
@settings(max_examples=150, deadline=None)
def test_split_properties(labels: list[int], seed: int, fraction: float, task: str) -> None:
    dataset = made_of(labels, task)
    rest, evaluation = split_evaluation(dataset, seed, fraction)
    assert rest.examples
    assert evaluation.examples
    assert sorted(rest.examples + evaluation.examples, key=lambda e: int(e.texts[0])) == list(dataset.examples)
    for part in (rest, evaluation):
        order = [int(example.texts[0]) for example in part.examples]
        assert order == sorted(order)
        assert part.schema == dataset.schema
    assert split_evaluation(dataset, seed, fraction) == (rest, evaluation)
    assert rest.fingerprint != evaluation.fingerprint
    if task == "classification":
        assert {e.label for e in rest.examples} == set(labels)
        chosen = Counter(e.label for e in evaluation.examples)
        room = len(set(labels)) + 1  # a class of few rows keeps one, which others may make up for
        for label, size in Counter(labels).items():
            assert abs(chosen[label] - fraction * size) <= room


@given(many_labels, seeds, st.integers(1, 130))
@settings(max_examples=150, deadline=None)
def test_sample_properties(labels: list[int], seed: int, count: int) -> None:
    dataset = made_of(labels)
    sample = sample_rows(dataset, count, seed)
    if count >= len(labels):
        assert sample is dataset
        return
    order = [int(example.texts[0]) for example in sample.examples]
    assert order == sorted(set(order))
    assert len(order) == count
    assert all(dataset.examples[i] == example for i, example in zip(order, sample.examples, strict=True))
    chosen, sizes = Counter(e.label for e in sample.examples), Counter(labels)
    if count >= len(sizes):
        assert set(chosen) == set(sizes)
        if all(count * size >= len(labels) for size in sizes.values()):
            assert all(abs(chosen[c] - count * n / len(labels)) < 1 for c, n in sizes.items())
    assert sample_rows(dataset, count, seed) == sample


def test_split_is_proportional() -> None:
    _, evaluation = split_evaluation(made_of([0] * 700 + [1] * 200 + [2] * 100), seed=0)
    assert Counter(e.label for e in evaluation.examples) == {0: 70, 1: 20, 2: 10}


def test_seed_changes_the_draw() -> None:
    dataset = made_of([0, 1] * 50)
    assert sample_rows(dataset, 30, 0).examples != sample_rows(dataset, 30, 1).examples
    assert split_evaluation(dataset, 0)[1] != split_evaluation(dataset, 1)[1]


@pytest.mark.parametrize("labels", [[0, 1] * 9 + [0], list(range(20))])
def test_too_few_rows_to_split(labels: list[int]) -> None:
    with pytest.raises(BadInput, match="too few to split"):
        split_evaluation(made_of(labels), seed=0)


def test_impossible_fraction_and_count() -> None:
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match="between 0 and 1"):
            split_evaluation(made_of([0, 1] * 20), 0, fraction)
    with pytest.raises(BadInput, match="At least one row"):
        sample_rows(made_of([0, 1] * 20), 0, 0)


def test_a_sample_of_fewer_rows_than_classes_says_so() -> None:
    sample = sample_rows(made_of([0, 1, 2, 3, 4] * 4), 3, 0)
    assert sample.notes[-1] == "3 of 20 rows are sampled (seed 0); 2 of 5 classes have none."


# --- large files ---


def large(file: Path, rows: int) -> str:
    with file.open("w") as stream:
        for i in range(rows):
            label = "rare" if i == rows // 2 else "ab"[i % 2]
            stream.write(json.dumps({"id": i, "text": f"row {i} " + "words " * 40, "label": label}) + "\n")
    return str(file)


def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """100,000 rows of 27 MB, of which 2,000 are kept: far less than the file is ever held."""
    file = large(tmp_path / "large.jsonl", 100_000)
    load_dataset(file, keep=10)  # imports and caches are not counted
    tracemalloc.start()
    dataset = load_dataset(file, keep=2_000, seed=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Path(file).stat().st_size > 25_000_000
    assert peak < 8_000_000
    assert 2_000 <= len(dataset.examples) <= 2_003
    assert dataset.rows_there == 100_000
    assert dataset.schema.class_names == ("a", "b", "rare")
    assert f"{len(dataset.examples):,} of 100,000 rows are drawn with seed 3, with a row of each class." in dataset.notes


def test_the_draw_is_seeded_and_keeps_order(tmp_path: Path) -> None:
    file = large(tmp_path / "a.jsonl", 3_000)
    one, same, other = (load_dataset(file, keep=200, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.examples != other.examples
    order = [int(example.texts[0].split()[1]) for example in one.examples]
    assert order == sorted(set(order))
    rest, evaluation = split_evaluation(one, 0)
    assert rest.rows_there + evaluation.rows_there == pytest.approx(3_000, abs=1)
    assert load_dataset(file, keep=3_000).rows_there == len(load_dataset(file, keep=3_000).examples) == 3_000


def test_the_draw_is_uniform(tmp_path: Path) -> None:
    """Over 60 seeds every tenth of the file gives a tenth of the rows: within 5 standard deviations."""
    file = large(tmp_path / "a.jsonl", 2_000)
    counts: Counter[int] = Counter()
    for seed in range(60):
        counts.update(int(e.texts[0].split()[1]) // 200 for e in load_dataset(file, keep=50, seed=seed).examples)
    expected = 60 * 50 / 10
    firsts = {0: 2 * 60, 5: 60}  # the first rows of two classes lie in the first tenth, the rare row in the sixth
    for tenth in range(10):
        slack = 5 * math.sqrt(expected)
        assert expected - slack < counts[tenth] < expected + slack + firsts.get(tenth, 0)
