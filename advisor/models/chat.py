"""Conversations as texts: in a tokenizer's chat template, or without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError

from advisor.core.errors import BadInput, loading
from advisor.core.text import printable
from advisor.data.examples import Example

LONGEST_CHAT = 2**24  # characters of one row, written by a template
OTHER = "x"  # written around an answer to see whether a template has it
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
        BadInput: the template refuses it, leaves out the answer, or makes far too long a text of it.
    """
    roles = printable(" – ".join(m["role"] for m in messages), 120)
    with loading(f"The tokenizer's chat template refuses a conversation of {roles}", lambda error: _way_out(error, tokenizer)):
        whole = _templated(messages, tokenizer)
        # templates refuse an empty conversation
        prompt = _templated(messages[:-1], tokenizer, add_generation_prompt=True) if messages[1:] else ""
        if _leaves_out_answer(messages, whole, prompt, tokenizer):
            raise BadInput(
                f"The tokenizer's chat template leaves out the answer of a conversation of {roles}: for another "
                "answer it writes the same text.",
                f"Correct it ({_file_of_template(tokenizer)}), or use prompt and completion columns.",
            )
        return whole, prompt


def _way_out(error: BaseException, tokenizer: Any) -> str:
    """What to do where a template fails: one that raises by itself refuses the roles, any other failure is a fault in it."""
    if type(error) is TemplateError:
        return "Change the rows' roles, or use prompt and completion columns."
    line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
    return f"Correct the template ({_file_of_template(tokenizer)}{line}), or use prompt and completion columns."


def _file_of_template(tokenizer: Any) -> str:
    own = Path(str(tokenizer.name_or_path)) / "chat_template.jinja"
    return own.name if own.exists() else "chat_template in tokenizer_config.json"


def _leaves_out_answer(messages: Sequence[Mapping[str, Any]], whole: str, prompt: str, tokenizer: Any) -> bool:
    """Whether the template writes the same text for another answer. It may strip or change an answer, so that looking for its
    text is a shortcut only: the text may be in the prompt too."""
    *before, last = messages
    content = last["content"]
    answer = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    if not answer.strip() or answer.strip() in whole[len(prompt) if whole.startswith(prompt) else len(whole) :]:
        return False
    other = f"{OTHER}{answer}{OTHER}"
    changed = other if isinstance(content, str) else [{"type": "text", "text": other}]
    return _templated([*before, {**last, "content": changed}], tokenizer) == whole


def _templated(messages: Sequence[Mapping[str, Any]], tokenizer: Any, **options: Any) -> str:
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    if len(text) > LONGEST_CHAT:
        raise BadInput(f"The tokenizer's chat template makes {len(text):,} characters of one row.", "Check the template.")
    return text
