"""What survives the program: the session file. No Textual, no engine but its store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from advisor.core.errors import AdvisorError
from advisor.core.store import APP, read_json, write_json
from tui.inputs import Inputs
from tui.state import MEASURES, State

SCHEMA = 1
RECENT = 12


@dataclass(frozen=True)
class Kept:
    """A session as the file keeps it.

    Attributes:
        probe: folder of the probe that was open. selection: an entry of a selection file. is_chosen: it was the user's.
        recent: folders, newest first.
    """

    inputs: Inputs = field(default_factory=Inputs)
    probe: str | None = None
    selection: dict[str, Any] | None = None
    is_chosen: bool = True
    measure: str = MEASURES[0]
    theme: str | None = None
    recent: tuple[str, ...] = ()


def session_file() -> Path:
    """In the platform's folder for user state."""
    return Path(platformdirs.user_state_dir(APP)) / "tui.json"


def read_session(path: Path) -> Kept:
    """What was kept; an empty session where there is no usable file, as a damaged one must not keep anyone out."""
    try:
        found = read_json(path, "session")
    except AdvisorError:
        return Kept()
    if found.get("schema") != SCHEMA:
        return Kept()
    probe, selection, theme, inputs = (found.get(key) for key in ("probe", "selection", "theme", "inputs"))
    recent = found.get("recent")
    return Kept(
        inputs=Inputs.from_dict(inputs) if isinstance(inputs, dict) else Inputs(),
        probe=probe if isinstance(probe, str) else None,
        selection=selection if isinstance(selection, dict) else None,
        is_chosen=bool(found.get("is_chosen", True)),
        measure=str(found.get("measure", MEASURES[0])),
        theme=theme if isinstance(theme, str) else None,
        recent=tuple(str(folder) for folder in recent) if isinstance(recent, list) else (),
    )


def write_session(path: Path, state: State, theme: str, recent: Sequence[str], before: Kept) -> None:
    """Keep a session, atomically; where no probe was opened, the one that ``before`` names with its selection.

    Raises:
        AdvisorError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "schema": SCHEMA,
            "inputs": state.inputs.as_dict(),
            "probe": str(state.opened.folder) if state.opened else before.probe,
            "selection": state.selected or before.selection,
            "is_chosen": state.is_chosen if state.current else before.is_chosen,
            "measure": state.measure,
            "theme": theme,
            "recent": list(dict.fromkeys(recent))[:RECENT],
        },
    )
