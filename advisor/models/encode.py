"""Examples → token ids → padded batches.

Shape convention, used everywhere: a batch is [examples, tokens]; activations are [examples, tokens, features].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from advisor.core.deadline import deadline
from advisor.core.errors import BadInput, loading
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.text import printable
from advisor.data.dataset import Dataset
from advisor.data.examples import MARK, Example
from advisor.data.images import ImageFile, image_batch, mode_of
from advisor.models.load import LoadedModel, embedded_tokens
from advisor.models.vision import BY_TOKEN, by_token, image_token, parts_of_turn, processed, takes_suffix

IGNORED = -100  # label of a token that is not learned, as in transformers
DEFAULT_MAX_LENGTH = {"classification": 128, "regression": 128, "causal-lm": 512, "seq2seq": 512}
WITH_IMAGES = 2048  # tokens of a row of images and text, most of which stand for images
LONGEST_CHAT = 2**24  # characters of one row, written by a template
FIRST_ROW_S = 20.0
CHAT_FORM = "{role}: {content}\n"  # used when the tokenizer has no chat template


@dataclass(frozen=True)
class EncodedRow:
    """One example as a model reads it.

    Attributes:
        ids: token ids, not padded; empty for an image.
        types: token type ids, None where the model has none.
        label: class id or value (classification, regression).
        token_labels: per token the id to predict or ``IGNORED``: of ``ids`` (causal LM), or the target's (seq2seq).
        image: decoded only when a batch is made. image_tokens: what a model sees of it.
        images: those beside the text, likewise. text: with their marks, as the processor takes it. by_token: what else the model
            reads of each token of ``ids``, by its name in the batch.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] | None = None
    label: int | float = 0
    token_labels: tuple[int, ...] = ()
    image: ImageFile | None = None
    image_tokens: int = 0
    images: tuple[ImageFile, ...] = ()
    text: str = ""
    by_token: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens, of a source and its target those of the longer one: the most that any module sees."""
        return max(len(self.ids), len(self.token_labels), self.image_tokens)


def resolve_max_length(requested: int | None, loaded: LoadedModel) -> int:
    """The requested length, or 128 (classifiers) / 512 (language models) / 2048 (of images and text); never above the model's limit.
    Of images alone the only one.

    Raises:
        BadInput: fewer than 2 tokens asked for.
    """
    if requested is not None and requested < 2:
        raise BadInput(f"--max-length must be at least 2, got {requested}.")
    if loaded.reads == "images":
        return loaded.image_tokens
    if loaded.max_length < 2:
        raise BadInput(f"{loaded.name}: it reads {loaded.max_length} tokens at most.", "Check model_max_length of its tokenizer.")
    usual = WITH_IMAGES if loaded.processor is not None else DEFAULT_MAX_LENGTH[loaded.task]
    return min(requested or usual, loaded.max_length)


def encode(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[EncodedRow], list[str]]:
    """Tokenise every example, or look whether its image can be read; returns the rows and what was cut or dropped, one
    sentence each.

    Raises:
        BadInput: images for a model of text, or texts for one of images; no row has a target token left (language models);
            no image can be read.
    """
    with loading(f"{dataset.source}: cannot be tokenised for {loaded.name}", "Check the tokenizer's files."):
        if not (dataset.examples[0].messages and loaded.tokenizer is not None and loaded.tokenizer.chat_template is not None):
            rows, notes = _encode(dataset, loaded, max_length)
        else:
            late = (
                f"{loaded.name}: its chat template takes too long.",
                "Check the template, or use prompt and completion columns.",
            )
            with deadline(FIRST_ROW_S, *late):
                _split_ids(dataset.examples[0], loaded.tokenizer)
            with deadline(FIRST_ROW_S + len(dataset.examples), *late):
                rows, notes = _encode(dataset, loaded, max_length)
    _check_tokens(rows, dataset, loaded)
    return rows, notes


def _check_tokens(rows: Sequence[EncodedRow], dataset: Dataset, loaded: LoadedModel) -> None:
    """Raises:
    BadInput: a token that the model does not embed.
    """
    known = embedded_tokens(loaded.model) if loaded.tokenizer is not None else None
    if known is None:
        return
    image = getattr(loaded.model.config, "image_token_id", None)  # some models put the image in its place before they embed it
    token = max(max((t for t in (*row.ids, *row.token_labels) if t != image), default=0) for row in rows)
    if token >= known:
        written = loaded.tokenizer.convert_ids_to_tokens(token)
        raise BadInput(
            f"{dataset.source}: {loaded.name}'s tokenizer gives token {token} ({written!r}); the model embeds {known:,} tokens.",
            "Use the tokenizer of these weights, or enlarge the model (resize_token_embeddings) and save it.",
        )


def _encode(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[EncodedRow], list[str]]:
    given = "text" if dataset.examples[0].image is None else "images"
    if given not in loaded.reads.split(" and ")[-1:]:
        raise BadInput(
            f"{dataset.source} holds {given}, and {loaded.name} reads {loaded.reads}.", f"Use a model of {given}, or other data."
        )
    if given == "images":
        return _encode_images(dataset, loaded)
    if loaded.processor is not None:
        return _encode_seen(dataset, loaded, max_length)
    if loaded.task == "seq2seq":
        return _encode_pairs(dataset, loaded, max_length)
    if loaded.task == "causal-lm":
        return _encode_language(dataset, loaded, max_length)
    tokenizer = loaded.tokenizer
    rows, cut = [], 0
    for example in dataset.examples:
        full = tokenizer(*example.texts, truncation=False, verbose=False)["input_ids"]
        encoded = tokenizer(*example.texts, truncation=True, max_length=max_length)
        cut += len(full) > len(encoded["input_ids"])
        types = encoded.get("token_type_ids")
        assert example.label is not None
        rows.append(EncodedRow(tuple(encoded["input_ids"]), tuple(types) if types else None, example.label))
    notes = [f"{cut} of {len(rows)} rows are longer than {max_length} tokens and were cut."] if cut else []
    return rows, notes


def _encode_images(dataset: Dataset, loaded: LoadedModel) -> tuple[list[EncodedRow], list[str]]:
    rows, unreadable = [], []
    for example in dataset.examples:
        assert example.image is not None
        assert example.label is not None
        try:
            example.image.load(mode_of(loaded.model.config))
        except BadInput as error:
            unreadable.append(error)
            continue
        rows.append(EncodedRow((), label=example.label, image=example.image, image_tokens=loaded.image_tokens))
    if not rows:
        raise unreadable[0]
    count = len(unreadable)
    left_out = f"Left out: {count} {'image' if count == 1 else 'images'} that cannot be read. First: " if count else ""
    return rows, [left_out + unreadable[0].what] if count else []


def _encode_seen(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[EncodedRow], list[str]]:
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
    return rows, [*notes, *_chat_note(dataset, loaded.tokenizer)]


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
        prompt, answer = _split_texts(example)
        text = image_token(processor) * len(images) + prompt.replace(MARK, "")
        made = processed(processor, [text], [images], suffix=[answer.lstrip()])
        labels = made["labels"][0].tolist()
        return EncodedRow(_ids(made), token_labels=tuple(labels), images=example.images, text=text, by_token=_marks(made))
    prompt, answer = _split_texts(example)
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
    with_parts = lambda turns: [{**turn, "content": parts_of_turn(turn["content"])} for turn in turns]  # noqa: E731
    try:
        text, prompt = _texts_by_template(with_parts(turns), processor.tokenizer)
    except BadInput:
        folded = _fold_system(turns)
        if folded == turns:
            raise
        text, prompt = _texts_by_template(with_parts(folded), processor.tokenizer)
    made = processed(processor, [text], [images])
    # Without the images' tokens in full the answer is the same, and it comes last.
    plain = {"add_special_tokens": not (processor.tokenizer.bos_token and text.startswith(processor.tokenizer.bos_token)), "verbose": False}
    whole, start = (processor.tokenizer(each, **plain)["input_ids"] if each else [] for each in (text, prompt))
    learned = whole[_parting(start, whole) :]
    ids = _ids(made)
    if list(ids[len(ids) - len(learned) :]) != learned:
        raise BadInput("The chat template writes an image into an answer.", "Check the template.")
    labels = (*[IGNORED] * (len(ids) - len(learned)), *learned)
    return EncodedRow(ids, token_labels=labels, images=example.images, text=text, by_token=_marks(made))


def _ids(made: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    return tuple(made["input_ids"][0].tolist())


def _marks(made: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(values[0].tolist()) for key, values in by_token(made).items()}


def _encode_language(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[EncodedRow], list[str]]:
    tokenizer = loaded.tokenizer
    counts: Counter[str] = Counter()
    rows = []
    for example in dataset.examples:
        prompt, completion = _split_ids(example, tokenizer)
        room = max_length - len(completion)
        if len(prompt) + len(completion) > max_length:
            counts["prompts were shortened from the left" if room > 0 else "rows are longer than the limit"] += 1
            prompt = prompt[-room:] if room > 0 else prompt[-1:]
        ids = (prompt + completion)[:max_length]
        labels = ([IGNORED] * len(prompt) + completion)[:max_length]
        if all(label == IGNORED for label in labels[1:]):  # the first token is never predicted
            counts["rows had no target token left and were dropped"] += 1
            continue
        rows.append(EncodedRow(tuple(ids), token_labels=tuple(labels)))
    total = len(dataset.examples)
    notes = [f"{count} of {total} {what} (limit {max_length} tokens)." for what, count in counts.items()]
    notes += _chat_note(dataset, tokenizer)
    if not rows:
        raise BadInput(
            f"{dataset.source}: no row has a target token left within {max_length} tokens.",
            "Raise --max-length, or check that the answers are not empty.",
        )
    return rows, notes


def _split_texts(example: Example) -> tuple[str, str]:
    """Prompt and answer, a chat in the form that needs no template."""
    if not example.messages:
        return example.prompt, example.completion
    prompt = "".join(CHAT_FORM.format(role=role, content=content) for role, content in example.messages[:-1])
    role, answer = example.messages[-1]
    return prompt + CHAT_FORM.format(role=role, content="").rstrip(), " " + answer


def _encode_pairs(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[EncodedRow], list[str]]:
    tokenizer = loaded.tokenizer
    counts: Counter[str] = Counter()
    rows = []
    for example in dataset.examples:
        source, target = _source_and_target(example, tokenizer)
        row = EncodedRow(
            tuple(_within(max_length, tokenizer, source)), token_labels=tuple(_within(max_length, tokenizer, target))
        )
        if not (row.ids and row.token_labels):
            counts["rows had no token of a source or target and were dropped"] += 1
            continue
        counts["sources were cut"] += len(row.ids) < len(source)
        counts["targets were cut"] += len(row.token_labels) < len(target)
        rows.append(row)
    if not rows:
        raise BadInput(f"{dataset.source}: no row has a token of a source and of a target.", "Check the columns.")
    total = len(dataset.examples)
    notes = [f"{count} of {total} {what} (limit {max_length} tokens)." for what, count in counts.items() if count]
    return rows, [*notes, *_chat_note(dataset, tokenizer)]


def _chat_note(dataset: Dataset, tokenizer: Any) -> list[str]:
    if not dataset.examples[0].messages or tokenizer.chat_template is not None:
        return []
    return [f"The tokenizer has no chat template; messages are written as {CHAT_FORM!r}."]


def _source_and_target(example: Example, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of what an encoder reads and of what its decoder learns, each in the tokenizer's own form."""
    source, target = _split_texts(example)
    if example.messages and tokenizer.chat_template is not None:
        return _split_ids(example, tokenizer)
    return tokenizer(source, verbose=False)["input_ids"], tokenizer(text_target=target.lstrip(), verbose=False)["input_ids"]


