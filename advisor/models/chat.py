"""Conversations as texts: in a tokenizer's chat template, or without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from advisor.core.errors import BadInput, loading
from advisor.core.text import printable
from advisor.data.examples import Example

LONGEST_CHAT = 2**24  # characters of one row, written by a template
CHAT_FORM = "{role}: {content}\n"  # used when the tokenizer has no chat template


def split_texts(example: Example) -> tuple[str, str]:
    """Prompt and answer, a chat in the form that needs no template."""
    if not example.messages:
        return example.prompt, example.completion
    prompt = "".join(CHAT_FORM.format(role=role, content=content) for role, content in example.messages[:-1])
    role, answer = example.messages[-1]
    return prompt + CHAT_FORM.format(role=role, content="").rstrip(), " " + answer


def fold_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The system's words at the head of the user's first turn, where they stand right before it."""
    if [message["role"] for message in messages[:2]] != ["system", "user"]:
        return messages
    content = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": content}, *messages[2:]]


def parting(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """Where the answer begins. A generation prompt may open a thought that the written answer lacks: the prompt ends where they
    part."""
    return next((i for i, (p, w) in enumerate(zip(prompt, whole, strict=False)) if p != w), min(len(prompt), len(whole)))


def texts_by_template(messages: Sequence[Mapping[str, Any]], tokenizer: Any) -> tuple[str, str]:
    """A conversation as the tokenizer's template writes it, and what of it comes before the answer.

    Raises:
        BadInput: the template refuses it, or makes far too long a text of it.
    """
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
