"""Config files of any format as plain data; nothing in them is ever executed."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from advisor.core.errors import BadInput, reason
from advisor.core.reading import load_json, parse_yaml, read_bytes
from advisor.export.notebook import notebook_code
from advisor.export.plan import Format
from advisor.export.script import read_script
from advisor.models.peft import CONFIG_FILE
from advisor.models.tables import input_table, output_table

MOST_BYTES = 2_000_000
_ABOUT_LORA = re.compile(r"(?i)[ld]ora|peft|target_(modules|parameters)|modules_to_save|adapter(_|$)|(rank|alpha)_pattern")
_PEFT_KEYS = (
    *("r", "rank", "alpha", "exclude_modules", "layers_to_transform", "layers_pattern", "layer_replication", "task_type", "bias"),
    *("fan_in_fan_out", "trainable_token_indices", "ensure_weight_tying"),
)


def read_config(path: Path) -> tuple[Path, dict[str, Any], str | None]:
    """The file, its content, and for a Python snippet the name of its format; see :func:`parse`.

    Args:
        path: a JSON, YAML or Python file, or a folder with an ``adapter_config.json``.

    Raises:
        BadInput: no such file, too large, not of that syntax, or no mapping of arguments.
    """
    if os.path.isdir(path):
        path = _within(path)
    return path, *parse(read_bytes(path, "config", MOST_BYTES), str(path))


def _within(folder: Path) -> Path:
    """The ``adapter_config.json`` of a folder.

    Raises:
        BadInput: there is none; names a checkpoint below that has one.
    """
    path = folder / CONFIG_FILE
    below = sorted(folder.glob(f"*/{CONFIG_FILE}")) if not os.path.lexists(path) else []
    if below:
        raise BadInput(f"{path}: no such file, so there is no config to read.", f"Give {below[-1].parent}, which has one.")
    return path


def parse(data: bytes, name: str) -> tuple[dict[str, Any], str | None]:
    """Content of a config file called ``name``, and for a Python snippet the name of its format.

    Raises:
        BadInput: not of the syntax that the name's end says (``.py``, ``.ipynb``, ``.yaml``, ``.yml``, else JSON), or no mapping.
    """
    found: str | None = None
    content: Any
    try:
        if name.endswith(".py"):
            found, content = read_script(data)
        elif name.endswith(".ipynb"):
            found, content = read_script(notebook_code(data))
        elif name.endswith((".yaml", ".yml")):
            content = parse_yaml(data)
        else:
            content = load_json(data.decode())  # as PEFT: a byte order mark, or UTF-16, is refused
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        encoded = isinstance(error, UnicodeError) or "BOM" in str(error)
        hint = "Save it as UTF-8 without a byte order mark." if encoded else "Correct it."
        raise BadInput(f"{name}: the config cannot be understood: {reason(error)}.", hint) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BadInput(f"{name}: the config is no mapping of arguments.", "Write `r: 8` and so on.")
    return content, found


def format_of(content: Mapping[str, Any], formats: Mapping[str, Format]) -> Format:
    """The format that most of the content's keys mark; of two the other than PEFT, whose keys may be a slip in another's file.

    Raises:
        BadInput: of none.
    """
    marks = {name: (len(each.marks & set(content)), name != "peft") for name, each in formats.items()}
    best = max(marks, key=lambda name: marks[name])
    if marks[best][0]:
        return formats[best]
    raise BadInput("this is no config of a known format.", f"Say which: --format {'|'.join(formats)}.")


def value(content: Mapping[str, Any], key: str, kinds: type | tuple[type, ...], default: Any = None) -> Any:
    """``content[key]``, ``default`` where it is missing or null.

    Raises:
        BadInput: it has another type; a truth value is no number.
    """
    found = content.get(key)
    if found is None:
        return default
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(found, allowed) or (isinstance(found, bool) and bool not in allowed):
        names = " or ".join(kind.__name__ for kind in allowed)
        raise BadInput(f"{key} is of type {type(found).__name__}, not {names}.", "Correct it.")
    return found


def texts(content: Mapping[str, Any], key: str) -> list[str] | None:
    """A list of texts, None where it is missing.

    Raises:
        BadInput: it is something else.
    """
    found = value(content, key, list)
    if found is not None and not all(isinstance(item, str) for item in found):
        raise BadInput(f"{key} holds something that is not a text.", "Correct it.")
    return None if found is None else list(found)


def unknown_keys(content: Mapping[str, Any], known: Iterable[str]) -> dict[str, str]:
    """Keys that speak of LoRA and that the tool does not know, each with what was probably meant.

    A training config has hundreds of other keys, which are none of the advisor's business.
    """
    names, own = list(known), set(_PEFT_KEYS)
    found = [key for key in content if key not in names and (key in own or _ABOUT_LORA.search(key))]
    near = {key: difflib.get_close_matches(key, names, 1, 0.7) for key in found}
    return {key: f"Did you mean {words[0]}?" if words else "Leave it out." for key, words in near.items()}


def linear_names(model: Any, output: str = "lm_head") -> list[str]:
    """Last name parts of all modules of a ``…Linear…`` class: what tools mean by "all linear".

    Args:
        output: what the tool calls the output embedding, which it leaves out; some families have another name for theirs.
    """
    linear = [name for name, module in model.named_modules() if "Linear" in type(module).__name__ and output not in name]
    return sorted({name.rsplit(".", 1)[-1] for name in linear})


def embeddings(model: Any) -> tuple[str, ...]:
    """Names of a model's input and output embeddings."""
    pair = (input_table(model), output_table(model))
    return tuple(name for name, module in model.named_modules() if any(module is m for m in pair))