def _within(length: int, tokenizer: Any, ids: list[int]) -> list[int]:
    """At most ``length`` of the tokens, the first ones, and the end token where they end in it."""
    if len(ids) <= length:
        return ids
    return [*ids[: length - 1], ids[-1]] if ids[-1] == tokenizer.eos_token_id else ids[:length]


def _split_ids(example: Example, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of the answer (with the end token), loss on the latter only."""
    if example.messages:
        messages = [{"role": role, "content": content} for role, content in example.messages]
        if tokenizer.chat_template is not None:
            try:
                return _split_by_template(messages, tokenizer)
            except BadInput:
                folded = _fold_system(messages)  # Gemma's template and others have no system turn
                if folded == messages:
                    raise
                return _split_by_template(folded, tokenizer)
    prompt_text, answer = _split_texts(example)
    prompt_ids: list[int] = tokenizer(prompt_text, verbose=False)["input_ids"] if prompt_text else []
    if prompt_ids and prompt_ids[-1] == tokenizer.eos_token_id:
        prompt_ids = prompt_ids[:-1]
    answer_ids: list[int] = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
    if not prompt_ids and tokenizer.bos_token_id is not None:
        prompt_ids = [tokenizer.bos_token_id]
    return prompt_ids, answer_ids + ([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])


def _fold_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The system's words at the head of the user's first turn, where they stand right before it."""
    if [message["role"] for message in messages[:2]] != ["system", "user"]:
        return messages
    content = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": content}, *messages[2:]]


def _split_by_template(messages: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
    texts = _texts_by_template(messages, tokenizer)
    whole, prompt = (tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else [] for text in texts)
    cut = _parting(prompt, whole)
    return whole[:cut], whole[cut:]


def _parting(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """Where the answer begins. A generation prompt may open a thought that the written answer lacks: the prompt ends where they
    part."""
    return next((i for i, (p, w) in enumerate(zip(prompt, whole, strict=False)) if p != w), min(len(prompt), len(whole)))


def _texts_by_template(messages: Sequence[Mapping[str, Any]], tokenizer: Any) -> tuple[str, str]:
    """A conversation as the tokenizer's template writes it, and what of it comes before the answer."""
    roles = printable(" – ".join(m["role"] for m in messages), 120)
    with loading(
        f"The tokenizer's chat template refuses a conversation of {roles}",
        "Change the rows' roles, or use prompt and completion columns.",
    ):
        whole = _templated(messages, tokenizer)
        # templates refuse an empty conversation
        return whole, _templated(messages[:-1], tokenizer, add_generation_prompt=True) if messages[1:] else ""


def _templated(messages: Sequence[Mapping[str, Any]], tokenizer: Any, **options: Any) -> str:
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    if len(text) > LONGEST_CHAT:
        raise BadInput(f"The tokenizer's chat template makes {len(text):,} characters of one row.", "Check the template.")
    return text


def collate(
    rows: Sequence[EncodedRow], loaded: LoadedModel, label_mean: float = 0.0, label_std: float = 1.0
) -> dict[str, torch.Tensor]:
    """Pad ``rows`` on the right to the longest, or decode their images; the result feeds ``model(**batch)``.

    Regression labels come out standardised: (label − label_mean)/label_std. The key ``labels`` holds [examples]
    class ids or values, or [examples, tokens] ids with ``IGNORED``; seq2seq: the target's, also as ``decoder_input_ids``.
    """

    def padded(sequences: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        longest = max(map(len, sequences))
        return torch.tensor([[*s, *[fill] * (longest - len(s))] for s in sequences], device=loaded.device)

    batch: dict[str, torch.Tensor] = {}
    if loaded.reads == "images":
        images = [row.image.load(mode_of(loaded.model.config)) for row in rows if row.image is not None]
        batch["pixel_values"] = image_batch(images, loaded.image_processor).to(loaded.device, loaded.dtype)
    else:
        batch["input_ids"] = padded([row.ids for row in rows], loaded.tokenizer.pad_token_id)
        batch["attention_mask"] = padded([[1] * len(row.ids) for row in rows], 0)
    for key in rows[0].by_token:
        batch[key] = padded([row.by_token[key] for row in rows], 0)
    if seen := [row for row in rows if row.images]:
        batch |= _pixels(seen, loaded)
    if rows[0].types is not None:
        batch["token_type_ids"] = padded([row.types or () for row in rows], 0)
    if loaded.task in LANGUAGE_TASKS:
        batch["labels"] = padded([row.token_labels for row in rows], IGNORED)
        if loaded.task == "seq2seq":
            batch["decoder_input_ids"] = _shifted(batch["labels"], loaded.model)
    elif loaded.task == "regression":
        values = [(row.label - label_mean) / label_std for row in rows]
        batch["labels"] = torch.tensor(values, dtype=torch.float32, device=loaded.device)
    else:
        batch["labels"] = torch.tensor([int(row.label) for row in rows], device=loaded.device)
    return batch


def _pixels(rows: Sequence[EncodedRow], loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """What the model reads of the images of some rows, that all have some: all that the processor makes but what is by token."""
    images = [[image.load("RGB") for image in row.images] for row in rows]
    made = processed(loaded.processor, [row.text for row in rows], images)
    beside = {key: value for key, value in made.items() if key not in (*BY_TOKEN, "labels", *rows[0].by_token)}
    return {key: t.to(loaded.device, loaded.dtype if t.is_floating_point() else None) for key, t in beside.items()}


def _shifted(labels: torch.Tensor, model: Any) -> torch.Tensor:
    """What a decoder reads to predict ``labels``, as transformers' own data collator has it: a start token, then each but
    the last. Families that have no method for it (M2M100, Blenderbot) do the same within their model."""
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        shifted: torch.Tensor = model.prepare_decoder_input_ids_from_labels(labels)
        return shifted
    start = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
    return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, model.config.pad_token_id)], 1)


def length_bucketed(
    lengths: Sequence[int], batch_size: int, rng: np.random.Generator | None = None, window: int = 8
) -> Iterator[list[int]]:
    """Batches of row indices of similar length.

    With ``rng``: rows are shuffled, sorted by length within windows of ``window`` batches, and the batches
    shuffled again (training). Without: sorted by length (evaluation, probing).
    """
    if rng is None:
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    else:
        shuffled = [int(i) for i in rng.permutation(len(lengths))]
        span = batch_size * window
        batches = []
        for start in range(0, len(shuffled), span):
            part = sorted(shuffled[start : start + span], key=lambda i: lengths[i])
            batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        batches = [batches[int(i)] for i in rng.permutation(len(batches))]
    yield from batches
