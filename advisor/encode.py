"""Examples → token ids → padded batches.

Shape convention, used everywhere: a batch is [examples, tokens]; activations are [examples, tokens, features].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from advisor.data import Dataset
from advisor.errors import BadInput
from advisor.examples import Example
from advisor.models import LoadedModel

IGNORED = -100  # label of a token that is not learned, as in transformers
DEFAULT_MAX_LENGTH = {"classification": 128, "regression": 128, "causal-lm": 512}
CHAT_FORM = "{role}: {content}\n"  # used when the tokenizer has no chat template


@dataclass(frozen=True)
class Row:
    """One tokenised example.

    Attributes:
        ids: token ids, not padded.
        types: token type ids, None where the model has none.
        label: class id or value (classification, regression).
        token_labels: per token the id to predict or ``IGNORED`` (causal LM), aligned with ``ids``.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] | None = None
    label: int | float = 0
    token_labels: tuple[int, ...] = ()


def resolve_max_length(requested: int | None, loaded: LoadedModel) -> int:
    """The requested length, or 128 (classifiers) / 512 (language models); never above the model's limit.

    Raises:
        BadInput: fewer than 2 tokens asked for.
    """
    if requested is not None and requested < 2:
        raise BadInput(f"--max-length must be at least 2, got {requested}.")
    return min(requested or DEFAULT_MAX_LENGTH[loaded.task], loaded.max_length)


def encode(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[Row], list[str]]:
    """Tokenise every example; returns the rows and what was cut or dropped, one sentence each.

    Raises:
        BadInput: no row has a target token left (causal LM).
    """
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
        rows.append(Row(tuple(encoded["input_ids"]), tuple(types) if types else None, example.label))
    notes = [f"{cut} of {len(rows)} rows are longer than {max_length} tokens and were cut."] if cut else []
    return rows, notes


def _encode_language(dataset: Dataset, loaded: LoadedModel, max_length: int) -> tuple[list[Row], list[str]]:
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
        rows.append(Row(tuple(ids), token_labels=tuple(labels)))
    total = len(dataset.examples)
    notes = [f"{count} of {total} {what} (limit {max_length} tokens)." for what, count in counts.items()]
    if dataset.examples[0].messages and tokenizer.chat_template is None:
        notes.append(f"The tokenizer has no chat template; messages are written as {CHAT_FORM!r}.")
    if not rows:
        raise BadInput(
            f"{dataset.source}: no row has a target token left within {max_length} tokens.",
            "Raise --max-length, or check that the answers are not empty.",
        )
    return rows, notes


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
        prompt_text = "".join(CHAT_FORM.format(**m) for m in messages[:-1])
        role, answer = example.messages[-1]
        prompt_text += CHAT_FORM.format(role=role, content="").rstrip()
        answer = " " + answer
    else:
        prompt_text, answer = example.prompt, example.completion
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
    from jinja2 import TemplateError

    try:
        whole = list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))
        prompt: list[int] = []
        if messages[1:]:  # templates refuse an empty conversation
            prompt = tokenizer.apply_chat_template(
                messages[:-1], tokenize=True, add_generation_prompt=True, return_dict=False
            )
    except TemplateError as error:
        roles = " – ".join(m["role"] for m in messages)
        raise BadInput(
            f"The tokenizer's chat template refuses a conversation of {roles}: {error}.",
            "Change the rows' roles, or use prompt and completion columns.",
        ) from error
    # A generation prompt may open a thought that the written answer lacks: the prompt ends where they part.
    cut = next((i for i, (p, w) in enumerate(zip(prompt, whole, strict=False)) if p != w), min(len(prompt), len(whole)))
    return whole[:cut], whole[cut:]


def collate(
    rows: Sequence[Row], loaded: LoadedModel, label_mean: float = 0.0, label_std: float = 1.0
) -> dict[str, torch.Tensor]:
    """Pad ``rows`` on the right to the longest; the result feeds ``model(**batch)``.

    Regression labels come out standardised: (label − label_mean)/label_std. The key ``labels`` holds [examples]
    class ids or values, or [examples, tokens] ids with ``IGNORED``.
    """
    longest = max(len(row.ids) for row in rows)

    def padded(sequences: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*s, *[fill] * (longest - len(s))] for s in sequences], device=loaded.device)

    batch = {
        "input_ids": padded([row.ids for row in rows], loaded.tokenizer.pad_token_id),
        "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
    }
    if rows[0].types is not None:
        batch["token_type_ids"] = padded([row.types or () for row in rows], 0)
    if loaded.task == "causal-lm":
        batch["labels"] = padded([row.token_labels for row in rows], IGNORED)
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
