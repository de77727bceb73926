"""Kill, fill the disk of, and race real commands on tiny models; run them again and compare with runs that nobody disturbed.

    python tests/campaign/faults.py [--kills 108] [--full 18] [--races 12] [--seed 0] [--only N]
                                    [--scenarios NAME ...] [--failures FOLDER]

Every case is drawn from the seed and its number. It runs one command in a process of its own, forked from this one, which
has loaded what is slow to load. The command is stopped at a chosen write, removal or step of progress, or after a chosen
time, by SIGKILL, SIGTERM or SIGINT; or one of its workers is killed; or its disk is small; or several processes run the
same command at once. Then it runs again, undisturbed. Right is:

* the second run ends with 0, and all files are those of an undisturbed run: none more, none less, the same content but for
  measured times;
* between the two, the recommendation is the old one in whole, the new one in whole, or its last file is missing;
* no process is alive, and the user's own files in the folders are as they were;
* on a full disk the exit code is 2 and the error one line that says how much is free; racing commands all end with 0.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]
os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "COLUMNS": "200"})

LIMIT_S = 300.0  # of one command
ORPHANS_S = 20.0  # after which no process may be alive
TIMES = re.compile(r"_s$|_bytes$|^checksum$")  # fields that are measured anew each time, and what is computed from them
UNCOMPARED = {"report.md", "report.html"}  # say those times; their being there is compared
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SHORT = ("--samples", "8", "--max-length", "8", "--device", "cpu")
TRAINING = ("--train-rows", "16", "--epochs", "1", "--batch-size", "8")
RECOMMEND = ("recommend", "../model", "--data", "../data.jsonl", *SHORT, "--out", "out")
OLD = (*RECOMMEND, "--budget", "90%", "--format", "axolotl,trl")
CALIBRATE = ("calibrate", "../model", "--data", "../data.jsonl", "--max-length", "8", "--device", "cpu", "--out", "out")
SCENARIOS = {
    "probe": ("probe", "../model", "--data", "../data.jsonl", *SHORT, "--out", "out"),
    "sketch": ("probe", "../model", "--data", "../data.jsonl", *SHORT, "--method", "kronecker", "--out", "out"),
    "recommend": (*RECOMMEND, "--budget", "30%", "--format", "llama-factory"),
    "again": (*RECOMMEND, "--budget", "30%"),  # over a recommendation of more files, which is there
    "confirm": (*RECOMMEND, "--confirm", "2", "--confirm-rows", "16", *TRAINING[2:], "--workers", "2"),
    "calibrate": (*CALIBRATE, *TRAINING, "--runs", "3", "--workers", "2", "--eval-rows", "8"),
}
WITH_WORKERS = ("confirm", "calibrate")
USERS = {"out/partial/thesis.tex": "mine\n", "out/notes.txt": "mine too\n"}


class Wrong(Exception):
    """What is not as it should be."""


@dataclass
class Ended:
    """How a command ended: its exit code (None: it was stopped for lack of time), the calls it made, what it said."""

    code: int | None
    calls: int
    text: str


@dataclass
class Campaign:
    """The folder it works in, and what undisturbed runs are known to give."""

    root: Path
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.root / "work"

    # --- running ----------------------------------------------------------------------------------------------------

    def start(self, arguments: Sequence[str], number: int = 0, at_call: int = 0, sent: int = signal.SIGKILL) -> int:
        """Fork a command; it gets ``sent`` at its call number ``at_call`` (0: never). Returns its process id."""
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            os.setsid()
            os.chdir(self.work)
            for name in ("CACHE", "DATA", "STATE", "CONFIG"):
                os.environ[f"XDG_{name}_HOME"] = str(self.work / "xdg" / name.lower())
            with open(self.root / f"said-{number}", "wb", buffering=0) as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            count = _count_calls(self.root / f"calls-{number}", at_call, sent)
            code = _command(arguments)
            count()
            (self.root / "loaded").write_text("\n".join(sys.modules))
        finally:
            os._exit(code)

    def finish(self, pid: int, number: int = 0) -> Ended:
        """Wait for the command, and for the processes it started."""
        end = time.monotonic() + LIMIT_S
        while (found := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.01)
        code = None if found == (0, 0) else os.waitstatus_to_exitcode(found[1])
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        end = time.monotonic() + ORPHANS_S
        while (alive := _session(pid)) and time.monotonic() < end:
            time.sleep(0.05)
        if alive:
            os.killpg(pid, signal.SIGKILL)
            raise Wrong(f"{len(alive)} processes are alive {ORPHANS_S:.0f} s after the command")
        calls = self.root / f"calls-{number}"
        text = (self.root / f"said-{number}").read_text(errors="replace")
        return Ended(code, int(calls.read_text()) if calls.exists() else 0, text)

    def run(self, arguments: Sequence[str]) -> Ended:
        return self.finish(self.start(arguments))

    def fresh(self, name: str) -> None:
        """An empty working folder but for the user's own files, and the recommendation that is there before."""
        for path in self.work.iterdir() if self.work.exists() else ():
            shutil.rmtree(path)
        for place, text in USERS.items():
            (self.work / place).parent.mkdir(parents=True, exist_ok=True)
            (self.work / place).write_text(text)
        if name == "again":
            for path in (self.root / "old").iterdir():
                shutil.copy(path, self.work / "out" / path.name)

    def prepare(self, names: Sequence[str]) -> None:
        """Models, data, and an undisturbed run of each scenario, twice: what they tell apart is no fault's doing."""
        from architectures import build
        from command import write_data

        build("bert", self.root / "model", task="classification", num_labels=2)
        os.replace(write_data(self.root, "classification", 24), self.root / "data.jsonl")
        self.work.mkdir()
        (self.root / "old").mkdir()
        self.fresh("old")
        if "again" in names:
            _must(self.run(OLD))
        for path in (self.work / "out").iterdir():
            if path.is_file() and path.name != "notes.txt":
                shutil.copy(path, self.root / "old" / path.name)
        for name in names:
            for _ in range(2):
                self.fresh(name)
                begun = time.monotonic()
                ended = _must(self.run(SCENARIOS[name]))
                _load((self.root / "loaded").read_text().splitlines())
                self.seconds[name], self.calls[name] = time.monotonic() - begun, ended.calls
                found = _tree(self.work)
                if name in self.expected:
                    _same(found, self.expected[name], "two undisturbed runs")
                self.expected[name] = found

    # --- cases --------------------------------------------------------------------------------------------------------

    def kill(self, draw: random.Random, name: str) -> str:
        """A signal at a call or after a time; in one of five with workers, to a worker."""
        self.fresh(name)
        sent = draw.choice(SIGNALS)
        if name in WITH_WORKERS and draw.random() < 0.2:
            pid = self.start(SCENARIOS[name])
            time.sleep(draw.uniform(0.2, 1.0) * self.seconds[name])
            for worker in _session(pid) - {pid}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                break
            how, ended = "worker SIGKILL", self.finish(pid)
            if ended.code != 0:
                raise Wrong(f"{how}: exit {ended.code}")
        elif draw.random() < 0.75:
            call = draw.randint(1, self.calls[name])
            how, ended = f"call {sent.name}", self.finish(self.start(SCENARIOS[name], at_call=call, sent=sent))
        else:
            pid = self.start(SCENARIOS[name])
            time.sleep(draw.uniform(0.0, 1.0) * self.seconds[name])
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, sent) if sent == signal.SIGINT else os.kill(pid, sent)
            how, ended = f"time {sent.name}", self.finish(pid)
        if ended.code not in (0, -sent, *([130] if sent == signal.SIGINT else [])):
            raise Wrong(f"{how}: exit {ended.code}: {ended.text[-300:]}")
        if "Traceback" in ended.text:
            raise Wrong(f"{how}: a traceback: {ended.text[-300:]}")
        self.between(name)
        self.again(name)
        return f"{how}: {'ended before' if ended.code == 0 and 'worker' not in how else 'recovered'}"

    def full(self, draw: random.Random, name: str) -> str:
        """A disk with room for a part of the files."""
        with _small_disk(self.work):
            self.fresh(name)
            used = sum(path.stat().st_blocks * 512 for path in self.work.rglob("*"))
            size = used + int(draw.uniform(0.02, 1.0) * self.expected[name]["bytes"])
            _remount(self.work, f"{max(4, size // 4096) * 4}k")
            ended = self.run(SCENARIOS[name])
            said = " ".join(ended.text.split())
            errors = [line for line in ended.text.splitlines() if line.startswith("Error: ")]
            if ended.code not in (0, 2) or "Traceback" in said:
                raise Wrong(f"full disk: exit {ended.code}: {said[-300:]}")
            if ended.code == 2 and (len(errors) != 1 or ("bytes are free" not in said and "GB are free" not in said)):
                raise Wrong(f"full disk: not said: {said[-300:]}")
            if left := [path.name for path in self.work.rglob("*.part")]:
                raise Wrong(f"full disk: half-written files are left: {left}")
            _remount(self.work, "200m")
            self.between(name)
            self.again(name)
        return f"full disk: {'room enough' if ended.code == 0 else 'refused, then recovered'}"

    def race(self, draw: random.Random, name: str) -> str:
        """Two or four processes, the same folder and cache; in half the cases the first is stopped for a while."""
        self.fresh(name)
        count = draw.choice((2, 4))
        pids = [self.start(SCENARIOS[name], number) for number in range(count)]
        if draw.random() < 0.5:
            time.sleep(draw.uniform(0.0, 1.0) * self.seconds[name])
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGSTOP)
                time.sleep(2.0)
                os.kill(pids[0], signal.SIGCONT)
        ended = [self.finish(pid, number) for number, pid in enumerate(pids)]
        if wrong := [each for each in ended if each.code != 0]:
            raise Wrong(f"race of {count}: exit {wrong[0].code}: {wrong[0].text[-300:]}")
        _same(_tree(self.work), self.expected[name], f"race of {count}")
        return f"race of {count}: all ended with the same"

    def between(self, name: str) -> None:
        """After a fault the folder's recommendation is whole, or known not to be."""
        out = self.work / "out"
        if name in ("probe", "sketch", "calibrate") or not (out / "recommendation.json").exists():
            return
        found = {key: value for key, value in _tree(self.work)["files"].items() if key.startswith("out/")}
        shown = {key: value for key, value in found.items() if Path(key).suffix in (".json", ".yaml", ".py", ".md", ".html")}
        whole = [self.expected[name]["files"], {f"out/{p.name}": _content(p) for p in (self.root / "old").iterdir()}]
        for each in whole:
            kept = {k: v for k, v in each.items() if k.startswith("out/") and k.count("/") == 1 and k not in USERS}
            if {k: v for k, v in shown.items() if k.count("/") == 1 and "advisor.json" not in k} == {
                k: v for k, v in kept.items() if "advisor.json" not in k
            }:
                return
        raise Wrong(f"files of two recommendations: {sorted(shown)}")

    def again(self, name: str) -> None:
        """The second run, which nothing disturbs."""
        ended = self.run(SCENARIOS[name])
        if ended.code != 0:
            raise Wrong(f"the second run: exit {ended.code}: {ended.text[-300:]}")
        _same(_tree(self.work), self.expected[name], "the second run")


