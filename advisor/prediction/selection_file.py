"""Selection files: which modules, at which ranks and alphas, under which name."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from advisor.core.candidate import Candidate
from advisor.core.errors import BadInput
from advisor.core.probe import Probe
from advisor.core.targets import LoraSettings, Selection, in_model_order


def parse_selections(entries: Any, probe: Probe, settings: LoraSettings, where: str) -> list[Candidate]:
    """Candidates of a selection file's content (docs/design.md 4, selection file).

    Raises:
        BadInput: not a list of selections, an unknown module or key, a rank that is not a positive integer.
    """
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"{where}: not a non-empty list of selections.", "See the README for the format.")
    keys = {"name", "targets", "rank", "alpha", "rslora", "rank_pattern", "alpha_pattern"}
    candidates = []
    for number, entry in enumerate(entries, 1):
        place = f"{where}, selection {number}"
        if not isinstance(entry, dict) or not {"name", "targets"} <= set(entry):
            raise BadInput(f"{place}: needs name and targets.", "See the README for the format.")
        if unknown := set(entry) - keys:
            raise BadInput(f"{place}: unknown field {sorted(unknown)[0]!r}.", f"Known: {', '.join(sorted(keys))}.")
        ranks, alphas = (entry.get(pattern, {}) for pattern in ("rank_pattern", "alpha_pattern"))
        if not isinstance(ranks, dict) or not isinstance(alphas, dict):
            raise BadInput(f"{place}: rank_pattern and alpha_pattern map module names to numbers.")
        if not isinstance(entry["name"], str):
            raise BadInput(f"{place}: name is not a text.")
        if not isinstance(entry["targets"], list):
            raise BadInput(f"{place}: targets is not a list of module names.")
        names = in_model_order([*map(str, entry["targets"])], probe.targets, place)
        for pattern in (ranks, alphas):
            in_model_order(pattern, probe.targets, place)
            if beside := sorted(set(pattern) - set(names)):
                raise BadInput(f"{place}: {beside[0]!r} has its own rank or alpha but is not among the targets.")
        every_rank = [*ranks.values(), *([entry["rank"]] if "rank" in entry else [])]
        if any(not isinstance(r, int) or isinstance(r, bool) or r < 1 for r in every_rank):
            raise BadInput(f"{place}: a rank is not a positive integer.")
        every_alpha = [*alphas.values(), *([entry["alpha"]] if "alpha" in entry else [])]
        if any(isinstance(a, bool) or not isinstance(a, int | float) or not 0 < a < math.inf for a in every_alpha):
            raise BadInput(f"{place}: an alpha is not a positive number.")
        if not isinstance(entry.get("rslora", False), bool):
            raise BadInput(f"{place}: rslora is neither true nor false.")
        own = replace(settings, **{k: entry[k] for k in ("rank", "alpha", "rslora") if k in entry})
        candidates.append(Candidate(Selection(entry["name"], names), own, ranks, alphas))
    return candidates


def read_selections(selections: Selections) -> tuple[Any, str]:
    """The content of a selection file, or what was given in its place; and what to call it in messages.

    Raises:
        BadInput: the file is not there or no JSON.
    """
    if not isinstance(selections, str | Path):
        return list(selections), "selections"
    path = Path(selections)
    try:
        return json.loads(path.read_text(encoding="utf-8")), str(path)
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file.", "Give a JSON list of selections.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not readable as JSON: {error}", "Give a JSON list of selections.") from error


Selections = str | Path | Sequence[dict[str, Any]]
