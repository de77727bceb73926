"""Examples → token ids → padded batches.

Shape convention, used everywhere: a batch is [examples, tokens]; activations are [examples, tokens, features].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from advisor.core.deadline import deadline
from advisor.core.errors import BadInput, loading
from advisor.core.recipe import BY_ODDS
from advisor.core.tasks import EMBEDDING, KTO, OF_TOKENS, PREFERENCE, TASKS, TOKENS
from advisor.data.dataset import Dataset
from advisor.data.examples import Example
from advisor.data.images import image_batch, mode_of
from advisor.models.chat import CHAT_FORM, fold_system, parting, split_texts, texts_by_template
from advisor.models.load import LoadedModel
from advisor.models.readers import decoder_input, embedded_tokens
from advisor.models.rows import IGNORED as IGNORED
from advisor.models.rows import EncodedRow as EncodedRow
from advisor.models.seen import encode_seen, pixels_of

WITH_IMAGES = 2048  # tokens of a row of images and text, most of which stand for images
FIRST_ROW_S = 20.0
LEAST_CONTEXT, WINDOW_STRIDE = 8, 128  # tokens of a context beside its question; that two windows of it share, as scripts have it


def resolve_max_length(requested: int | None, loaded: LoadedModel) -> int:
    """The requested length, or 128 (classifiers) / 512 (language models) / 2048 (of images and text), of texts to be embedded
    sentence-transformers' own for the model; never above the model's limit. Of images alone the only one.

    Raises:
        BadInput: fewer than 2 tokens asked for.
    """
    if requested is not None and requested < 2:
        raise BadInput(f"--max-length must be at least 2, got {requested}.")
    if loaded.reads == "images":
        return loaded.image_tokens
    if loaded.max_length < 2:
        what = "the position table of config.json leaves room for no text"  # a tokenizer's own limit is looked at on loading
        raise BadInput(f"{loaded.name}: {what}: {loaded.max_length} tokens.", "Correct max_position_embeddings in it.")
    usual = WITH_IMAGES if loaded.processor is not None else TASKS[loaded.task].max_length
    own = loaded.embedder and loaded.embedder.max_length
    return min(requested or own or usual, loaded.max_length)


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
    read = (s for row in rows for s in row.sequences)
    learned = loaded.task not in OF_TOKENS  # there they are ids of classes, or places
    token = max(max((t for t in (*s.ids, *(s.token_labels if learned else ())) if t != image), default=0) for s in read)
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
        rows, notes = encode_seen(dataset, loaded, max_length)
        return rows, [*notes, *_chat_note(dataset, loaded.tokenizer)]
    if loaded.task == "seq2seq":
        return _encode_pairs(dataset, loaded, max_length)
    if loaded.task in ("causal-lm", PREFERENCE, KTO):
        return _encode_language(dataset, loaded, max_length)
    if loaded.task == EMBEDDING:
        return _encode_compared(dataset, loaded, max_length)
    if loaded.task in OF_TOKENS:
        if not loaded.tokenizer.is_fast:
            raise BadInput(
                f"{loaded.name}: its tokenizer does not say where in a text a token is.",
                "Use a model with a fast one (tokenizer.json).",
            )
        encode_rows = _encode_words if loaded.task == TOKENS else _encode_spans
        return encode_rows(dataset, loaded, max_length)
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


def _encode_compared(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[EncodedRow], list[str]]:
    """Each text by itself, as sentence-transformers reads it: what is longer is cut."""
    tokenizer = loaded.tokenizer
    counts: Counter[str] = Counter()
    rows = []
    for example in dataset.examples:
        texts, cut = [], False
        for text in example.texts:
            encoded = tokenizer(text, truncation=True, max_length=max_length)
            types = encoded.get("token_type_ids")
            texts.append(EncodedRow(tuple(encoded["input_ids"]), tuple(types) if types else None))
            cut = cut or len(tokenizer(text, verbose=False)["input_ids"]) > len(texts[-1].ids)
        if not all(text.ids for text in texts):
            counts["rows have a text without a token and were dropped"] += 1
            continue
        counts["rows have a longer text, which was cut"] += cut
        rows.append(replace(texts[0], others=tuple(texts[1:])))
    total = len(dataset.examples)
    if len(rows) < 2:
        raise BadInput(
            f"{dataset.source}: {len(rows)} usable row of {total}; each row's texts are contrasted with those of other rows.",
            "Give two rows or more.",
        )
    return rows, [f"{count} of {total} {what} (limit {max_length} tokens)." for what, count in counts.items() if count]


def _encode_words(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[EncodedRow], list[str]]:
    """The first token of each word has the word's tag, as transformers' own scripts have it; nothing is learned at the others."""
    tokenizer = loaded.tokenizer
    counts: Counter[str] = Counter()
    rows = []
    for example in dataset.examples:
        full = tokenizer(list(example.words), is_split_into_words=True, truncation=False, verbose=False)
        encoded = tokenizer(list(example.words), is_split_into_words=True, truncation=True, max_length=max_length)
        places = encoded.word_ids()
        first = [place is not None and place != before for place, before in zip(places, [None, *places], strict=False)]
        tags = [
            IGNORED if not new or (tag := example.tags[place]) is None else tag for new, place in zip(first, places, strict=True)
        ]
        if all(tag == IGNORED for tag in tags):
            counts["rows had no tagged word left and were dropped"] += 1
            continue
        counts["rows are longer and were cut"] += len(full["input_ids"]) > len(places)
        lost = set(range(len(example.words))).difference(full.word_ids())
        counts["rows have tagged words that no token is made of"] += any(example.tags[word] is not None for word in lost)
        types = encoded.get("token_type_ids")
        rows.append(EncodedRow(tuple(encoded["input_ids"]), tuple(types) if types else None, token_labels=tuple(tags)))
    if not rows:
        raise BadInput(f"{dataset.source}: no row has a tagged word left within {max_length} tokens.", "Raise --max-length.")
    total = len(dataset.examples)
    return rows, [f"{count} of {total} {what} (limit {max_length} tokens)." for what, count in counts.items() if count]


def _encode_spans(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[EncodedRow], list[str]]:
    """Question and context, of which too long ones are cut to the first window that holds the answer. Without an answer the
    first token is both ends."""
    tokenizer = loaded.tokenizer
    counts: Counter[str] = Counter()
    rows = []
    for example in dataset.examples:
        question, context = example.texts
        room = max_length - len(tokenizer(question, "")["input_ids"])
        if room < LEAST_CONTEXT:
            counts["rows have a question that leaves no room for a context and were dropped"] += 1
            continue
        windows = tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=max_length,
            stride=min(WINDOW_STRIDE, room // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        found = ((i, _span_in(windows, i, example.span)) for i in range(len(windows["input_ids"])))
        index, span = next(((i, span) for i, span in found if span is not None), (0, None))
        if span is None:
            counts["rows have an answer that no window holds and were dropped"] += 1
            continue
        counts["contexts were cut to a window that holds the answer"] += len(windows["input_ids"]) > 1
        types = windows["token_type_ids"][index] if "token_type_ids" in windows else None
        rows.append(EncodedRow(tuple(windows["input_ids"][index]), tuple(types) if types else None, token_labels=span))
    if not rows:
        raise BadInput(f"{dataset.source}: no row has its answer within {max_length} tokens.", "Raise --max-length.")
    total = len(dataset.examples)
    return rows, [f"{count} of {total} {what} (limit {max_length} tokens)." for what, count in counts.items() if count]


def _span_in(windows: Any, index: int, span: tuple[int, int] | None) -> tuple[int, int] | None:
    """First and last token of the characters ``span`` of the context; None where the window does not hold them all."""
    if span is None:
        return 0, 0
    offsets = windows["offset_mapping"][index]
    places = [i for i, part in enumerate(windows.sequence_ids(index)) if part == 1]
    if not places or offsets[places[0]][0] > span[0] or offsets[places[-1]][1] < span[1]:
        return None
    inside = [i for i in places if offsets[i][1] > span[0] and offsets[i][0] < span[1]]
    return (inside[0], inside[-1]) if inside else None


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


def _encode_language(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[EncodedRow], list[str]]:
    tokenizer = loaded.tokenizer
    counts: Counter[str] = Counter()
    rows = []
    for example in dataset.examples:
        parts = [_split_ids(each, tokenizer) for each in (example, example.rejected) if each is not None]
        longest = max(len(completion) for _, completion in parts)
        room = max_length - longest  # for the prompt, which is the same before both answers
        if max(len(prompt) for prompt, _ in parts) > room:
            counts["prompts were shortened from the left" if room > 0 else "rows are longer than the limit"] += 1
        made = [_prompted(prompt, completion, room, max_length) for prompt, completion in parts]
        if any(all(label == IGNORED for label in row.token_labels[1:]) for row in made):  # the first token is never predicted
            counts["rows had no target token left and were dropped"] += 1
            continue
        if len(made) > 1 and made[0] == made[1]:
            counts["rows had two answers that are the same within the limit and were dropped"] += 1
            continue
        rows.append(replace(made[0], others=tuple(made[1:]), label=example.label or 0))
    total = len(dataset.examples)
    notes = [f"{count} of {total} {what} (limit {max_length} tokens)." for what, count in counts.items()]
    notes += _chat_note(dataset, tokenizer)
    if not rows:
        raise BadInput(
            f"{dataset.source}: no row has a target token left within {max_length} tokens.",
            "Raise --max-length, or check that the answers are not empty.",
        )
    return rows, notes


def _prompted(prompt: list[int], completion: list[int], room: int, max_length: int) -> EncodedRow:
    """A prompt, of which ``room`` tokens are kept, and the answer that is learned."""
    if len(prompt) > room:
        prompt = prompt[-room:] if room > 0 else prompt[-1:]
    ids, labels = prompt + completion, [IGNORED] * len(prompt) + completion
    return EncodedRow(tuple(ids[:max_length]), token_labels=tuple(labels[:max_length]))


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
    source, target = split_texts(example)
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
                folded = fold_system(messages)  # Gemma's template and others have no system turn
                if folded == messages:
                    raise
                return _split_by_template(folded, tokenizer)
    prompt_text, answer = split_texts(example)
    prompt_ids: list[int] = tokenizer(prompt_text, verbose=False)["input_ids"] if prompt_text else []
    if prompt_ids and prompt_ids[-1] == tokenizer.eos_token_id:
        prompt_ids = prompt_ids[:-1]
    answer_ids: list[int] = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
    if not prompt_ids and tokenizer.bos_token_id is not None:
        prompt_ids = [tokenizer.bos_token_id]
    return prompt_ids, answer_ids + ([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [])


def _split_by_template(messages: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
    texts = texts_by_template(messages, tokenizer)
    whole, prompt = (tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text else [] for text in texts)
    cut = parting(prompt, whole)
    return whole[:cut], whole[cut:]


def collate(
    rows: Sequence[EncodedRow], loaded: LoadedModel, label_mean: float = 0.0, label_std: float = 1.0
) -> dict[str, torch.Tensor]:
    """Pad ``rows`` on the right to the longest, or decode their images; the result feeds ``model(**batch)``.

    Regression labels come out standardised: (label − label_mean)/label_std. The key ``labels`` holds [examples]
    class ids or values, or [examples, tokens] ids with ``IGNORED``; seq2seq: the target's, also as ``decoder_input_ids``; KTO:
    with the row's mark in place of the first token, which is never predicted. Texts that are compared come one right after the
    other, first the chosen answer or the anchor; of texts to be embedded ``labels`` are their pulls, [examples, texts, h + 1],
    or [examples, texts] zeros where these are not known.
    """

    def padded(sequences: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        longest = max(map(len, sequences))
        return torch.tensor([[*s, *[fill] * (longest - len(s))] for s in sequences], device=loaded.device)

    given, rows = rows, [sequence for row in rows for sequence in row.sequences]
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
        batch |= pixels_of(seen, loaded)
    if rows[0].types is not None:
        batch["token_type_ids"] = padded([row.types or () for row in rows], 0)
    if loaded.task == EMBEDDING:
        pulls = [row.pulls if row.pulls is not None else np.zeros(len(row.sequences)) for row in given]
        batch["labels"] = torch.from_numpy(np.stack(pulls)).to(loaded.device, torch.float32)
    elif loaded.task in BY_ODDS:
        batch["labels"] = padded([row.token_labels for row in rows], IGNORED)
        if loaded.task == KTO:
            batch["labels"][:, 0] = torch.tensor([int(row.label) for row in rows])
        if loaded.task == "seq2seq":
            fed = padded([row.fed or row.token_labels for row in rows], IGNORED)
            batch["decoder_input_ids"] = decoder_input(fed, loaded.model)
    elif loaded.task == "regression":
        values = [(row.label - label_mean) / label_std for row in rows]
        batch["labels"] = torch.tensor(values, dtype=torch.float32, device=loaded.device)
    else:
        batch["labels"] = torch.tensor([int(row.label) for row in rows], device=loaded.device)
    return batch


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
