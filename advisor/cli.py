"""The command line. Results go to stdout, notes and progress to stderr; heavy imports wait until they are needed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advisor import cli_profiles
from advisor.choices import AUTO, AUTO_BASE, PREDICTED, STRATEGIES
from advisor.errors import AdvisorError, BadInput, Interrupted, NotFinite

if TYPE_CHECKING:
    from advisor.events import Session
    from advisor.prepare import Source
    from advisor.recipe import TrainingRecipe
    from advisor.scoring import Scorer
    from advisor.targets import LoraSettings

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


Data = Annotated[str | None, _option(DATA, "CSV, TSV, JSONL, Parquet, a folder with train.*, or a hub id.", "--data")]
EvalData = Annotated[str | None, _option(DATA, "Evaluation file; default: --data's own, else 10 % split off.", "--eval-data")]
Task = Annotated[str, _option(DATA, "auto, classification, regression or causal-lm.", "--task")]
TextColumn = Annotated[list[str] | None, _option(DATA, "Column of the text; twice for pairs.", "--text-column")]
LabelColumn = Annotated[str | None, _option(DATA, "Column of the label.", "--label-column")]
Metric = Annotated[str | None, _option(DATA, "accuracy, matthews, f1, spearman, token_accuracy.", "--metric")]
MaxLength = Annotated[int | None, _option(DATA, "Tokens a row; default 128, language models 512.", "--max-length")]
Rank = Annotated[
    int, typer.Option("--rank", parser=_rank, metavar="INTEGER", help="LoRA rank.", rich_help_panel=LORA)
]
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
Device = Annotated[str, _option(PROBE, "auto, cpu or cuda.", "--device")]
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
Baseline = Annotated[
    Path | None, typer.Option("--baseline", help="Your present adapter_config.json, shown in every table.")
]


@app.command()
def recommend(
    model: Annotated[str | None, typer.Argument(help="Model folder or hub id.")] = None,
    data: Data = None, eval_data: EvalData = None, task: Task = "auto", text_column: TextColumn = None,
    label_column: LabelColumn = None, metric: Metric = None, max_length: MaxLength = None,
    budget: BudgetText = "25%",
    granularity: Granularity = "module",
    strategy: Strategy = "predicted",
    baseline: Baseline = None,
    demo: Annotated[bool, typer.Option("--demo", help="The embedded model and data; no network.")] = False,
    rank: RankOrAuto = "8", alpha: Alpha = 16, rslora: Rslora = False,
    train_rows: TrainRows = None, epochs: Epochs = None, lr: Lr = None, batch_size: BatchSize = None,
    confirm: Annotated[
        int,
        _option(CONFIRM, "Train up to this many selections for real, and correct the prediction by them; 0: none.", "--confirm"),
    ] = 0,
    confirm_rows: Annotated[
        int | None, _option(CONFIRM, "Training rows of each of these runs; default: at most 512.", "--confirm-rows")
    ] = None,
    workers: Workers = 1,
    samples: Samples = None, head: Head = "probed", method: Method = "auto", device: Device = "auto",
    dtype: Dtype = "auto", revision: Revision = None, trust_remote_code: TrustRemoteCode = False,
    kernel: Kernel = "adam", sigma: Sigma = None, seed: Seed = 0, out: Out = None, formats: Formats = "peft",
    as_json: Json = False,
    in_tui: Annotated[bool, _option(OUTPUT, "End in the terminal interface, if there is a terminal.", "--tui")] = False,
) -> None:  # fmt: skip
    """Probe MODEL on --data, and recommend target modules under --budget."""
    if in_tui and _has_terminal():
        _run_tui(dict(locals()), start=True)
        return
    from advisor import workflow
    from advisor.budget import parse_budget
    from advisor.console import console_session

    with console_session() as session:
        parsed, names = parse_budget(budget), _formats(formats)
        _check_choice("--granularity", granularity, ("module", "role", "layer"))
        _check_choice("--strategy", strategy, tuple(STRATEGIES))
        if confirm and strategy != PREDICTED:
            raise BadInput(f"--confirm corrects predictions, --strategy {strategy} does not pick by them.", "Leave one out.")
        if confirm_rows is not None and not confirm:
            raise BadInput("--confirm-rows needs --confirm.", "Add --confirm N.")
        plan = workflow.ConfirmSettings(confirm, confirm_rows, workers) if confirm else None
        if demo:
            model, data = workflow.demo_inputs()
            session.note("Demo: the embedded MiniLM, and topics of this Python's standard-library docstrings.")
        source = _source(model, data, eval_data, task, text_column, label_column, metric, max_length, device, dtype,
                         revision, trust_remote_code, seed)  # fmt: skip
        settings = _lora(AUTO_BASE if rank == AUTO else _rank(rank), alpha, rslora)
        prepared = workflow.prepare_for_probe(source, session, samples)
        recipe = _recipe(prepared.loaded.task, train_rows, epochs, lr, batch_size, session)
        how = _probe_settings(samples, head, method, seed)
        probe = workflow.probe_cached(prepared, how, session)
        own = workflow.read_baseline(baseline, probe, trust_remote_code) if baseline else None
        folder = out or Path("recommendation")
        result = workflow.recommend_folder(
            probe, settings, recipe, parsed, session, out=folder, granularity=granularity,
            strategy=strategy, baseline=own, kernel=kernel, sigma=sigma, seed=seed, trust_remote_code=trust_remote_code,
            linearity_of=workflow.measure_pick(prepared, how, settings, session),
            confirmation_of=None if plan is None else workflow.confirm_in(folder, source, plan, session),
            own_ranks=rank == AUTO, formats=names,
        )  # fmt: skip
    if as_json:
        _print_json(result.json)
    else:
        _print_report(result.verdict, result.tables, [f"Written to {result.folder}: {', '.join(result.files)}."])
        if demo:
            print((result.folder / "lora.yaml").read_text(encoding="utf-8"))


@app.command()
def probe(
    model: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    data: Data = None, eval_data: EvalData = None, task: Task = "auto", text_column: TextColumn = None,
    label_column: LabelColumn = None, metric: Metric = None, max_length: MaxLength = None,
    samples: Samples = None, head: Head = "probed", method: Method = "auto", device: Device = "auto",
    dtype: Dtype = "auto", revision: Revision = None, trust_remote_code: TrustRemoteCode = False,
    seed: Seed = 0, out: Out = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Probe MODEL on --data into the folder --out; an interrupted probe resumes."""
    from advisor import workflow
    from advisor.console import console_session
    from advisor.probing import run_probe

    if out is None:
        raise BadInput("--out is missing.", "Name a folder for the probe.")
    with console_session() as session:
        source = _source(model, data, eval_data, task, text_column, label_column, metric, max_length, device, dtype,
                         revision, trust_remote_code, seed)  # fmt: skip
        prepared = workflow.prepare_for_probe(source, session, samples)
        result = run_probe(prepared, _probe_settings(samples, head, method, seed), out, session)
    summary = workflow.probe_summary(result, out)
    if as_json:
        _print_json(summary)
    else:
        print(f"{summary['modules']} modules probed on {summary['samples']} examples: {out}")


