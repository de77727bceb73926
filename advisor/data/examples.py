"""One row as an example: texts and label, prompt and completion, or a conversation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.tasks import EMBEDDING, KTO, PREFERENCE, SPANS, TOKENS
from advisor.core.text import printable
from advisor.data.compared import SYSTEMS
from advisor.data.images import IN_ROWS, SOURCES, ImageFile, named_images
from advisor.data.labels import class_name, number, untagged
from advisor.data.refusals import says_yes
from advisor.data.schema import Schema
from advisor.data.spans import find_span
from advisor.data.turns import LEARNED, MARK, WRITTEN, as_turns, image_parts, more_than_text, read_turn, role_of, text_of
from advisor.data.values import missing

NO_ANSWER = "without an answer by the assistant"


@dataclass(frozen=True)
class Example:
    """One row, ready for a tokenizer or an image processor.

    Attributes:
        texts: one or two texts (classification, regression); an anchor, its positive and the negatives (embedding).
        label: class id, or the value to predict; of a marked answer 1 where it is desirable, else 0 (KTO).
        prompt: what the completion answers; empty for plain text (language tasks).
        completion: the text that is learned (language tasks).
        messages: (role, content) turns of a chat; the last one is the assistant's answer, which is learned.
        words: one text in words; tags: the class id of each, None where it has none (token classification).
        span: where the answer to the first text begins and ends in the second, in characters; None: nowhere (question answering).
        image: in place of texts (classification, regression).
        rejected: the answer that this one is preferred to, after the same prompt (preference).
        images: that ``MARK`` stands for in the prompt or the turns, in their order (language tasks).
    """

    texts: tuple[str, ...] = ()
    label: int | float | None = None
    prompt: str = ""
    completion: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    image: ImageFile | None = None
    images: tuple[ImageFile, ...] = ()
    rejected: Example | None = None
    words: tuple[str, ...] = ()
    tags: tuple[int | None, ...] = ()
    span: tuple[int, int] | None = None


def example_of(row: dict[str, Any], schema: Schema, place: str, folder: Path | None = None) -> Example | str:
    """The row as an example, or the reason to leave it out.

    Args:
        folder: where paths of images start, for a model of images and text; None: images beside texts are not read.

    Raises:
        BadInput: a cell that is no text, label or conversation; ``place`` says where.
    """
    columns = schema.text_columns
    if schema.task == PREFERENCE:
        return _preference(row, columns, place)
    if schema.task == KTO:
        return _marked(row, columns, schema.label_column or "", place)
    if schema.task == EMBEDDING:
        return _contrasted(row, columns, place)
    if schema.task == TOKENS:
        return _tagged(row, schema, place)
    if schema.task == SPANS:
        return _answered_by_span(row, schema, place)
    beside: list[ImageFile] = []
    if folder is not None and schema.task in LANGUAGE_TASKS and columns[0].lower() in IN_ROWS:
        found, columns = named_images(row.get(columns[0]), folder), columns[1:]
        if isinstance(found, str):
            return found
        beside = found
    if schema.task in LANGUAGE_TASKS and isinstance(row.get(columns[-1]), list):
        return _chat([row.get(column) for column in columns], place, folder, beside)
    image = row.get(columns[0])
    if isinstance(image, ImageFile):
        return Example(label=_label(row.get(schema.label_column or ""), schema, place), image=image)
    texts = tuple(text_of(row.get(column), place, column) for column in columns)
    if schema.task in LANGUAGE_TASKS:
        *prompt, completion = texts
        if missing(completion):
            return "with an empty text"
        joined = "\n\n".join(text for text in prompt if not missing(text))
        if folder is None:
            return Example(prompt=joined, completion=completion)
        turns = [("user", joined.replace(MARK, "")), ("assistant", completion.replace(MARK, ""))]
        return _with_images(turns, [], beside, as_turns=False)
    if any(map(missing, texts)):
        return "with an empty text"
    label = row.get(schema.label_column or "")
    if missing(label):
        return "without a label"
    return Example(texts=texts, label=_label(label, schema, place))


def _tagged(row: dict[str, Any], schema: Schema, place: str) -> Example | str:
    """Words and the tag of each."""
    words, tags = row.get(schema.text_columns[0]), row.get(schema.label_column or "")
    if missing(words) or words == []:
        return "with an empty text"
    if missing(tags) or tags == []:
        return "without a tag"
    if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags):
        raise BadInput(
            f"{place}: {schema.text_columns[0]} and {schema.label_column} are not two lists of the same length.",
            "Write one tag for each word.",
        )
    ids = tuple(None if untagged(tag) else int(_label(tag, schema, place)) for tag in tags)
    if all(tag is None for tag in ids):
        return "without a tag"
    return Example(words=tuple(text_of(word, place, schema.text_columns[0]) for word in words), tags=ids)


def _answered_by_span(row: dict[str, Any], schema: Schema, place: str) -> Example | str:
    """A question, a context, and its first answer, in SQuAD's form: texts with where they start, or none."""
    question, context = (text_of(row.get(column), place, column) for column in schema.text_columns)
    if missing(question) or missing(context):
        return "with an empty text"
    span = find_span(row.get(schema.label_column or ""), context, f"{place}: {schema.label_column}")
    return span if isinstance(span, str) else Example(texts=(question, context), span=span)


