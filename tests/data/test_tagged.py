"""Words with a tag each: told by their columns, by name, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advisor.core.errors import BadInput
from advisor.data.dataset import load_dataset
from advisor.data.examples import Example


def write(folder: Path, *rows: dict[str, Any]) -> str:
    file = folder / "tagged.jsonl"
    file.write_text("".join(json.dumps(rows[i % len(rows)]) + "\n" for i in range(24)))
    return str(file)


@pytest.mark.parametrize(
    ("columns", "tags", "names"),
    [
        (("tokens", "ner_tags"), ["O", "B-PER"], ("B-PER", "O")),
        (("words", "labels"), [0, 10], ("0", "10")),
        (("tokens", "tags"), [2, 10], ("2", "10")),
    ],
)
def test_words_and_tags_are_told(tmp_path: Path, columns: tuple[str, str], tags: list[Any], names: tuple[str, ...]) -> None:
    read = load_dataset(write(tmp_path, {"id": 1, columns[0]: ["a", "Bo"], columns[1]: tags, "pos": ["X", "Y"]}))
    assert (read.schema.task, read.schema.class_names, read.schema.metric) == ("token-classification", names, "token_accuracy")
    assert read.examples[0] == Example(words=("a", "Bo"), tags=tuple(map(names.index, map(str, tags))))


def test_a_word_may_have_no_tag(tmp_path: Path) -> None:
    read = load_dataset(write(tmp_path, {"tokens": ["a", "b", "c", "d"], "tags": [0, -100, None, 1]}))
    assert read.examples[0].tags == (0, None, None, 1)


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"sentence": ["a", "b"], "marks": ["O", "B"]})
    with pytest.raises(BadInput, match="words with a tag each") as error:
        load_dataset(path)
    assert "--task token-classification --text-column sentence --label-column marks" in error.value.hint
    read = load_dataset(path, task="token-classification", text_columns=["sentence"], label_column="marks")
    assert read.schema.class_names == ("B", "O")
    assert load_dataset(path, text_columns=["sentence"], label_column="marks").schema == read.schema
    with pytest.raises(BadInput, match="words with a tag each"):
        load_dataset(path, task="token-classification")
    for columns in ({"text_columns": ["sentence"]}, {"text_columns": ["sentence"], "label_column": "sentence"}):
        with pytest.raises(BadInput, match="cannot be told from: sentence, marks"):
            load_dataset(path, task="token-classification", **columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "not two lists of the same length"),
        ({"tokens": ["a", "b"], "tags": ["O", "O"]}, "every tag is 'O'"),
        ({"tokens": ["a", "b"], "tags": [["O"], "B"]}, "neither a name nor a whole number"),
        ({"tokens": ["a", "b"], "tags": [0.5, 1]}, "neither a name nor a whole number"),
        ({"text": "a b", "entities": [{"start": 0, "end": 1}]}, "by spans .columns text and entities. is not supported"),
    ],
)
def test_what_cannot_be_learned_is_refused(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        load_dataset(write(tmp_path, row, {**row, "tokens": ["a", "b"], "tags": ["O", "B"]} if "same length" in reason else row))


def test_other_tags_are_another_data_set(tmp_path: Path) -> None:
    one = load_dataset(write(tmp_path, {"tokens": ["a", "b"], "tags": ["O", "B"]}))
    other = load_dataset(write(tmp_path, {"tokens": ["a", "b"], "tags": ["B", "O"]}))
    assert one.fingerprint != other.fingerprint


def test_a_tag_that_training_rows_lack_is_named(tmp_path: Path) -> None:
    train = load_dataset(write(tmp_path, {"tokens": ["a", "b"], "tags": ["O", "B"]}))
    with pytest.raises(BadInput, match="'C' is not among the training classes"):
        load_dataset(write(tmp_path, {"tokens": ["a", "b"], "tags": ["O", "C"]}), like=train.schema)