@app.command()
def score(
    probe_path: ProbePath,
    selections: Annotated[Path, typer.Option("--selections", help="JSON list of selections.")],
    rank: Rank = 8, alpha: Alpha = 16, rslora: Rslora = False,
    train_rows: TrainRows = None, epochs: Epochs = None, lr: Lr = None, batch_size: BatchSize = None,
    kernel: Kernel = "adam", sigma: Sigma = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Predictions, bounds and cost of given selections, in their order."""
    from advisor.report import score_table
    from advisor.scoring import parse_selections, scores_json

    scorer = _scorer(probe_path, rank, alpha, rslora, train_rows, epochs, lr, batch_size, kernel, sigma)
    candidates = parse_selections(_read_json_list(selections), scorer.probe, scorer.settings, str(selections))
    scores = scorer.score(candidates)
    if as_json:
        _print_json(scores_json(scores, scorer))
    else:
        table = score_table("Scores", list(scores), str(scorer.probe.info["metric"]))
        _print_report([], [table], sorted({w for s in scores for w in s.warnings}))


@app.command()
def explain(
    probe_path: ProbePath,
    selections: Annotated[
        Path | None, typer.Option("--selections", help="JSON list of selections; default: all-linear and q,v.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The probed model's folder or hub id: measure linearity on it.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Bound what fits beside the selection: 25% | 2M | 12modules.")
    ] = None,
    rank: Rank = 8, alpha: Alpha = 16, rslora: Rslora = False,
    train_rows: TrainRows = None, epochs: Epochs = None, lr: Lr = None, batch_size: BatchSize = None,
    kernel: Kernel = "adam", sigma: Sigma = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Scores for a person: who contributes what, what adding or dropping it changes, spectrum, bounds, linearity."""
    from advisor.budget import parse_budget
    from advisor.console import console_session
    from advisor.explain import explain as explain_candidates
    from advisor.explain import explanations_json
    from advisor.explain_report import blocks, show
    from advisor.scoring import Candidate, parse_selections
    from advisor.selections import ALL_LINEAR, QV, recipes

    parsed = None if budget is None else parse_budget(budget)
    scorer = _scorer(probe_path, rank, alpha, rslora, train_rows, epochs, lr, batch_size, kernel, sigma)
    if selections is None:
        usual = [s for s in recipes(scorer.probe.targets, scorer.probe.info["qv_roles"]) if s.name in (ALL_LINEAR, QV)]
        candidates = [Candidate(selection, scorer.settings) for selection in usual]
    else:
        candidates = parse_selections(_read_json_list(selections), scorer.probe, scorer.settings, str(selections))
    measured = None
    if model is not None:
        from advisor import workflow  # loads torch, which nothing else here needs

        with console_session() as session:
            measured = workflow.measure_candidates(scorer.probe, model, candidates, session)
    explanations = explain_candidates(scorer, candidates, parsed, measured)
    if as_json:
        _print_json(explanations_json(explanations, scorer))
    else:
        show(blocks(explanations, scorer))


@app.command()
def compare(
    probe_path: ProbePath,
    budget: BudgetText = "25%", granularity: Granularity = "module", baseline: Baseline = None,
    rank: Rank = 8, alpha: Alpha = 16, rslora: Rslora = False,
    train_rows: TrainRows = None, epochs: Epochs = None, lr: Lr = None, batch_size: BatchSize = None,
    kernel: Kernel = "adam", sigma: Sigma = None, seed: Seed = 0, as_json: Json = False,
) -> None:  # fmt: skip
    """The usual recipes, rank lowered where needed, and what other methods would pick, side by side at equal budget."""
    from advisor.advice import compare as compare_recipes
    from advisor.budget import parse_budget
    from advisor.peer_picks import comparison_json, peer_picks
    from advisor.report import peer_table, score_table

    parsed = parse_budget(budget)
    _check_choice("--granularity", granularity, ("module", "role", "layer"))
    scorer = _scorer(probe_path, rank, alpha, rslora, train_rows, epochs, lr, batch_size, kernel, sigma)
    own = None
    if baseline:
        from advisor import workflow  # loads torch, which nothing else here needs

        own = workflow.read_baseline(baseline, scorer.probe, False)
    scores, index = compare_recipes(scorer, parsed, own)
    picks = peer_picks(scorer, parsed, [s.candidate for s in scores], granularity=granularity, seed=seed)
    if as_json:
        _print_json(comparison_json(scores, picks, scorer))
    else:
        marked = [] if index is None else [index]
        title, metric = f"Recipes at the budget of {parsed.text}", str(scorer.probe.info["metric"])
        _print_report([], [score_table(title, list(scores), metric, marked), peer_table(picks, parsed, metric)], [])


@app.command()
def tui(
    probe_or_model: Annotated[
        str | None, typer.Argument(metavar="[PROBE|MODEL]", help="A probe's folder, or a model folder or hub id.")
    ] = None,
    data: Data = None, eval_data: EvalData = None, task: Task = "auto", text_column: TextColumn = None,
    label_column: LabelColumn = None, metric: Metric = None, max_length: MaxLength = None,
    budget: BudgetText = "25%",
    granularity: Annotated[str, typer.Option("--granularity", help="module, role or layer.")] = "module",
    strategy: Strategy = "predicted",
    demo: Annotated[bool, typer.Option("--demo", help="The embedded model and data; no network.")] = False,
    rank: Rank = 8, alpha: Alpha = 16, rslora: Rslora = False,
    train_rows: TrainRows = None, epochs: Epochs = None, lr: Lr = None, batch_size: BatchSize = None,
    samples: Samples = None, head: Head = "probed", method: Method = "auto", device: Device = "auto",
    dtype: Dtype = "auto", revision: Revision = None, trust_remote_code: TrustRemoteCode = False,
    kernel: Kernel = "adam", sigma: Sigma = None, seed: Seed = 0,
) -> None:  # fmt: skip
    """Look at a probe, or make one, in the terminal; without arguments: what was open last."""
    if not _has_terminal():
        raise BadInput("The terminal interface needs a terminal.", "Use `advisor recommend` or `advisor explain` instead.")
    options = dict(locals())
    probe_folder = None
    if probe_or_model is not None and (Path(probe_or_model) / "probe.json").is_file():
        probe_folder = Path(probe_or_model)
    else:
        options["model"] = probe_or_model
    _run_tui(options, probe_folder=probe_folder)


@app.command()
def export(
    recommendation: Annotated[Path, typer.Argument(help="Folder written by `advisor recommend`.")],
    formats: Formats = "peft", out: Out = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Write a recommendation's config again, to --out, for other tools too."""
    from advisor import workflow

    written = workflow.export_formats(recommendation, _formats(formats), out or recommendation)
    if as_json:
        _print_json({
            name: {"fidelity": rendered.fidelity, "reasons": rendered.reasons, "files": [str(path) for path in paths]}
            for name, (rendered, paths) in written.items()
        })  # fmt: skip
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
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """What the config's tool will really train: exit 0 as intended, 1 surprises, 2 bad input."""
    from advisor.export import FORMATS
    from advisor.verify import verify as verify_config

    if task is not None:
        _check_choice("--task", task, ("classification", "regression", "causal-lm"))
    if format_name is not None:
        _check_choice("--format", format_name, tuple(FORMATS))
    report = verify_config(config, model, task=task, format_name=format_name, trust_remote_code=trust_remote_code)
    if as_json:
        _print_json(report.as_dict())
    else:
        for line in report.lines():
            print(line)
    raise typer.Exit(report.exit_code)


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    data: Data = None, eval_data: EvalData = None, task: Task = "auto", text_column: TextColumn = None,
    label_column: LabelColumn = None, metric: Metric = None, max_length: MaxLength = None,
    runs: Annotated[int, typer.Option("--runs", help="Fine-tunes in all (selections × seeds).")] = 60,
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds a selection.")] = 1,
    workers: Workers = 1,
    ray: Annotated[
        str | None,
        _option(
            CONFIRM, "Workers on a Ray cluster: auto, its address, or local (one started here). Model and data must lie "
            "at the same place on every node, or be hub ids.", "--ray",
        ),
    ] = None,
    eval_rows: Annotated[int, typer.Option("--eval-rows", help="Most evaluation rows.")] = 500,
    rank: Rank = 8, alpha: Alpha = 16, rslora: Rslora = False,
    train_rows: TrainRows = 512, epochs: Epochs = None, lr: Lr = None, batch_size: BatchSize = None,
    pull: Pull = None, pull_always: PullAlways = False,
    device: Device = "auto", dtype: Dtype = "auto", revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False, seed: Seed = 0, out: Out = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Real LoRA fine-tunes over many selections; their results become rows for your own predictions. Resumable."""
    from dataclasses import replace

    from advisor import workflow
    from advisor.calibrate import RUNS_FILE
    from advisor.console import console_session

    if out is None:
        raise BadInput("--out is missing.", "Name a folder for the runs.")
    if pull_always and pull is None:
        raise BadInput("--pull-always needs --pull.", "Add --pull LAMBDA.")
    with console_session() as session:
        source = _source(model, data, eval_data, task, text_column, label_column, metric, max_length, device, dtype,
                         revision, trust_remote_code, seed)  # fmt: skip
        rows_file, count = workflow.calibrate_folder(
            source, _lora(rank, alpha, rslora),
            lambda found: replace(
                _recipe(found, train_rows, epochs, lr, batch_size, session), pull=pull or 0.0, pull_always=pull_always
            ),
            out, session, train_rows=train_rows, runs=runs, seeds=seeds, workers=workers, eval_rows=eval_rows,
            ray=ray,
        )  # fmt: skip
    if as_json:
        _print_json({"rows": count, "file": str(rows_file) if rows_file else None})
    else:
        print(f"{count} rows: {rows_file}" if rows_file else f"Runs: {out / RUNS_FILE}")


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty() and sys.stdout.isatty()


def _run_tui(options: dict[str, Any], **how: Any) -> None:
    """The terminal interface with the options that a command was given."""
    import gc

    gc.disable()  # until the first paint, which comes sooner by a tenth; the app enables it again
    from tui.main import run

    raise typer.Exit(run(options, **how))


# --- from options to engine objects -------------------------------------------------------------------------------


def _source(
    model: str | None, data: str | None, eval_data: str | None, task: str, text_column: list[str] | None,
    label_column: str | None, metric: str | None, max_length: int | None, device: str, dtype: str,
    revision: str | None, trust_remote_code: bool, seed: int,
) -> Source:  # fmt: skip
    from advisor.prepare import Source

    if model is None:
        raise BadInput("MODEL is missing.", "Name a model folder or hub id, or use --demo.")
    if data is None:
        raise BadInput("--data is missing.", "Name a CSV, TSV or JSONL file, a folder, or a hub id.")
    return Source(model, data, eval_data, task, tuple(text_column or ()), label_column, metric, max_length, device,
                  dtype, revision, trust_remote_code, seed)  # fmt: skip


def _lora(rank: int, alpha: float, rslora: bool) -> LoraSettings:
    from advisor.targets import LoraSettings

    return LoraSettings(rank, alpha, rslora)


def _recipe(
    task: str, train_rows: int | None, epochs: int | None, lr: float | None, batch_size: int | None,
    session: Session | None,
) -> TrainingRecipe:  # fmt: skip
    from dataclasses import replace

    from advisor.recipe import default_recipe

    given: dict[str, Any] = {"train_rows": train_rows, "epochs": epochs, "lr": lr, "batch_size": batch_size}
    recipe = replace(default_recipe(task), **{k: v for k, v in given.items() if v is not None})
    if session is not None:
        session.note(
            f"Recipe: {recipe.epochs} epochs, learning rate {recipe.lr:g}, batch size {recipe.batch_size}, "
            f"{'all' if recipe.train_rows is None else recipe.train_rows} training rows."
        )
    return recipe


def _probe_settings(samples: int | None, head: str, method: str, seed: int) -> Any:
    from advisor.probing import ProbeSettings

    return ProbeSettings(samples=samples, head=head, method=method, seed=seed)


def _scorer(
    path: Path, rank: int, alpha: float, rslora: bool, train_rows: int | None, epochs: int | None, lr: float | None,
    batch_size: int | None, kernel: str, sigma: float | None,
) -> Scorer:  # fmt: skip
    from advisor.predictor import Predictor
    from advisor.probe_folder import load_probe
    from advisor.rows import load_rows
    from advisor.scoring import Scorer

    probe = load_probe(path)
    recipe = _recipe(probe.task, train_rows, epochs, lr, batch_size, None)
    _check_kernel(kernel)
    return Scorer(probe, _lora(rank, alpha, rslora), recipe, Predictor().fit(load_rows(), probe.task), kernel=kernel, sigma=sigma)


def _check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadInput(f"{option} {value}: unknown.", f"Use one of {', '.join(allowed)}.")


def _formats(names: str) -> tuple[str, ...]:
    """The formats of a comma-separated list, each once."""
    from advisor.export import FORMATS

    found = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in found:
        _check_choice("--format", name, tuple(FORMATS))
    if not found:
        raise BadInput("--format names no format.", f"Use some of {', '.join(FORMATS)}.")
    return found


def _check_kernel(kernel: str) -> None:
    from advisor.kernels import KERNELS

    _check_choice("--kernel", kernel, KERNELS)


def _read_json_list(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file.", "Give a JSON list of selections.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not readable as JSON: {error}", "Give a JSON list of selections.") from error


def _print_json(value: Any) -> None:
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as error:
        raise NotFinite("A number of the result is not finite.", "Try --dtype float32 or a smaller --lr.") from error
    print(text)


def _print_report(lines: list[str], tables: list[Any], after: list[str]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    for table in tables:
        console.print()
        console.print(table.rich())
    for line in after:
        console.print()
        console.print(line, markup=False, soft_wrap=True)


def main() -> None:
    """Entry point: expected errors become one line on stderr and their exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
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
