"""Commands that load a model: ``recommend``, ``probe``, ``calibrate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.cli import groups, terminal
from advisor.cli.show import say, say_json, say_report
from advisor.core import option_groups, options
from advisor.core.option import given_to, part, values

if TYPE_CHECKING:
    from advisor.core.recipe import TrainingRecipe


def recommend(given: options.Recommend, ending: groups.Ending) -> int | None:
    """Recommend the target modules for LoRA within a budget: probe MODEL on --data and write a PEFT config and a report."""
    if ending.in_tui:
        terminal.refuse_beside_tui(given, ending)
        if terminal.has_terminal():
            return terminal.open_interface(part(given, options.Terminal), demo=given.demo, start=True, writes=True)
    from advisor import api, workflow  # noqa: F401  loads torch: while it does, Ctrl-C stops at once and not at the next safe point
    from advisor.report.console import console_session

    with console_session(short=not ending.verbose) as session:
        result = api.recommend(**given_to(given), session=session)
    if ending.as_json:
        say_json(result.json)
    elif not ending.verbose:
        for line in str(result.answer).splitlines():
            say(line)
    else:
        say_report(result.verdict, result.tables, [f"Written to {result.folder}: {', '.join(result.files)}."])
        if given.demo:
            print((result.folder / "lora.yaml").read_text(encoding="utf-8"))
    return None


def probe(given: options.Probe, printed: groups.Json) -> None:
    """Probe MODEL on --data and write the probe to the folder --out. Run the command again to resume an interrupted probe."""
    out = options.out_of(given)
    from advisor import api, workflow  # noqa: F401
    from advisor.report.console import console_session

    with console_session() as session:
        result = api.probe(**given_to(given), session=session)
    if printed.as_json:
        say_json(result.as_dict())
    else:
        say(f"{len(result.probe.targets)} modules probed on {result.probe.samples} examples: {out}")


def calibrate(given: groups.Calibrate, printed: groups.Json) -> None:
    """Fine-tune many selections for real; the results become calibration rows for your own predictions. Resumable."""
    out = options.out_of(given)
    from dataclasses import replace

    from advisor import api, real_runs
    from advisor.core.recipe import recipe_for
    from advisor.report.console import console_session
    from advisor.training.runs import RUNS_FILE

    with console_session() as session:

        def recipe(task: str) -> TrainingRecipe:
            chosen = recipe_for(task, **values(given, option_groups.Recipe))
            chosen = replace(chosen, pull=given.pull or 0.0, pull_always=given.pull_always)
            session.note(f"Recipe: {chosen}.")
            return chosen

        rows_file, count = real_runs.calibrate_folder(
            api.source_of(given),
            api.lora_settings(given),
            recipe,
            out,
            session,
            train_rows=given.train_rows,
            runs=given.runs,
            seeds=given.seeds,
            workers=given.workers,
            eval_rows=given.eval_rows,
            ray=given.ray,
            keep=None if given.keep is None else str(given.keep),
        )
    if printed.as_json:
        say_json({"rows": count, "file": str(rows_file) if rows_file else None})
    else:
        say(f"{count} rows: {rows_file}" if rows_file else f"Runs: {out / RUNS_FILE}")
