"""The options that only commands have, and which groups each command takes; see :mod:`advisor.core.option_groups`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from advisor.core.amounts import read_budget
from advisor.core.choices import FORMAT_NAMES
from advisor.core.errors import BadInput
from advisor.core.option import REQUIRED, Checked, flag, path, text, whole
from advisor.core.option_groups import (
    MOST_ROWS,
    OUTPUT,
    RECIPE,
    RUNS,
    Demo,
    Formats,
    Keep,
    Lora,
    ModelAndData,
    Out,
    Place,
    Pull,
    Recipe,
    Scoring,
    Seed,
    Trust,
    Workers,
)
from advisor.core.options import Comparison, Terminal
from advisor.core.recipe import FEWEST_ROWS, TASKS


@dataclass(frozen=True, kw_only=True)
class Json(Checked):
    as_json: bool = flag("Print the result as JSON.", panel=OUTPUT, flags=("--json",))


@dataclass(frozen=True, kw_only=True)
class Printed(Json):
    """How a result is printed."""

    verbose: bool = flag("Print everything; the default is a short answer.", panel=OUTPUT, flags=("--verbose", "-v"))


@dataclass(frozen=True, kw_only=True)
class Ending(Printed):
    """How ``recommend`` ends."""

    in_tui: bool = flag("End in the terminal interface, if there is a terminal.", panel=OUTPUT, flags=("--tui",))


@dataclass(frozen=True, kw_only=True)
class ProbeFolder(Checked):
    probe_path: Path = path(REQUIRED, "Folder written by `advisor probe`.", is_argument=True)


@dataclass(frozen=True, kw_only=True)
class Score(Scoring, ProbeFolder):
    """Options of ``score``."""

    selections: Path = path(REQUIRED, "Selections to score, a JSON list.")


@dataclass(frozen=True, kw_only=True)
class Compare(Comparison, ProbeFolder):
    """Options of ``compare``."""


@dataclass(frozen=True, kw_only=True)
class Explain(Scoring, Trust, ProbeFolder):
    """Options of ``explain``."""

    selections: Path | None = path(None, "Selections to explain, a JSON list.", unset="all modules, and q,v")
    model: str | None = text(None, "Folder or hub id of the probed model; its linearity is then measured.")
    budget: str | None = text(
        None,
        "Also bound what fits beside the selection: 25% of the LoRA parameters of all modules, 2M of them, or 12modules.",
        meaning=read_budget,
    )


@dataclass(frozen=True, kw_only=True)
class Export(Formats, Out):
    """Options of ``export``."""

    recommendation: Path = path(REQUIRED, "Folder written by `advisor recommend`.", is_argument=True)
    out: Place | None = path(None, "Folder to write to.", panel=OUTPUT, unset="RECOMMENDATION")


@dataclass(frozen=True, kw_only=True)
class Verify(Trust):
    """Options of ``verify``."""

    config: str = text(REQUIRED, "A config in any of the formats, or an adapter's folder.", is_argument=True)
    model: str = text(REQUIRED, "Model folder or hub id.")
    task: str | None = text(None, "Task, for configs without task_type.", choices=TASKS, unset="as the config says")
    format: str | None = text(None, "Format of the config.", choices=FORMAT_NAMES, unset="by the keys of the file")
    revision: str | None = text(None, "Revision of a hub model: branch, tag or commit.", unset="what the config names, else main")


@dataclass(frozen=True, kw_only=True)
class Calibrate(Out, Seed, Pull, Recipe, Lora, Workers, Keep, ModelAndData):
    """Options of ``calibrate``."""

    runs: int = whole(60, "Number of fine-tunes in all (selections × seeds).", 1, 100_000)
    seeds: int = whole(1, "Seeds per selection.", 1, 1000)
    train_rows: int | None = whole(512, "Number of training rows.", FEWEST_ROWS, MOST_ROWS, panel=RECIPE)
    eval_rows: int = whole(500, "Maximum number of evaluation rows.", 1, MOST_ROWS)
    ray: str | None = text(
        None,
        "Run the workers on a Ray cluster: auto, its address, or local (one that is started here). Model and data must be at the "
        "same path on every node, or be hub ids.",
        panel=RUNS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runs < self.seeds:
            raise BadInput(f"--runs {self.runs} is less than one selection at {self.seeds} seeds.", "Raise --runs.")


@dataclass(frozen=True, kw_only=True)
class Tui(Demo, Terminal):
    """Options of ``tui``."""


@dataclass(frozen=True, kw_only=True)
class ProfileName(Checked):
    """Options of ``profiles show``."""

    name: str = text(REQUIRED, "As `advisor profiles list` names it, or KIND/NAME.", is_argument=True)


@dataclass(frozen=True, kw_only=True)
class ProfileCheck(Trust):
    """Options of ``profiles check``."""

    file: Path = path(REQUIRED, "A model profile, YAML.", is_argument=True)
    model: str = text(REQUIRED, "Model folder or hub id.")
    task: str = text("classification", "Task to load the model for.", choices=TASKS)