def _preference(row: dict[str, Any], columns: Sequence[str], place: str) -> Example | str:
    """A pair of answers after what is asked, as texts or as turns, as TRL takes them."""
    *asked, chosen, rejected = columns
    if any(isinstance(row.get(column), list | dict) for column in columns):
        found = [_in_turns(row, asked, answer, place) for answer in (chosen, rejected)]
    else:
        prompt = _prompt(row, asked, place)
        texts = [text_of(row.get(answer), place, answer) for answer in (chosen, rejected)]
        if any(map(missing, texts)):
            return "with an empty text"
        if not asked:  # it stands at the head of both
            shared = list(takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False)))
            start = max((i for i, (character, _) in enumerate(shared) if character.isspace()), default=0)
            prompt, texts = texts[0][:start], [text[start:] for text in texts]
            if texts[0] != texts[1] and any(map(missing, texts)):
                return "with an empty text"
        found = [Example(prompt=prompt, completion=text) for text in texts]
    better, worse = found
    if isinstance(better, str) or isinstance(worse, str):
        return better if isinstance(better, str) else str(worse)
    if better == worse:
        return "with two answers that are the same"
    if better.messages[:-1] != worse.messages[:-1]:
        return "whose two answers follow other turns"
    return replace(better, rejected=worse)


def _marked(row: dict[str, Any], columns: Sequence[str], mark: str, place: str) -> Example | str:
    """An answer after what is asked, as texts or as turns, and its mark, as TRL takes them."""
    *asked, answer = columns
    if missing(row.get(mark)):
        return "without a mark"
    desirable = says_yes(row[mark])
    if desirable is None:
        raise BadInput(
            f"{place}: the mark {printable(repr(row[mark]), 80)} in column {mark} says neither true nor false.",
            "Correct the row, or name what is to be learned with --text-column.",
        )
    found: Example | str
    if any(isinstance(row.get(column), list | dict) for column in columns):
        found = _in_turns(row, asked, answer, place)
    else:
        found = Example(prompt=_prompt(row, asked, place), completion=text_of(row.get(answer), place, answer))
        if missing(found.completion):
            return "with an empty text"
    return found if isinstance(found, str) else replace(found, label=int(desirable))


def _prompt(row: dict[str, Any], asked: Sequence[str], place: str) -> str:
    """What is asked in several columns; empty ones are left out."""
    return "\n\n".join(text for column in asked if not missing(text := text_of(row.get(column), place, column)))


def _in_turns(row: dict[str, Any], asked: Sequence[str], answer: str, place: str) -> Example | str:
    """An answer after what is asked, where one of them is written in turns."""
    return _answered({column: row.get(column) for column in asked}, as_turns(row.get(answer), "assistant"), place)


def _contrasted(row: dict[str, Any], columns: Sequence[str], place: str) -> Example | str:
    """An anchor, its positive and the negatives; of a list of texts the first one."""
    cells = ((column, row.get(column)) for column in columns)
    firsts = ((column, _passage(next(iter(cell), None) if isinstance(cell, list) else cell)) for column, cell in cells)
    texts = [text_of(cell, place, column) for column, cell in firsts]
    if empty := [column for column, text in zip(columns, texts, strict=True) if missing(text)]:
        return f"with an empty text in column {empty[0]}"
    anchor, positive, *negatives = texts
    if positive in negatives:
        return "whose positive is a negative too"
    return Example(texts=(anchor, positive, *negatives))


def _passage(cell: Any) -> Any:
    """The text of a passage written as a title and a text."""
    if not isinstance(cell, dict) or not isinstance(cell.get("text"), str):
        return cell
    return " ".join(part for part in (cell.get("title"), cell["text"]) if isinstance(part, str) and part.strip())


