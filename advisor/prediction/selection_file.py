"""Selection files: which modules, at which ranks and alphas, under which name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from advisor.core.candidate import Candidate
from advisor.core.checked import Alpha, Name, Names, Rank, Written, check
from advisor.core.errors import BadInput
from advisor.core.probe import Probe
from advisor.core.reading import parse_json, read_bytes
from advisor.core.targets import LoraSettings, Selection, in_model_order

HINT = "docs/files.md shows the format of a selection file."


class SelectionEntry(Written):
    """One selection of a selection file."""

    name: Name = Field(description="What tables call it.")
    targets: Names = Field(description="Full module names, as probe.json lists them; an empty list trains the head alone.")
    rank: Rank | None = Field(default=None, description="LoRA rank of its modules; by default that of the command.")
    alpha: Alpha | None = Field(default=None, description="LoRA alpha of its modules; by default that of the command.")
    rslora: bool | None = Field(default=None, description="Scale by alpha/√rank instead of alpha/rank.")
    rank_pattern: dict[Name, Rank] = Field(default_factory=dict, description="Ranks of single modules by full name.")
    alpha_pattern: dict[Name, Alpha] = Field(default_factory=dict, description="Alphas of single modules by full name.")


SelectionFile = TypeAdapter(Annotated[list[SelectionEntry], Field(min_length=1, max_length=100_000)])


def parse_selections(entries: Any, probe: Probe, settings: LoraSettings, where: str) -> list[Candidate]:
    """Candidates of a selection file's content (docs/design.md, section 4); what an entry leaves open is as in ``settings``.

    Raises:
        BadInput: not a list of selections, an unknown module or field, a number out of bounds; names entry and field.
    """
    candidates = []
    checked: list[SelectionEntry] = check(SelectionFile, entries, where, HINT, "selection")
    for number, entry in enumerate(checked, 1):
        place = f"{where}, selection {number}"
        names = in_model_order(entry.targets, probe.targets, place)
        for pattern in (entry.rank_pattern, entry.alpha_pattern):
            in_model_order(pattern, probe.targets, place)
            if beside := sorted(set(pattern) - set(names)):
                raise BadInput(
                    f"{place}: {beside[0]!r} has its own rank or alpha but is not among the targets.", "Add it to targets."
                )
        given: dict[str, Any] = {"rank": entry.rank, "alpha": entry.alpha, "rslora": entry.rslora}
        own = replace(settings, **{key: value for key, value in given.items() if value is not None})
        candidates.append(Candidate(Selection(entry.name, names), own, entry.rank_pattern, entry.alpha_pattern))
    return candidates


def read_selections(selections: Selections) -> tuple[Any, str]:
    """The content of a selection file, or what was given in its place; and what to call it in messages.

    Raises:
        BadInput: the file cannot be read, or is no JSON; what was given is no list.
    """
    if not isinstance(selections, str | Path):
        if not isinstance(selections, Iterable):
            raise BadInput(f"selections: a list or a file's name is needed, not {type(selections).__name__}.", HINT)
        return list(selections), "selections"
    path = Path(selections)
    return parse_json(read_bytes(path, "selection file"), str(path), "selection file", HINT, constants=True), str(path)


Selections = str | Path | Sequence[dict[str, Any]]
