"""Rows of texts and images → token ids and what the processor makes of the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from advisor.core.errors import BadInput
from advisor.data.dataset import Dataset
from advisor.data.examples import Example
from advisor.data.turns import MARK
from advisor.models.chat import fold_system, parting, split_texts, texts_by_template
from advisor.models.load import LoadedModel
from advisor.models.rows import IGNORED, EncodedRow
from advisor.models.vision import BY_TOKEN, by_token, image_token, parts_of_turn, processed, takes_suffix


def encode_seen(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[EncodedRow], list[str]]:
    """Rows of texts and images. What stands for an image is never cut: of a longer row the end of the answer is, or a prompt
    without images from the left."""
    counts: Counter[str] = Counter()
    rows: list[EncodedRow] = []
    first: BadInput | None = None
    as_turns = loaded.tokenizer.chat_template is not None and any(example.images for example in dataset.examples)
    stands_for = getattr(loaded.model.config, "image_token_id", None)
    for example in dataset.examples:
        if as_turns and not example.messages:
            example = replace(example, messages=(("user", example.prompt), ("assistant", example.completion)))
        try:
            row = _seen(example, loaded)
        except BadInput as error:
            first = first or error
            continue
        prompt = next((t for t, label in enumerate(row.token_labels) if label != IGNORED), row.length)
        if not row.images and stands_for in row.ids:
            counts["rows hold the mark of an image and no image, and were dropped"] += 1
            continue
        if row.length > max_length:
            start = 0 if row.images else min(row.length - max_length, max(0, prompt - 1))
            row = _piece(row, start, start + max_length)
            counts["prompts were shortened from the left" if start else "answers were cut"] += prompt < start + max_length
        if all(label == IGNORED for label in row.token_labels[1:]):
            counts["rows had no target token left and were dropped"] += 1
            continue
        rows.append(row)
    total = len(dataset.examples)
    notes = [f"{count} of {total} {what} (limit {max_length} tokens)." for what, count in counts.items() if count]
    left = total - len(rows) - sum(count for what, count in counts.items() if what.endswith("dropped"))
    if first is not None:
        notes.append(f"Left out: {left} {'row' if left == 1 else 'rows'}. First: {first.what}")
    if as_turns and any(not example.messages for example in dataset.examples):
        notes.append("Prompts and answers are written as turns in the model's chat template.")
    if not rows:
        raise first or BadInput(
            f"{dataset.source}: no row has a target token left within {max_length} tokens.",
            "Raise --max-length, or use smaller images: what stands for an image is not cut.",
        )
    return rows, notes


def _piece(row: EncodedRow, start: int, stop: int) -> EncodedRow:
    return replace(
        row,
        ids=row.ids[start:stop],
        token_labels=row.token_labels[start:stop],
        by_token={key: values[start:stop] for key, values in row.by_token.items()},
    )


def _seen(example: Example, loaded: LoadedModel) -> EncodedRow:
    """A row of text and images, not cut.

    Raises:
        BadInput: an image cannot be read, or its marks and images do not agree.
    """
    processor, tokenizer = loaded.processor, loaded.tokenizer
    images = [image.load("RGB") for image in example.images]
    if example.messages and tokenizer.chat_template is not None:
        return _seen_chat(example, images, processor)
    if takes_suffix(processor):
        prompt, answer = split_texts(example)
        text = image_token(processor) * len(images) + prompt.replace(MARK, "")
        made = processed(processor, [text], [images], suffix=[answer.lstrip()])
        labels = made["labels"][0].tolist()
        return EncodedRow(_ids(made), token_labels=tuple(labels), images=example.images, text=text, by_token=_marks(made))
    prompt, answer = split_texts(example)
    text = prompt.replace(MARK, image_token(processor))
    made = processed(processor, [text], [images])
    ids = _ids(made)
    learned = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"] + [tokenizer.eos_token_id]
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return EncodedRow(
        (*ids, *learned),
        token_labels=(*[IGNORED] * len(ids), *learned),
        images=example.images,
        text=text,
        by_token={key: (*values[: len(ids)], *[0] * len(learned)) for key, values in _marks(made).items()},
    )


def _seen_chat(example: Example, images: Sequence[Any], processor: Any) -> EncodedRow:
    """The same of a conversation, in the processor's template; its last turn is learned."""
    turns = [{"role": role, "content": content} for role, content in example.messages]
    try:
        text, prompt = texts_by_template(_with_parts(turns), processor.tokenizer)
    except BadInput:
        folded = fold_system(turns)
        if folded == turns:
            raise
        text, prompt = texts_by_template(_with_parts(folded), processor.tokenizer)
    made = processed(processor, [text], [images])
    # Without the images' tokens in full the answer is the same, and it comes last.
    plain = {
        "add_special_tokens": not (processor.tokenizer.bos_token and text.startswith(processor.tokenizer.bos_token)),
        "verbose": False,
    }
    whole, start = (processor.tokenizer(each, **plain)["input_ids"] if each else [] for each in (text, prompt))
    learned = whole[parting(start, whole) :]
    ids = _ids(made)
    if list(ids[len(ids) - len(learned) :]) != learned:
        raise BadInput("The chat template writes an image into an answer.", "Check the template.")
    labels = (*[IGNORED] * (len(ids) - len(learned)), *learned)
    return EncodedRow(ids, token_labels=labels, images=example.images, text=text, by_token=_marks(made))


def _with_parts(turns: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    return [{**turn, "content": parts_of_turn(turn["content"])} for turn in turns]


def _ids(made: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    return tuple(made["input_ids"][0].tolist())


def _marks(made: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(values[0].tolist()) for key, values in by_token(made).items()}


def pixels_of(rows: Sequence[EncodedRow], loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """What the model reads of the images of some rows, that all have some: all that the processor makes but what is by token."""
    images = [[image.load("RGB") for image in row.images] for row in rows]
    made = processed(loaded.processor, [row.text for row in rows], images)
    beside = {key: value for key, value in made.items() if key not in (*BY_TOKEN, "labels", *rows[0].by_token)}
    return {key: t.to(loaded.device, loaded.dtype if t.is_floating_point() else None) for key, t in beside.items()}
