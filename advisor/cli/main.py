"""The command line. Results go to stdout, notes and progress to stderr; heavy imports wait until they are needed."""

from __future__ import annotations

import json
import logging
import os
import sys
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from advisor.cli import profiles as cli_profiles
from advisor.core.choices import AUTO, STRATEGIES
from advisor.core.errors import AdvisorError, BadInput, Interrupted, NotFinite, check_choice

if TYPE_CHECKING:
    from advisor.core.recipe import TrainingRecipe

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Which modules should LoRA adapt, on your model and your data?",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_profiles.app, name="profiles")

DATA, LORA, RECIPE, PROBE, OUTPUT = "Data", "LoRA", "Training recipe the prediction is for", "Probe", "Output"
CONFIRM = "Real runs"


def _option(panel: str, help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel)


def _rank(text: str) -> int:
    if text == AUTO:
        raise BadInput("--rank auto is for recommend.", "Give a number here.")
    try:
        return int(text)
    except ValueError:
        raise BadInput(f"--rank {text}: not a whole number.", "Give one of 1 or more; recommend also takes auto.") from None


Data = Annotated[str | None, _option(DATA, "CSV, TSV, JSONL, Parquet, folder of train.* or images, or hub id.", "--data")]
EvalData = Annotated[str | None, _option(DATA, "Evaluation file; default: --data's own, else 10 % split off.", "--eval-data")]
Task = Annotated[str, _option(DATA, "auto, classification, regression, causal-lm or seq2seq.", "--task")]
TextColumn = Annotated[list[str] | None, _option(DATA, "Column of the text; twice for pairs.", "--text-column")]
LabelColumn = Annotated[str | None, _option(DATA, "Column of the label, or of the answer to learn.", "--label-column")]
Metric = Annotated[str | None, _option(DATA, "accuracy, matthews, f1, spearman, token_accuracy.", "--metric")]
MaxLength = Annotated[int | None, _option(DATA, "Tokens a row; default 128, language models 512.", "--max-length")]
Rank = Annotated[int, typer.Option("--rank", parser=_rank, metavar="INTEGER", help="LoRA rank.", rich_help_panel=LORA)]
RankOrAuto = Annotated[
    str,
    typer.Option(
        "--rank",
        metavar="INTEGER|auto",
        help="LoRA rank; auto: one of its own for each module, at the parameters of rank 8, alpha/rank kept; "
        "in real runs of two tasks no more accurate than one rank.",
        rich_help_panel=LORA,
    ),
]
Alpha = Annotated[float, _option(LORA, "LoRA alpha.", "--alpha")]
Rslora = Annotated[bool, _option(LORA, "Scale by alpha/√rank.", "--rslora")]
TrainRows = Annotated[int | None, _option(RECIPE, "Training rows; default: all there are.", "--train-rows")]
Epochs = Annotated[int | None, _option(RECIPE, "Default 6, language models 3.", "--epochs")]
Lr = Annotated[float | None, _option(RECIPE, "Peak learning rate; default 1e-3, language models 2e-4.", "--lr")]
BatchSize = Annotated[int | None, _option(RECIPE, "Default 32, language models 16.", "--batch-size")]
Pull = Annotated[
    float | None,
    typer.Option(
        "--pull",
        metavar="LAMBDA",
        help="Pull towards the start: after each step shrink θ−θ0 by λ·lr in each tensor where "
        "⟨gradient, θ−θ0⟩ ≥ 0; reproduces Eq. 8 of arXiv 2602.08239.",
    ),
]
PullAlways = Annotated[bool, typer.Option("--pull-always", help="With --pull: shrink every tensor after every step.")]
Workers = Annotated[int, _option(CONFIRM, "Parallel processes of one thread.", "--workers")]
Samples = Annotated[int | None, _option(PROBE, "Probe examples; default max(128, 4 × classes).", "--samples")]
Head = Annotated[str, _option(PROBE, "Head the kernels see: probed or fresh.", "--head")]
Method = Annotated[str, _option(PROBE, "auto, materialise, token-gram or kronecker (a sketch).", "--method")]
Device = Annotated[
    str,
    _option(
        PROBE,
        "auto (CUDA if there is one; what does not fit goes to other GPUs, memory, disk), cpu, cuda, or disk (blocks are "
        "read from there one after the other).",
        "--device",
    ),
]
In4bit = Annotated[bool, _option(PROBE, "Quantise the weights to 4 bits (bitsandbytes NF4, as QLoRA).", "--load-in-4bit")]
In8bit = Annotated[bool, _option(PROBE, "Quantise the weights to 8 bits (bitsandbytes).", "--load-in-8bit")]
Recompute = Annotated[
    bool,
    _option(
        PROBE,
        "Compute activations again in the backward pass instead of keeping them: less memory, one more forward pass, "
        "the same result. Without it, done once one row does not fit.",
        "--recompute",
    ),
]
Dtype = Annotated[str, _option(PROBE, "auto, float32, bfloat16 or float16.", "--dtype")]
Revision = Annotated[str | None, _option(PROBE, "Revision of a hub model.", "--revision")]
TrustRemoteCode = Annotated[bool, _option(PROBE, "Run code that comes with the model.", "--trust-remote-code")]
Kernel = Annotated[str, _option(PROBE, "Kernel of bounds and shares: adam, lora-expected, weight.", "--kernel")]
Sigma = Annotated[float | None, _option(PROBE, "Ridge of the certificate; default 1e-2·tr(K)/n.", "--sigma")]
BudgetText = Annotated[str, typer.Option("--budget", help="25% | 2M (LoRA parameters) | 12modules | 24GB.")]
Granularity = Annotated[str, typer.Option("--granularity", help="What is taken whole: module, role or layer.")]
Seed = Annotated[int, typer.Option("--seed", help="Same seed, same answer.")]
Json = Annotated[bool, _option(OUTPUT, "Machine-readable result on stdout.", "--json")]
Out = Annotated[Path | None, _option(OUTPUT, "Folder to write to.", "--out")]
Formats = Annotated[str, _option(OUTPUT, "Any of peft,axolotl,llama-factory,unsloth,trl.", "--format")]
Strategy = Annotated[
    str,
    typer.Option("--strategy", help="How to choose. " + " ".join(f"{name}: {text}." for name, text in STRATEGIES.items())),
]
ProbePath = Annotated[Path, typer.Argument(help="Folder written by `advisor probe`.")]
Baseline = Annotated[Path | None, typer.Option("--baseline", help="Your present adapter_config.json, shown in every table.")]