# --- inside the command -----------------------------------------------------------------------------------------------


def _load(modules: Sequence[str]) -> None:
    """Import what a command imported, so that those forked from now on need not."""
    for name in modules:
        with contextlib.suppress(Exception):  # names that only exist where something made them
            importlib.import_module(name)


def _command(arguments: Sequence[str]) -> int:
    from advisor.cli.main import main

    # Workers are forked, as this process has loaded what a new one would load for half a minute.
    context = multiprocessing.get_context
    multiprocessing.get_context = lambda method=None: context("fork")  # type: ignore[assignment, return-value]
    sys.argv = ["advisor", *arguments]
    try:
        main()
    except SystemExit as exit:
        return int(exit.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def _count_calls(path: Path, at_call: int, sent: int) -> Callable[[], None]:
    """Send ``sent`` to this process before call number ``at_call`` of those that change files or report progress.

    Returns:
        Call it to write their number to ``path``.
    """
    import advisor.core.events as events
    import advisor.probing.part_file as part_file

    count, me = 0, os.getpid()

    def counted(place: Any, name: str) -> None:
        old = getattr(place, name)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += os.getpid() == me
            if count == at_call and os.getpid() == me:
                count += 1
                os.kill(me, sent)
            return old(*arguments, **named)

        setattr(place, name, call)

    for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync", "chmod", "ftruncate"):
        counted(os, name)
    counted(events.Stage, "advance")
    counted(events.Session, "note")
    counted(part_file, "save_file")
    return lambda: path.write_text(str(count)) and None


# --- looking ----------------------------------------------------------------------------------------------------------


def _must(ended: Ended) -> Ended:
    if ended.code != 0:
        raise SystemExit(f"An undisturbed run failed: {ended.text}")
    return ended


def _session(leader: int) -> set[int]:
    """Processes of the session that ``leader`` began, dead ones left out."""
    found = set()
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit():
                fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[3]) == leader and fields[0] not in "ZX":
                    found.add(int(entry))
    return found


