"""Runs ``advisor`` on odd inputs in one process and counts how it ends: ``make fuzz``.

    python tests/campaign/fuzz.py --inputs 3000 --seed 0        # a campaign; what goes wrong is kept in .fuzz/
    python tests/campaign/fuzz.py --only model:123              # one input again, by kind and seed
    python tests/campaign/fuzz.py --kinds data,model            # some kinds only

Right is: exit 0, 1 (verify's surprises), 2, 3, 4 or 5, within 60 seconds of work (180 of waiting), with at most one short
printable error line, and in the output folder no file that is cut off. The last lines count outcomes; exit 1 if any is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from campaign.inputs import KINDS, SMALL, Ground

WORK_S, WAIT_S = 60, 180  # of the processor, which other processes do not shorten; of the clock
OF_A_PROBE = {"probe", "recommendation", "rows", "selections", "options", "adapter"}
OF_A_RECOMMENDATION = {"recommendation", "options", "adapter"}
LONGEST = 600  # characters of an error line
RIGHT = {0: "ok", 1: "surprise", 2: "exit 2", 3: "exit 3", 4: "exit 4", 5: "exit 5"}
MODELS = {
    "llama": "causal-lm",
    "bert": "classification",
    "gpt2": "causal-lm",
    "mixtral": "causal-lm",
    "modernbert": "classification",
}
DIRECT = 0.9  # share of data files that are read and tokenised only, without a probe


class TooLong(BaseException):
    """The alarm went off."""


@dataclass(frozen=True)
class Ended:
    """How one input ended: a value of ``RIGHT``, or what was wrong; ``detail`` for the latter."""

    kind: str
    seed: int
    outcome: str
    detail: str
    seconds: float

    @property
    def right(self) -> bool:
        return self.outcome in RIGHT.values()


def make_ground(folder: Path, kinds: Collection[str]) -> Ground:
    """Sound models and data, and what else inputs of ``kinds`` are changed from, made in ``folder``."""
    from architectures import build
    from fakes import make_rows

    folder.mkdir(parents=True, exist_ok=True)
    models = {name: build(name, folder / name, task=task) for name, task in MODELS.items()}
    data, chats = folder / "data.jsonl", folder / "chats.jsonl"
    words = ("red cat ran", "blue dog slept", "big house sad")
    data.write_text("".join(json.dumps({"text": f"{words[i % 3]} {i}", "label": i % 2}) + "\n" for i in range(40)))
    turns = [{"role": "user", "content": "red cat"}, {"role": "assistant", "content": "blue dog"}]
    chats.write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(40)))
    rows = tuple(row.as_json() for row in make_rows(2, 3, 2))
    ground = Ground(models, data, chats, folder / "probe", folder / "recommendation", rows)
    steps = []
    if OF_A_PROBE.intersection(kinds):
        steps.append(["probe", str(models["llama"]), "--data", str(data), *SMALL, "--out", str(ground.probe)])
    if OF_A_RECOMMENDATION.intersection(kinds):
        formats = "peft,axolotl,llama-factory,unsloth,trl"
        steps.append(["recommend", str(ground.probe), "--format", formats, "--out", str(ground.recommendation)])
    for arguments in steps:
        code, _, err = command(arguments)
        if code != 0:
            raise RuntimeError(f"{arguments[0]} of sound input: exit {code}: {err}")
    return ground


def command(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command, run in this process."""
    from advisor.cli.main import main

    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["advisor", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        code: Any = 0
    except SystemExit as stopped:
        code = stopped.code
    finally:
        sys.argv = before
    return (0 if code is None else int(code)), out.getvalue(), err.getvalue()


def read_only(arguments: list[str], loaded: Any) -> tuple[int, str, str]:
    """What ``probe`` does with the data of ``arguments``, up to the tokens."""
    from advisor.core.errors import AdvisorError
    from advisor.core.events import Note, Session, Warn
    from advisor.models.encode import encode
    from advisor.models.prepare import Source, read_data

    given = {name: value for name, value in itertools.pairwise(arguments) if name.startswith("--")}
    source = Source(
        "",
        given["--data"],
        given.get("--eval-data"),
        task=given.get("--task", "auto"),
        text_columns=(given["--text-column"],) if "--text-column" in given else (),
        label_column=given.get("--label-column"),
    )
    said: list[str] = []
    session = Session(emit=lambda event: said.append(event.text) if isinstance(event, Note | Warn) else None)
    try:
        for part in read_data(source, session):
            if part.schema.task == loaded.task:
                for note in encode(part, loaded, 16)[1]:
                    session.note(note)
    except AdvisorError as error:
        return error.exit_code, "", "\n".join([*said, f"Error: {error}"])
    return 0, "", "\n".join(said)


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TooLong

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, WORK_S), signal.SIGALRM: (signal.ITIMER_REAL, WAIT_S)}
    before = {number: signal.signal(number, late) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def run_one(kind: str, seed: int, ground: Ground, folder: Path, loaded: Any) -> Ended:
    """Make the input in ``folder`` and run it."""
    from advisor.models.config import quiet
    from advisor.prediction.calibration_rows import user_rows_folder

    shutil.rmtree(user_rows_folder(), ignore_errors=True)  # of the input before
    random = Random(f"{kind}:{seed}")
    arguments = KINDS[kind][0](random, ground, folder)
    (folder / "arguments.json").write_text(json.dumps(arguments))
    direct = kind == "data" and random.random() < DIRECT
    begun = time.monotonic()
    err = ""
    try:
        with _alarm(), quiet(), contextlib.chdir(folder):  # an option may name a relative place to write to
            code, _, err = read_only(arguments, loaded) if direct else command(arguments)
        outcome, detail = RIGHT.get(code, f"exit {code}"), ""
    except TooLong:
        outcome, detail = "hang", "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome, detail = "traceback", traceback.format_exc()
    seconds = time.monotonic() - begun
    if outcome in RIGHT.values():
        problem = _badly_said(err) or _half_written(folder / "out")
        outcome, detail = problem or (outcome, "")
    return Ended(kind, seed, outcome, detail, seconds)


def _badly_said(err: str) -> tuple[str, str] | None:
    errors = [line for line in err.splitlines() if line.startswith("Error")]
    if len(errors) > 1 or any(len(line) > LONGEST for line in errors):
        return "bad error line", err[-2000:]
    if odd := [line for line in err.split("\n") if not line.isprintable() and not line.startswith("\x1b")]:
        return "control characters", repr(odd[:3])
    return None


def _half_written(out: Path) -> tuple[str, str] | None:
    """What cannot be read of an output folder, and what is left over."""
    from safetensors import safe_open

    for file in sorted(out.rglob("*")) if out.exists() else ():
        try:
            if file.name.endswith((".tmp", ".part")):
                raise ValueError("left over")
            if file.suffix == ".json":
                json.loads(file.read_text())
            elif file.suffix == ".safetensors":
                with safe_open(file, "np"):
                    pass
        except Exception as error:
            return "half-written file", f"{file}: {error}"
    return None


def campaign(inputs: int, seed: int, kinds: list[str], keep: Path, ground_folder: Path, quiet: bool = False) -> list[Ended]:
    """Run inputs ``seed``, ``seed + 1``, …; wrong ones are kept under ``keep`` with what was seen."""
    from advisor.models.load import load_model

    ground = make_ground(ground_folder, kinds)
    loaded = load_model(str(ground.models["llama"]), "causal-lm", device="cpu")
    order = [kind for kind in kinds for _ in range(KINDS[kind][1])]
    ended = []
    for number in range(seed, seed + inputs):
        kind = Random(f"kind:{number}").choice(order)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
            found = run_one(kind, number, ground, Path(name), loaded)
            ended.append(found)
            if not found.right:
                place = keep / f"{kind}-{number}"
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                (place / "seen.txt").write_text(f"{found.outcome}\n{found.detail}", errors="replace")
                for file in Path(name).iterdir():
                    if file.is_file() and file.stat().st_size < 2**20:
                        shutil.copy(file, place / f"input-{len(list(place.iterdir()))}{file.suffix}")
                if not quiet:
                    last = (found.detail.strip().splitlines() or [""])[-1]
                    print(f"{kind}:{number}: {found.outcome}: {last[:200]!r}", flush=True)
        if not quiet and len(ended) % 100 == 0:
            print(f"{len(ended)} of {inputs}: {_counts(ended)}", flush=True)
    return ended


def _counts(ended: list[Ended]) -> str:
    return ", ".join(f"{outcome} {count}" for outcome, count in Counter(e.outcome for e in ended).most_common())


def main() -> int:
    parser = argparse.ArgumentParser(description="advisor on odd inputs")
    parser.add_argument("--inputs", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--only", help="KIND:SEED, one input again, kept in --keep")
    parser.add_argument("--keep", type=Path, default=Path(".fuzz"))
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory(prefix="fuzz-ground-") as name:
        for kind in ("CACHE", "DATA", "STATE", "CONFIG"):
            os.environ[f"XDG_{kind}_HOME"] = f"{name}/{kind.lower()}"
        if given.only:
            from advisor.models.load import load_model

            kind, number = given.only.split(":")
            ground = make_ground(Path(name) / "ground", [kind])
            folder = given.keep / f"again-{kind}-{number}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            print(
                run_one(
                    kind,
                    int(number),
                    ground,
                    folder.resolve(),
                    load_model(str(ground.models["llama"]), "causal-lm", device="cpu"),
                )
            )
            return 0
        ended = campaign(given.inputs, given.seed, given.kinds.split(","), given.keep, Path(name) / "ground")
    print(f"{len(ended)} inputs: {_counts(ended)}; slowest {max(e.seconds for e in ended):.0f} s")
    for kind in sorted({e.kind for e in ended}):
        print(f"  {kind}: {_counts([e for e in ended if e.kind == kind])}")
    return 1 if any(not e.right for e in ended) else 0


if __name__ == "__main__":
    sys.exit(main())
