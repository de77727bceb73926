"""From examples to padded batches: what is learned, what is cut, what is dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from architectures import FAMILIES, build
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.data.dataset import Dataset
from advisor.data.examples import Example
from advisor.data.schema import Schema
from advisor.models.encode import CHAT_FORM, IGNORED, EncodedRow, collate, encode, length_bucketed, resolve_max_length
from advisor.models.load import LoadedModel, load_model
from advisor.models.prepare import prepare
from advisor.models.readers import decoder_input

TinyModel = Callable[..., Path]
CHATML = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} end {% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
FIRST_MESSAGE = "{% if messages[0]['role'] == 'system' %}sys {% endif %}" + CHATML
THINKING = CHATML.replace("[assistant] {% endif %}", "[assistant] think {% endif %}")


def dataset(examples: Sequence[Example], task: str = "causal-lm") -> Dataset:
    schema = Schema(task, ("text",), None, (), "accuracy")
    return Dataset(tuple(examples), schema, "rows.jsonl", (), "", len(examples))


def load(folder: Path, task: str = "causal-lm") -> LoadedModel:
    return load_model(str(folder), task, num_labels=2, device="cpu")


@pytest.fixture
def gpt2(tiny_model: TinyModel) -> LoadedModel:
    return load(tiny_model("gpt2", "causal-lm"))


@pytest.fixture
def llama(tiny_model: TinyModel) -> LoadedModel:
    return load(tiny_model("llama", "causal-lm"))


def words(loaded: LoadedModel, ids: Sequence[int]) -> str:
    return str(loaded.tokenizer.decode([i for i in ids if i != IGNORED]))


def learned(row: EncodedRow) -> list[int]:
    return [label for label in row.token_labels if label != IGNORED]


def chat(*turns: tuple[str, str]) -> Example:
    return Example(messages=turns)


# --- language models --------------------------------------------------------------------------------------------------


def test_the_answer_and_its_end_are_learned(llama: LoadedModel) -> None:
    rows, notes = encode(dataset([Example(prompt="the film was", completion="very good")]), llama, 64)
    assert words(llama, rows[0].ids) == "<s> the film was very good </s>"
    assert words(llama, learned(rows[0])) == "very good </s>"
    assert rows[0].token_labels[:4] == (IGNORED,) * 4
    assert [i for i, label in zip(rows[0].ids, rows[0].token_labels, strict=True) if label not in (i, IGNORED)] == []
    assert notes == []


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_plain_text_starts_with_a_token_to_predict_from(tiny_model: TinyModel, name: str) -> None:
    """Every token of the text is learned, and the end."""
    loaded = load(tiny_model(name, "causal-lm"))
    rows, _ = encode(dataset([Example(completion="the film was good")]), loaded, 64)
    assert rows[0].ids[0] == loaded.tokenizer.bos_token_id
    assert learned(rows[0]) == list(rows[0].ids[1:])
    assert rows[0].ids[-1] == loaded.tokenizer.eos_token_id
    assert len(rows[0].ids) == 6


def test_the_prompt_is_shortened_first_from_the_left(llama: LoadedModel) -> None:
    long = Example(prompt="one two three red blue cat dog", completion="very good")
    rows, notes = encode(dataset([long, Example(prompt="a", completion="bad")]), llama, 6)
    assert words(llama, rows[0].ids) == "blue cat dog very good </s>"
    assert words(llama, learned(rows[0])) == "very good </s>"
    assert notes == ["1 of 2 prompts were shortened from the left (limit 6 tokens)."]


@pytest.mark.parametrize("prompt", ["the film was", ""])
def test_an_answer_above_the_limit_is_cut_and_counted(llama: LoadedModel, prompt: str) -> None:
    rows, notes = encode(dataset([Example(prompt=prompt, completion="one two three red blue cat dog")]), llama, 4)
    assert len(rows[0].ids) == 4
    assert words(llama, learned(rows[0])) == "one two three"
    assert notes == ["1 of 1 rows are longer than the limit (limit 4 tokens)."]


def test_a_cut_is_counted_without_a_beginning_token_too(llama: LoadedModel) -> None:
    """As Qwen, whose tokenizer has none."""
    llama.tokenizer.bos_token = None
    llama.tokenizer.backend_tokenizer.post_processor = None
    rows, notes = encode(dataset([Example(completion="one two three red blue")]), llama, 4)
    assert words(llama, rows[0].ids) == "one two three red"
    assert notes == ["1 of 1 rows are longer than the limit (limit 4 tokens)."]


def without_targets(loaded: LoadedModel) -> Example:
    """A row whose answer has no token at all once the end token is gone."""
    loaded.tokenizer.eos_token = None
    return Example(prompt="the film", completion=" ")


def test_rows_without_a_target_token_are_dropped_and_counted(llama: LoadedModel) -> None:
    empty = without_targets(llama)
    rows, notes = encode(dataset([empty, Example(prompt="a", completion="bad"), empty]), llama, 64)
    assert [words(llama, learned(row)) for row in rows] == ["bad"]
    assert notes == ["2 of 3 rows had no target token left and were dropped (limit 64 tokens)."]


def test_all_rows_without_a_target_token_are_refused(llama: LoadedModel) -> None:
    with pytest.raises(BadInput, match=r"rows\.jsonl: no row has a target token left within 64 tokens"):
        encode(dataset([without_targets(llama)]), llama, 64)


def test_a_chat_without_a_template_is_written_as_roles(llama: LoadedModel) -> None:
    rows, notes = encode(dataset([chat(("user", "the film"), ("assistant", "very good"))]), llama, 64)
    assert words(llama, rows[0].ids) == "<s> user : the film assistant : very good </s>"
    assert words(llama, learned(rows[0])) == "very good </s>"
    assert notes == ["The tokenizer has no chat template; messages are written as '{role}: {content}\\n'."]


@pytest.mark.parametrize("template", [CHATML, FIRST_MESSAGE])
def test_a_chat_is_written_by_the_template(llama: LoadedModel, template: str) -> None:
    llama.tokenizer.chat_template = template
    turns = [("user", "the film"), ("assistant", "bad"), ("user", "not"), ("assistant", "very good")]
    rows, notes = encode(dataset([chat(*turns)]), llama, 64)
    whole = words(llama, rows[0].ids)
    assert whole.endswith("[ user ] the film end [ assistant ] bad end [ user ] not end [ assistant ] very good end")
    assert words(llama, learned(rows[0])) == "very good end"
    assert notes == []


def test_a_template_whose_generation_prompt_says_more_loses_no_answer(llama: LoadedModel) -> None:
    """Some reasoning models open a thought that the written answer does not have."""
    llama.tokenizer.chat_template = THINKING
    rows, _ = encode(dataset([chat(("user", "the film"), ("assistant", "very good"))]), llama, 64)
    assert words(llama, rows[0].ids).endswith("[ user ] the film end [ assistant ] very good end")
    assert words(llama, learned(rows[0])) == "very good end"


@pytest.mark.parametrize("template", [None, CHATML, FIRST_MESSAGE])
def test_a_chat_of_the_assistant_alone(llama: LoadedModel, template: str | None) -> None:
    llama.tokenizer.chat_template = template
    rows, _ = encode(dataset([chat(("assistant", "very good"))]), llama, 64)
    assert words(llama, learned(rows[0])) in ("very good </s>", "very good end", "[ assistant ] very good end")
    assert len(rows) == 1


def test_a_system_message_is_part_of_the_prompt(llama: LoadedModel) -> None:
    llama.tokenizer.chat_template = FIRST_MESSAGE
    turns = [("system", "one two"), ("user", "the film"), ("assistant", "very good")]
    rows, _ = encode(dataset([chat(*turns)]), llama, 64)
    assert "one two" in words(llama, rows[0].ids)
    assert words(llama, learned(rows[0])) == "very good end"


def test_a_template_without_system_turns_reads_them_with_the_users(llama: LoadedModel) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    llama.tokenizer.chat_template = refusing + CHATML
    turns = [("system", "one two"), ("user", "the film"), ("assistant", "very good")]
    rows, _ = encode(dataset([chat(*turns)]), llama, 64)
    assert words(llama, rows[0].ids).endswith("[ user ] one two the film end [ assistant ] very good end")
    assert words(llama, learned(rows[0])) == "very good end"
    with pytest.raises(BadInput, match="system – assistant: no system role"):
        encode(dataset([chat(turns[0], turns[2])]), llama, 64)


def test_a_template_that_refuses_the_roles_is_said(llama: LoadedModel) -> None:
    llama.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadInput, match=r"refuses a conversation of user – assistant: roles must alternate"):
        encode(dataset([chat(("user", "the film"), ("assistant", "very good"))]), llama, 64)


# --- classifiers ------------------------------------------------------------------------------------------------------


def test_a_pair_keeps_its_token_types(tiny_model: TinyModel) -> None:
    bert = load(tiny_model("bert"), "classification")
    rows, notes = encode(dataset([Example(texts=("the film", "very good"), label=1)], "classification"), bert, 64)
    assert words(bert, rows[0].ids) == "[CLS] the film [SEP] very good [SEP]"
    assert rows[0].types == (0, 0, 0, 0, 1, 1, 1)
    assert rows[0].label == 1
    assert notes == []


def test_cut_rows_of_a_classifier_are_counted(tiny_model: TinyModel) -> None:
    bert = load(tiny_model("bert"), "classification")
    texts = ["good", "one two three red", "one two three red blue cat", "yes no"]
    rows, notes = encode(dataset([Example(texts=(t,), label=0) for t in texts], "classification"), bert, 6)
    assert [len(row.ids) for row in rows] == [3, 6, 6, 4]
    assert words(bert, rows[2].ids) == "[CLS] one two three red [SEP]"
    assert notes == ["1 of 4 rows are longer than 6 tokens and were cut."]


def test_the_length_limit(tiny_model: TinyModel) -> None:
    bert, roberta = (load(tiny_model(name), "classification") for name in ("bert", "roberta"))
    assert resolve_max_length(None, bert) == resolve_max_length(None, roberta) == 64
    assert resolve_max_length(1000, bert) == 64
    assert resolve_max_length(7, bert) == 7
    bert.tokenizer.model_max_length = bert.model.config.max_position_embeddings = 10**9
    assert resolve_max_length(None, bert) == 128
    for bad in (1, 0, -3):
        with pytest.raises(BadInput, match="--max-length"):
            resolve_max_length(bad, bert)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_padded_on_the_right(tiny_model: TinyModel) -> None:
    bert = load(tiny_model("bert"), "classification")
    rows = [EncodedRow((5, 6, 7), (0, 1, 1), 1), EncodedRow((8,), (0,), 0)]
    batch = collate(rows, bert)
    pad = bert.tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, pad, pad]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert batch["labels"].dtype == torch.int64


def test_padding_is_not_learned(gpt2: LoadedModel) -> None:
    batch = collate([EncodedRow((5, 6, 7), token_labels=(IGNORED, 6, 7)), EncodedRow((8, 9), token_labels=(IGNORED, 9))], gpt2)
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [IGNORED, 9, IGNORED]]
    assert "token_type_ids" not in batch


def test_regression_labels_are_standardised(tiny_model: TinyModel) -> None:
    bert = load_model(str(tiny_model("bert")), "regression", num_labels=1, device="cpu")
    batch = collate([EncodedRow((5,), (0,), 3.0), EncodedRow((6,), (0,), 5)], bert, 4.0, 2.0)
    assert batch["labels"].tolist() == [-0.5, 0.5]
    assert batch["labels"].dtype == torch.float32


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=70), st.integers(1, 9), st.one_of(st.none(), st.integers(0, 5)))
def test_every_row_is_in_one_batch(lengths: list[int], size: int, seed: int | None) -> None:
    def batches() -> list[list[int]]:
        rng = None if seed is None else np.random.default_rng(seed)
        return list(length_bucketed(lengths, size, rng, window=3))

    found = batches()
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in found)
    assert len(found) == -(-len(lengths) // size)
    assert found == batches()
    if seed is None:
        flat = [lengths[i] for batch in found for i in batch]
        assert flat == sorted(flat)


def test_shuffled_batches_hold_rows_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 640).tolist()
    spread: dict[Any, float] = {}
    for window in (1, 8):
        found = list(length_bucketed(lengths, 16, np.random.default_rng(1), window))
        spread[window] = float(np.mean([np.ptp([lengths[i] for i in batch]) for batch in found]))
    assert spread[8] < spread[1] / 4
    first, second = (list(length_bucketed(lengths, 16, np.random.default_rng(s))) for s in (1, 2))
    assert first != second


# --- a source and its target ------------------------------------------------------------------------------------------


@pytest.fixture
def t5(tiny_model: TinyModel) -> LoadedModel:
    return load(tiny_model("t5", "seq2seq"), "seq2seq")


def test_a_source_is_read_and_its_target_learned(t5: LoadedModel) -> None:
    pairs = [Example(prompt="the film was", completion="very good"), Example(prompt="a dull story of cats", completion="no")]
    rows, notes = encode(dataset(pairs, "seq2seq"), t5, 64)
    assert notes == []
    assert words(t5, rows[0].ids) == "the film was </s>"
    assert words(t5, rows[0].token_labels) == "very good </s>"
    assert [row.length for row in rows] == [4, len(rows[1].ids)]
    batch = collate(rows, t5)
    pad, end = t5.tokenizer.pad_token_id, t5.tokenizer.eos_token_id
    first, second = (list(row.token_labels) for row in rows)
    assert batch["labels"].tolist() == [first, [*second, IGNORED]]
    assert batch["decoder_input_ids"].tolist() == [[pad, *first[:-1]], [pad, *second]]
    assert first[-1] == second[-1] == end
    assert batch["attention_mask"].sum(1).tolist() == [len(row.ids) for row in rows]
    assert batch["input_ids"].shape[1] == len(rows[1].ids)


def test_what_transformers_makes_of_the_labels_itself_is_what_the_decoder_reads(t5: LoadedModel) -> None:
    """The model given labels alone shifts them by itself, as in training with its own trainer."""
    pairs = [Example(prompt="a b", completion="red cat"), Example(prompt="b", completion="dog")]
    rows, _ = encode(dataset(pairs, "seq2seq"), t5, 64)
    batch = collate(rows, t5)
    labels, decoder = batch.pop("labels"), batch.pop("decoder_input_ids")
    with torch.no_grad():
        wanted = t5.model(**batch, labels=labels).logits
        assert torch.equal(t5.model(**batch, decoder_input_ids=decoder).logits, wanted)
    own = Mock(spec=["config"], config=t5.model.config)  # of a family without a method for it
    assert torch.equal(decoder_input(labels, own), decoder)


def test_source_and_target_are_cut_each_and_keep_their_end(t5: LoadedModel) -> None:
    pairs = [Example(prompt="red " * 30, completion="cat " * 9), Example(prompt="a", completion="b")]
    rows, notes = encode(dataset(pairs, "seq2seq"), t5, 8)
    assert (len(rows[0].ids), len(rows[0].token_labels)) == (8, 8)
    assert words(t5, rows[0].ids) == "red red red red red red red </s>"
    assert words(t5, rows[0].token_labels) == "cat cat cat cat cat cat cat </s>"
    assert notes == ["1 of 2 sources were cut (limit 8 tokens).", "1 of 2 targets were cut (limit 8 tokens)."]


def test_a_tokenizer_that_makes_nothing_of_a_target(t5: LoadedModel) -> None:
    t5.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    pairs = [Example(prompt="a", completion=" "), Example(prompt="a", completion="red")]
    rows, notes = encode(dataset(pairs, "seq2seq"), t5, 8)
    assert [words(t5, row.token_labels) for row in rows] == ["red"]
    assert notes == ["1 of 2 rows had no token of a source or target and were dropped (limit 8 tokens)."]
    with pytest.raises(BadInput, match="no row has a token of a source and of a target"):
        encode(dataset(pairs[:1], "seq2seq"), t5, 8)


def test_a_chat_becomes_source_and_target(t5: LoadedModel) -> None:
    rows, notes = encode(dataset([chat(("user", "the film"), ("assistant", "bad"))], "seq2seq"), t5, 64)
    assert words(t5, rows[0].token_labels) == "bad </s>"
    assert t5.tokenizer.decode(rows[0].ids, skip_special_tokens=True).replace(" ", "") == "user:thefilmassistant:"
    assert notes == [f"The tokenizer has no chat template; messages are written as {CHAT_FORM!r}."]


KIN = {  # of RoBERTa; their tokenizers may have no limit of their own
    "CamembertConfig": {},
    "MPNetConfig": {},
    "XLMRobertaXLConfig": {},
    "LongformerConfig": {"attention_window": 4},
}


@pytest.mark.parametrize("name", KIN)
def test_a_row_is_as_long_as_the_model_has_positions_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The model itself is the judge: it reads a text of that many tokens, and none of one more."""
    of = FAMILIES["roberta"]
    monkeypatch.setitem(FAMILIES, name, of._replace(config=name, fields={**of.fields, **KIN[name]}, tokens=10**9))
    loaded = load_model(str(build(name, tmp_path / "model")), "classification", num_labels=2, device="cpu")
    most = loaded.max_length
    word = loaded.tokenizer.convert_tokens_to_ids("the")
    loaded.model(input_ids=torch.full((1, most), word))
    with pytest.raises((IndexError, RuntimeError)):
        loaded.model(input_ids=torch.full((1, most + 1), word))


