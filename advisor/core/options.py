"""What the Python functions and the terminal interface are asked: which groups of options each takes.

The command line (:mod:`advisor.cli.command`), the Python functions (:mod:`advisor.api`) and the terminal interface
(:mod:`tui.inputs`) are made from these classes. Each inherits the groups it takes, from :mod:`advisor.core.option_groups`; an
object of it can be handed to whatever wants one of the groups.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from advisor.core.choices import AUTO, PREDICTED
from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.option import given_to, options_of, path, whole
from advisor.core.option_groups import (
    LORA,
    MOST_RANK,
    OUTPUT,
    Baseline,
    Budget,
    Ceiling,
    Confirm,
    Demo,
    Formats,
    Keep,
    Kernel,
    Lora,
    ModelAndData,
    ModelOrProbe,
    Out,
    Place,
    Probing,
    Recipe,
    Scoring,
    Seed,
    Strategy,
)
from advisor.core.store import is_probe


@dataclass(frozen=True, kw_only=True)
class Called:
    """What only Python functions take; no option."""

    session: Session | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Probe(Out, Seed, Keep, Probing, ModelAndData):
    """Options of ``probe``."""


@dataclass(frozen=True, kw_only=True)
class Recommend(
    Formats,
    Out,
    Seed,
    Kernel,
    Confirm,
    Recipe,
    Lora,
    Demo,
    Baseline,
    Strategy,
    Ceiling,
    Budget,
    Keep,
    Probing,
    ModelOrProbe,
    ModelAndData,
):
    """Options of ``recommend``."""

    rank: int | str = whole(  # type: ignore[assignment]
        8,
        "LoRA rank. auto: a rank per module within the parameter count of rank 8, at the same alpha/rank; in real runs of two "
        "tasks this was no more accurate than one rank.",
        1,
        MOST_RANK,
        panel=LORA,
        word=AUTO,
        metavar="INTEGER|auto",
    )
    out: Place | None = path(None, "Folder to write to.", panel=OUTPUT, unset="recommendation")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.real_runs and self.strategy != PREDICTED:
            raise BadInput(
                f"Real runs correct predictions, but --strategy {self.strategy} does not choose by them.", "Leave one out."
            )
        if self.confirm_rows is not None and not self.real_runs:
            raise BadInput("--confirm-rows needs real runs.", "Add --effort pilot, or --confirm N.")
        if self.demo and (self.model is not None or self.data is not None):
            raise BadInput("--demo brings its own model and data.", "Leave out --demo, or MODEL and --data.")


@dataclass(frozen=True, kw_only=True)
class Terminal(Seed, Scoring, Confirm, Strategy, Ceiling, Budget, Keep, Probing, ModelOrProbe, ModelAndData):
    """What the terminal interface asks for."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Seed, Scoring, Baseline, Budget):
    """What target sets are compared at."""


def probe_of(given: ModelOrProbe) -> Path | None:
    """The folder of a probe that is named in place of a model; None: a model is, or nothing.

    Raises:
        BadInput: what the probe has decided is asked for beside it; names it.
    """
    if not isinstance(given.model, str | os.PathLike) or not is_probe(Path(given.model)):
        return None
    free = {"model", "seed", "out", "trust_remote_code"}  # the seed is the search's, trust the user's
    decided = options_of(Probe).keys() - free
    if named := [option.called for name, option in options_of(type(given)).items() if name in decided & given_to(given).keys()]:
        raise BadInput(f"{given.model} is a probe, made with its own {', '.join(named)}.", "Leave these out, or name the model.")
    return Path(given.model)


def out_of(given: Out, default: str | Path | None = None) -> Path:
    """The folder to write to.

    Raises:
        BadInput: none was given and there is no default.
    """
    place = default if given.out is None else given.out
    if place is None:
        raise BadInput("--out is missing.", "Name a folder to write to.")
    return Path(place)