@app.command()
def recommend(
    model: Annotated[
        str | None, typer.Argument(help="Model folder or hub id; or the folder of a probe, which says model and data.")
    ] = None,
    data: Data = None,
    eval_data: EvalData = None,
    task: Task = "auto",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    metric: Metric = None,
    max_length: MaxLength = None,
    budget: BudgetText = "25%",
    granularity: Granularity = "module",
    strategy: Strategy = "predicted",
    baseline: Baseline = None,
    demo: Annotated[bool, typer.Option("--demo", help="The embedded model and data; no network.")] = False,
    rank: RankOrAuto = "8",
    alpha: Alpha = 16,
    rslora: Rslora = False,
    train_rows: TrainRows = None,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    confirm: Annotated[
        int,
        _option(CONFIRM, "Train up to this many selections for real, and correct the prediction by them; 0: none.", "--confirm"),
    ] = 0,
    confirm_rows: Annotated[
        int | None, _option(CONFIRM, "Training rows of each of these runs; default: at most 512.", "--confirm-rows")
    ] = None,
    workers: Workers = 1,
    samples: Samples = None,
    head: Head = "probed",
    method: Method = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in_4bit: In4bit = False,
    load_in_8bit: In8bit = False,
    recompute: Recompute = False,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    kernel: Kernel = "adam",
    sigma: Sigma = None,
    seed: Seed = 0,
    out: Out = None,
    format: Formats = "peft",
    as_json: Json = False,
    in_tui: Annotated[bool, _option(OUTPUT, "End in the terminal interface, if there is a terminal.", "--tui")] = False,
) -> None:
    """Probe MODEL on --data, and recommend target modules under --budget."""
    options = dict(locals())
    if in_tui:
        _refuse_beside_tui(options)
    if in_tui and _has_terminal():
        _run_tui({**options, "rank": _rank(rank)}, model, start=True, writes=True)
    from advisor import api
    from advisor.report.console import console_session

    for name in ("as_json", "in_tui"):
        del options[name]
    with console_session() as session:
        result = api.recommend(**options, session=session)
    if as_json:
        _print_json(result.json)
    else:
        _print_report(result.verdict, result.tables, [f"Written to {result.folder}: {', '.join(result.files)}."])
        if demo:
            print((result.folder / "lora.yaml").read_text(encoding="utf-8"))