def test_a_model_without_a_position_table_has_the_limit_of_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLNet's config says −1."""
    fields = {"d_model": 24, "n_layer": 1, "n_head": 4, "d_inner": 40}
    monkeypatch.setitem(FAMILIES, "xlnet", FAMILIES["roberta"]._replace(config="XLNetConfig", fields=fields, tokens=200))
    loaded = load_model(str(build("xlnet", tmp_path / "model")), "classification", num_labels=2, device="cpu")
    assert resolve_max_length(1000, loaded) == 200


def test_targets_that_start_with_their_own_last_token_may_have_padding_number_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mBART puts the language at the end of a target before it, and skips padding to find it."""
    stacks = {f"{stack}_{what}": 2 for stack in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    fields = {**stacks, "d_model": 24, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "max_position_embeddings": 64}
    monkeypatch.setitem(FAMILIES, "mbart", FAMILIES["t5"]._replace(config="MBartConfig", fields=fields))
    loaded = load(build("mbart", tmp_path / "model", task="seq2seq"), "seq2seq")
    assert loaded.tokenizer.pad_token_id == 0
    assert decoder_input(torch.tensor([[7, 8, 0]]), loaded.model).tolist() == [[8, 7, 8]]


@pytest.mark.parametrize("limit", [1, 3])
def test_fewer_rows_than_folds_are_refused_however_they_became_few(ready: Callable[..., Any], limit: int) -> None:
    source = ready("bert", "binary").source
    few = prepare(source, Session(), train_limit=limit)  # or rows were dropped in tokenising
    with pytest.raises(BadInput, match=rf"within \d+ tokens, has {limit} usable rows? to train on. Give 4 at the least"):
        _ = few.train_rows
    assert len(prepare(source, Session(), train_limit=4).train_rows) == 4