def _tree(folder: Path) -> dict[str, Any]:
    """All files by their paths, with what of their content must be the same, and their bytes in all."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "files": {str(path.relative_to(folder)): _content(path) for path in paths},
        "bytes": sum(path.stat().st_size for path in paths),
    }


def _content(path: Path) -> Any:
    if path.name in UNCOMPARED:
        return "there"
    if path.name == ".advisor.json":  # hashes of files that say times
        return sorted(json.loads(path.read_bytes())["files"])
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_bytes()))
    if path.suffix == ".jsonl":  # in any order: workers race
        return sorted(json.dumps(_without_times(json.loads(line)), sort_keys=True) for line in path.read_bytes().splitlines())
    return path.read_bytes()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if not TIMES.search(key)}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def _same(found: dict[str, Any], wanted: dict[str, Any], what: str) -> None:
    found, wanted = found["files"], wanted["files"]
    different = [
        *(f"{path} is left over" for path in sorted(found.keys() - wanted.keys())),
        *(f"{path} is missing" for path in sorted(wanted.keys() - found.keys())),
        *(
            f"{path} is another: {_difference(found[path], wanted[path])}"
            for path in sorted(found)
            if found[path] != wanted.get(path, found[path])
        ),
    ]
    if different:
        raise Wrong(f"{what}: {'; '.join(different)}")


def _difference(a: Any, b: Any, at: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return next((_difference(a[key], b[key], f"{at}.{key}") for key in a if a[key] != b[key]), at)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return next((_difference(x, y, f"{at}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), at)
    return f"{at}: {str(a)[:200]} for {str(b)[:200]}"


@contextlib.contextmanager
def _small_disk(place: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _remount(place: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def can_mount() -> bool:
    """Whether this user may make a small file system."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=False, capture_output=True).returncode == 0
        return mounted and subprocess.run(["umount", folder], check=False).returncode == 0