@app.command()
def probe(
    model: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    data: Data = None,
    eval_data: EvalData = None,
    task: Task = "auto",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    metric: Metric = None,
    max_length: MaxLength = None,
    samples: Samples = None,
    head: Head = "probed",
    method: Method = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in_4bit: In4bit = False,
    load_in_8bit: In8bit = False,
    recompute: Recompute = False,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Probe MODEL on --data into the folder --out; an interrupted probe resumes."""
    options = dict(locals())
    del options["as_json"]
    from advisor import api
    from advisor.report.console import console_session

    if out is None:
        raise BadInput("--out is missing.", "Name a folder for the probe.")
    with console_session() as session:
        result = api.probe(**options, session=session)
    if as_json:
        _print_json(result.as_dict())
    else:
        print(f"{len(result.probe.targets)} modules probed on {result.probe.samples} examples: {out}")


@app.command()
def score(
    probe_path: ProbePath,
    selections: Annotated[Path, typer.Option("--selections", help="JSON list of selections.")],
    rank: Rank = 8,
    alpha: Alpha = 16,
    rslora: Rslora = False,
    train_rows: TrainRows = None,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    kernel: Kernel = "adam",
    sigma: Sigma = None,
    as_json: Json = False,
) -> None:
    """Predictions, bounds and cost of given selections, in their order."""
    options = _scoring_options(locals())
    from advisor.results import ProbeResult

    shown = ProbeResult.open(probe_path).score(selections, **options)
    if as_json:
        _print_json(shown.json)
    else:
        _print_report([], shown.tables, shown.verdict)


@app.command()
def explain(
    probe_path: ProbePath,
    selections: Annotated[
        Path | None, typer.Option("--selections", help="JSON list of selections; default: all-linear and q,v.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The probed model's folder or hub id: measure linearity on it.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Bound what fits beside the selection: 25% | 2M | 12modules.")
    ] = None,
    rank: Rank = 8,
    alpha: Alpha = 16,
    rslora: Rslora = False,
    train_rows: TrainRows = None,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    kernel: Kernel = "adam",
    sigma: Sigma = None,
    as_json: Json = False,
) -> None:
    """Scores for a person: who contributes what, what adding or dropping it changes, spectrum, bounds, linearity."""
    options = _scoring_options(locals())
    from advisor.advice.budget import parse_budget
    from advisor.advice.explain import explain as explain_candidates
    from advisor.advice.explain import explanations_json
    from advisor.core.candidate import Candidate
    from advisor.core.selections import ALL_LINEAR, QV, recipes
    from advisor.prediction.selection_file import parse_selections, read_selections
    from advisor.report.console import console_session
    from advisor.report.explanation import blocks, show
    from advisor.results import ProbeResult

    parsed = None if budget is None else parse_budget(budget)
    scorer = ProbeResult.open(probe_path).scorer(**options)
    if selections is None:
        usual = [s for s in recipes(scorer.probe.targets, scorer.probe.info["qv_roles"]) if s.name in (ALL_LINEAR, QV)]
        candidates = [Candidate(selection, scorer.settings) for selection in usual]
    else:
        entries, where = read_selections(selections)
        candidates = parse_selections(entries, scorer.probe, scorer.settings, where)
    measured = None
    if model is not None:
        from advisor import workflow  # loads torch, which nothing else here needs

        with console_session() as session:
            measured = workflow.measure_candidates(scorer.probe, model, candidates, session, trust_remote_code)
    explanations = explain_candidates(scorer, candidates, parsed, measured)
    if as_json:
        _print_json(explanations_json(explanations, scorer))
    else:
        show(blocks(explanations, scorer))


@app.command()
def compare(
    probe_path: ProbePath,
    budget: BudgetText = "25%",
    granularity: Granularity = "module",
    baseline: Baseline = None,
    rank: Rank = 8,
    alpha: Alpha = 16,
    rslora: Rslora = False,
    train_rows: TrainRows = None,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    kernel: Kernel = "adam",
    sigma: Sigma = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The usual recipes, rank lowered where needed, and what other methods would pick, side by side at equal budget."""
    options = _scoring_options(locals())
    from advisor.advice.budget import parse_budget
    from advisor.results import ProbeResult

    parse_budget(budget)  # a mistake there is said before the probe is read
    shown = ProbeResult.open(probe_path).compare(budget, granularity=granularity, baseline=baseline, seed=seed, **options)
    if as_json:
        _print_json(shown.json)
    else:
        _print_report([], shown.tables, [])


@app.command()
def tui(
    probe_or_model: Annotated[
        str | None, typer.Argument(metavar="[PROBE|MODEL]", help="A probe's folder, or a model folder or hub id.")
    ] = None,
    data: Data = None,
    eval_data: EvalData = None,
    task: Task = "auto",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    metric: Metric = None,
    max_length: MaxLength = None,
    budget: BudgetText = "25%",
    granularity: Annotated[str, typer.Option("--granularity", help="module, role or layer.")] = "module",
    strategy: Strategy = "predicted",
    demo: Annotated[bool, typer.Option("--demo", help="The embedded model and data; no network.")] = False,
    rank: Rank = 8,
    alpha: Alpha = 16,
    rslora: Rslora = False,
    train_rows: TrainRows = None,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    samples: Samples = None,
    head: Head = "probed",
    method: Method = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    kernel: Kernel = "adam",
    sigma: Sigma = None,
    seed: Seed = 0,
) -> None:
    """Look at a probe, or make one, in the terminal; without arguments: what was open last."""
    if not _has_terminal():
        raise BadInput("The terminal interface needs a terminal.", "Use `advisor recommend` or `advisor explain` instead.")
    _run_tui(dict(locals()), probe_or_model)


@app.command()
def export(
    recommendation: Annotated[Path, typer.Argument(help="Folder written by `advisor recommend`.")],
    format: Formats = "peft",
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Write a recommendation's config again, to --out, for other tools too."""
    from advisor import api, workflow

    written = workflow.export_formats(recommendation, api.format_names(format), out or recommendation)
    if as_json:
        _print_json(
            {
                name: {"fidelity": rendered.fidelity, "reasons": rendered.reasons, "files": [str(path) for path in paths]}
                for name, (rendered, paths) in written.items()
            }
        )
        return
    for rendered, paths in written.values():
        for path in paths:
            print(f"{path}: {rendered.files[path.name].fidelity}")
        for reason in rendered.reasons:
            print(f"  {reason}")


@app.command()
def verify(
    config: Annotated[str, typer.Argument(help="A config of any --format, or an adapter's folder.")],
    model: Annotated[str, typer.Option("--model", help="Model folder or hub id.")],
    task: Annotated[str | None, typer.Option("--task", help="Where the config has no task_type.")] = None,
    format_name: Annotated[
        str | None, typer.Option("--format", help="peft, axolotl, llama-factory, unsloth or trl; default: by the file's keys.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Revision of a hub model; default: what the config names, else the newest.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """What the config's tool will really train: exit 0 as intended, 1 surprises, 2 bad input."""
    from advisor.core.recipe import TASKS
    from advisor.export import FORMATS
    from advisor.export.verify import verify as verify_config

    if task is not None:
        check_choice("--task", task, TASKS)
    if format_name is not None:
        check_choice("--format", format_name, tuple(FORMATS))
    report = verify_config(
        config, model, task=task, format_name=format_name, revision=revision, trust_remote_code=trust_remote_code
    )
    if as_json:
        _print_json(report.as_dict())
    else:
        for line in report.lines():
            print(line)
    raise typer.Exit(report.exit_code)


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    data: Data = None,
    eval_data: EvalData = None,
    task: Task = "auto",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    metric: Metric = None,
    max_length: MaxLength = None,
    runs: Annotated[int, typer.Option("--runs", help="Fine-tunes in all (selections × seeds).")] = 60,
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds a selection.")] = 1,
    workers: Workers = 1,
    ray: Annotated[
        str | None,
        _option(
            CONFIRM,
            "Workers on a Ray cluster: auto, its address, or local (one started here). Model and data must lie "
            "at the same place on every node, or be hub ids.",
            "--ray",
        ),
    ] = None,
    eval_rows: Annotated[int, typer.Option("--eval-rows", help="Most evaluation rows.")] = 500,
    rank: Rank = 8,
    alpha: Alpha = 16,
    rslora: Rslora = False,
    train_rows: TrainRows = 512,
    epochs: Epochs = None,
    lr: Lr = None,
    batch_size: BatchSize = None,
    pull: Pull = None,
    pull_always: PullAlways = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    load_in_4bit: In4bit = False,
    load_in_8bit: In8bit = False,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Real LoRA fine-tunes over many selections; their results become rows for your own predictions. Resumable."""
    from dataclasses import replace

    from advisor import api, real_runs
    from advisor.core.recipe import recipe_for
    from advisor.report.console import console_session
    from advisor.training.runs import RUNS_FILE

    if out is None:
        raise BadInput("--out is missing.", "Name a folder for the runs.")
    if pull_always and pull is None:
        raise BadInput("--pull-always needs --pull.", "Add --pull LAMBDA.")
    with console_session() as session:
        source = api.source_of(
            model,
            data,
            eval_data,
            task,
            text_column,
            label_column,
            metric,
            max_length,
            device,
            dtype,
            revision,
            trust_remote_code,
            seed,
            load_in_4bit,
            load_in_8bit,
        )

        def recipe(found: str) -> TrainingRecipe:
            chosen = replace(recipe_for(found, train_rows, epochs, lr, batch_size), pull=pull or 0.0, pull_always=pull_always)
            session.note(f"Recipe: {chosen}.")
            return chosen

        rows_file, count = real_runs.calibrate_folder(
            source,
            api.lora_settings(rank, alpha, rslora),
            recipe,
            out,
            session,
            train_rows=train_rows,
            runs=runs,
            seeds=seeds,
            workers=workers,
            eval_rows=eval_rows,
            ray=ray,
        )
    if as_json:
        _print_json({"rows": count, "file": str(rows_file) if rows_file else None})
    else:
        print(f"{count} rows: {rows_file}" if rows_file else f"Runs: {out / RUNS_FILE}")


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty() and sys.stdout.isatty()


def _refuse_beside_tui(options: dict[str, Any]) -> None:
    """What ``recommend`` was given and the terminal interface does not know would be dropped silently.

    Raises:
        BadInput: there is such an option; names it.
    """
    beyond = [
        "--json" if name == "as_json" else f"--{name.replace('_', '-')}"
        for name, parameter in signature(recommend).parameters.items()
        if name not in {"model", "in_tui", *signature(tui).parameters} and options[name] != parameter.default
    ]
    if options["rank"] == AUTO:
        beyond.append("--rank auto")
    if beyond:
        raise BadInput(f"{', '.join(beyond)}: not known to the terminal interface.", "Leave out --tui.")


def _run_tui(options: dict[str, Any], probe_or_model: str | None, start: bool = False, writes: bool = False) -> NoReturn:
    """The terminal interface with the options that a command was given; ``start``: a model is probed at once; ``writes``: the
    recommendation goes to its folder."""
    import gc

    from advisor.core.store import is_probe

    gc.disable()  # until the first paint, which comes sooner by a tenth; the app enables it again
    from tui.main import run

    if probe_or_model is not None and is_probe(Path(probe_or_model)):
        sys.exit(run({**options, "model": None}, probe_folder=Path(probe_or_model), writes=writes))
    sys.exit(run({**options, "model": probe_or_model}, start=start, writes=writes))


# --- from options to engine objects -------------------------------------------------------------------------------


def _scoring_options(given: dict[str, Any]) -> dict[str, Any]:
    """Of a command's arguments those that :meth:`advisor.results.ProbeResult.scorer` takes."""
    names = ("rank", "alpha", "rslora", "train_rows", "epochs", "lr", "batch_size", "kernel", "sigma")
    return {name: given[name] for name in names}


def _print_json(value: Any) -> None:
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as error:
        raise NotFinite("A number of the result is not finite.", "Try --dtype float32 or a smaller --lr.") from error
    print(text)


def _print_report(lines: list[str], tables: list[Any], after: list[str]) -> None:
    from rich.console import Console

    from advisor.report.tables import print_report

    print_report(Console(highlight=False), lines, tables, after)


def main() -> None:
    """Entry point: expected errors become one line on stderr and their exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # PEFT imports bitsandbytes where it is installed, which misses a kernel for inference that nothing here uses.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        if sys.argv[1:] == ["tui"]:
            tui()  # there is nothing to parse, and typer takes a third of the time to the first paint to find that out
        code = app(standalone_mode=False) or 0
        if code == Interrupted.exit_code:  # what typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        sys.exit(code)
    except AdvisorError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Error: stopped at once; finished work is kept.", file=sys.stderr)
        sys.exit(Interrupted.exit_code)
    except (typer.Abort, BrokenPipeError):
        sys.exit(1)
    except OSError as error:  # a folder that cannot be made, a full disk
        print(f"Error: {error.filename or 'A file'}: {error.strerror or error}.", file=sys.stderr)
        sys.exit(BadInput.exit_code)
    except Exception as error:
        if type(error).__module__.startswith("click") or type(error).__module__.startswith("typer"):
            message = error.format_message() if hasattr(error, "format_message") else str(error)
            print(f"Error: {message}", file=sys.stderr)
            sys.exit(BadInput.exit_code)
        raise


if __name__ == "__main__":
    main()
