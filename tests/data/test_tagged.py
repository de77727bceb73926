"""Words with a tag each: told by their columns, by name, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

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


def test_names_of_tags_in_a_parquet_file_are_read(tmp_path: Path) -> None:
    features = {"ner_tags": {"feature": {"names": ["O", "B-PER"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    rows = pa.table({"tokens": [["a", "Bo"]] * 24, "ner_tags": [[0, 1]] * 24})
    file = tmp_path / "tagged.parquet"
    parquet.write_table(rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), file)
    read = load_dataset(str(file))
    assert read.schema.class_names == ("B-PER", "O")
    assert read.examples[0].tags == (1, 0)


def test_rows_without_tags_are_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"tokens": ["a", "b"], "tags": ["O", "B"]}, {"tokens": ["a"], "tags": None}]
    read = load_dataset(write(tmp_path, *rows, {"tokens": ["a"]}, {"tokens": ["a"], "tags": []}))
    assert len(read.examples) == 6
    assert any("18 rows without a tag" in note for note in read.notes)


def test_other_columns_of_tags_are_named_and_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path, {"tokens": ["a", "b"], "pos_tags": ["X", "Y"], "ner_tags": ["O", "-100"], "upos": [3, 4]})
    with pytest.raises(BadInput, match="every tag is 'O' in column ner_tags"):
        load_dataset(path)
    read = load_dataset(path, label_column="pos_tags")
    assert (read.schema.task, read.schema.class_names) == ("token-classification", ("X", "Y"))
    assert any("Not read: ner_tags, upos, tags too" in note for note in read.notes)


@pytest.mark.parametrize(
    "row",
    [
        {"tokens": ["a", "b", "c"], "ner_tags": "B-PER O O"},
        {"tokens": "a b c", "ner_tags": "B-PER O O"},
        {"text": "a b c", "word_labels": "O,O,B-geo", "split": "x"},
        {"tokens": "['a', 'b']", "ner_tags": "['B-PER', 'O']"},
    ],
)
def test_tags_written_as_text_are_refused_with_the_way_out(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"words with a tag each \(column .*: ") as error:
        load_dataset(write(tmp_path, row))
    assert "Make two lists of each sentence" in error.value.hint


def test_lists_of_other_lengths_are_no_tags(tmp_path: Path) -> None:
    rows = ({"text": f"a b {i}", "tokens": ["a", "b", "c"], "tags": ["news"], "label": i} for i in range(2))
    assert load_dataset(write(tmp_path, *rows)).schema.task == "classification"
    one: list[dict[str, Any]] = [{"tokens": ["a", "b"], "label": "x"}, {"tokens": ["b"], "label": "y"}]
    with pytest.raises(BadInput, match="tokens: lists, not texts"):
        load_dataset(write(tmp_path, *one))
    pieces = {"tokens": ["a", "##b"], "labels": [0, 1], "input_ids": [5, 6]}
    with pytest.raises(BadInput, match="tokenised already"):
        load_dataset(write(tmp_path, pieces))