def campaign(
    kills: int, full: int, races: int, seed: int, failures: Path, scenarios: Sequence[str], only: int | None = None
) -> Counter[str]:
    """Run the cases; what failed is saved to ``failures``, one file a case. Returns the counts by outcome."""
    import matplotlib.figure  # noqa: F401

    import advisor.api
    import advisor.real_runs
    import advisor.report.html
    import advisor.training.pilot
    import advisor.workflow  # noqa: F401

    if full and not can_mount():
        print("Full disks are left out: they need root.")
        full = 0
    counts: Counter[str] = Counter()
    wanted = {"kill": kills, "full": full, "race": races}
    cases = sorted((i / many, kind) for kind, many in wanted.items() for i in range(many))  # of all kinds from the start
    quick = [name for name in scenarios if name != "confirm"]
    order = [*quick, *quick, *(name for name in scenarios if name == "confirm")]  # which takes as long as the others together
    drawn = [(number, kind, order[number % len(order)]) for number, (_, kind) in enumerate(cases) if only in (None, number)]
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        it = Campaign(Path(folder))
        it.prepare(list(dict.fromkeys(name for _, _, name in drawn)))
        print("Seconds and calls undisturbed:", {n: (round(it.seconds[n], 1), it.calls[n]) for n in it.seconds}, flush=True)
        for number, kind, name in drawn:
            begun = time.monotonic()
            try:
                outcome = getattr(it, kind)(random.Random(f"{seed}-{number}"), name)
            except Wrong as wrong:
                outcome = f"{kind}: WRONG"
                failures.mkdir(parents=True, exist_ok=True)
                case = {"seed": seed, "number": number, "kind": kind, "scenario": name, "wrong": str(wrong)}
                (failures / f"{seed}-{number}.json").write_text(json.dumps(case, indent=1) + "\n")
                print(f"  {number} {kind} of {name}: {wrong}"[:1500], flush=True)
            counts[f"{name}, {outcome}"] += 1
            print(f"{number + 1}/{len(cases)} {name}, {outcome} ({time.monotonic() - begun:.1f} s)", flush=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill, fill and race real commands; compare with undisturbed runs.")
    for option, default in (("--kills", 108), ("--full", 18), ("--races", 12), ("--seed", 0)):
        parser.add_argument(option, type=int, default=default)
    parser.add_argument("--only", type=int, help="the number of one case")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--failures", type=Path, default=Path("faults-failed"))
    given = parser.parse_args()
    counts = campaign(**vars(given))
    for outcome, count in sorted(counts.items()):
        print(f"{count:5}  {outcome}")
    wrong = sum(count for outcome, count in counts.items() if "WRONG" in outcome)
    print(f"{sum(counts.values())} cases, {wrong} wrong" + (f": see {given.failures}" if wrong else ""))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