def _answered(asked: Mapping[str, Any], answer: list[Any], place: str) -> Example | str:
    """Turns that end in an answer. What is asked is taken from columns of its own where the answer's turns do not hold it."""
    turns = [turn for cell in asked.values() if isinstance(cell, list | dict) for turn in as_turns(cell, "user")]
    turns = [] if answer[: len(turns)] == turns else turns
    roles = {role_of(role) for role in (read_turn(turn, place)[0] for turn in [*turns, *answer])}
    texts = {
        column: text_of(cell, place, column)
        for column, cell in asked.items()
        if not missing(cell) and not isinstance(cell, list | dict)
    }
    system = [text for column, text in texts.items() if column.lower() in SYSTEMS and "system" not in roles]
    words = "\n\n".join(text for column, text in texts.items() if column.lower() not in SYSTEMS)
    question = [{"role": "user", "content": words}] if words and "user" not in roles else []
    return _chat([*system, [*turns, *question, *answer]], place)


def _label(value: Any, schema: Schema, place: str) -> int | float:
    if schema.task == "regression":
        parsed = number(value)
        if parsed is None:
            raise BadInput(f"{place}: the label {value!r} is not a finite number.", "Correct the row.")
        return parsed
    name = class_name(value)
    if name not in schema.class_names:
        known = ", ".join(schema.class_names[:10]) + (", …" if len(schema.class_names) > 10 else "")
        raise BadInput(f"{place}: the class {name!r} is not among the training classes.", f"They are: {known}.")
    return schema.class_names.index(name)


def _chat(cells: Sequence[Any], place: str, folder: Path | None = None, beside: Sequence[ImageFile] = ()) -> Example | str:
    """Turns of all ``cells``: lists of them, or a text, which is the system's; ``beside``: images of the row's own column."""
    messages: list[tuple[str, str]] = []
    learned: list[bool] = []
    if other := more_than_text(cells, sees=folder is not None):
        return other
    inline: list[list[ImageFile] | None] = []
    if folder is not None:
        for part in image_parts(cells):
            if isinstance(named := named_images({k: part[k] for k in (*SOURCES, "bytes") if part.get(k)} or None, folder), str):
                return named
            inline.append(named or None)
    for cell in cells:
        for turn in as_turns(cell, "system"):
            role, content = read_turn(turn, place)
            messages.append((role_of(role), text_of(content, place, "messages")))
            learned.append(turn.get("weight") != 0 and all(turn.get(key) is not False for key in LEARNED))
    while messages and (messages[-1][0] != "assistant" or missing(messages[-1][1]) or not learned[len(messages) - 1]):
        messages.pop()
    if not messages:
        return NO_ANSWER
    return Example(messages=tuple(messages)) if folder is None else _with_images(messages, inline, beside)


def _with_images(
    turns: Sequence[tuple[str, str]],
    inline: Sequence[Sequence[ImageFile] | None],
    beside: Sequence[ImageFile],
    as_turns: bool = True,
) -> Example | str:
    """Turns whose marks, ``MARK`` of a part and ``WRITTEN`` in a text, stand for images, or why they cannot.

    Args:
        inline: the images of each part that is one, in order; None where it names none, and takes the next one beside.
        beside: of the row's own column, for the marks in turn; what is left over stands before the user's first words.
    """
    parts, rest = iter(inline), list(beside)
    found: list[ImageFile] = []
    written: list[tuple[str, str]] = []
    for role, content in turns:
        pieces = re.split(f"({MARK}|{re.escape(WRITTEN)})" if beside or inline else f"({MARK})", content)
        for index, piece in enumerate(pieces):
            if piece not in (MARK, WRITTEN):
                continue
            named = next(parts, None) if piece == MARK else None
            if named is None:
                if not rest:
                    return "with more marks of images than images"
                named = [rest.pop(0)]
            pieces[index] = MARK * len(named)
            found += named
        written.append((role, "".join(pieces)))
    if MARK in written[-1][1]:
        return "with an image in the answer"
    if rest:
        first = next((i for i, (role, _) in enumerate(written[:-1]) if role == "user"), None)
        if first is None:
            return "with an image and no words by the user"
        before = sum(content.count(MARK) for _, content in written[:first])
        written[first] = ("user", MARK * len(rest) + written[first][1])
        found[before:before] = rest
    if as_turns:
        return Example(messages=tuple(written), images=tuple(found))
    return Example(prompt=written[0][1], completion=written[1][1], images=tuple(found))
