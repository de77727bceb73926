"""``advisor.probe`` and ``advisor.recommend``: the commands of these names, for scripts and notebooks.

Every option of a command is an argument of the same name and default; the commands call these functions. What is heavy is
imported when they are called.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.choices import AUTO, AUTO_BASE, GRANULARITIES, PREDICTED, STRATEGIES
from advisor.core.errors import BadInput, Interrupted, check_choice

if TYPE_CHECKING:
    from advisor.core.events import Session
    from advisor.core.targets import LoraSettings
    from advisor.models.prepare import Source
    from advisor.results import ProbeResult, Recommended


def probe(
    model: str | os.PathLike[str],
    data: Any = None,
    *,
    eval_data: Any = None,
    task: str = "auto",
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    metric: str | None = None,
    max_length: int | None = None,
    samples: int | None = None,
    head: str = "probed",
    method: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
    recompute: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    session: Session | None = None,
) -> ProbeResult:
    """Probe ``model`` on ``data``; an interrupted probe resumes, a finished one is read again.

    Args:
        model: folder or hub id.
        data, eval_data: a file, folder or hub id; or rows: a ``datasets.Dataset`` or ``DatasetDict``, a pandas
            ``DataFrame``, or a list of dictionaries.
        out: the probe's folder; None: in the user's cache, where ``recommend`` finds it too.
        session: gets progress, notes and warnings; None: they are shown on stderr or in the notebook.
        The others are the options of ``advisor probe``, see docs/commands.md.

    Raises:
        AdvisorError: see :mod:`advisor.core.errors`.
        KeyboardInterrupt: stopped, once the pass at hand is done; what is finished is kept.
    """
    with _shown(session) as session:
        source = source_of(
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
        from advisor import probe_cache
        from advisor.probing.run import ProbeSettings, run_probe
        from advisor.results import ProbeResult

        settings = ProbeSettings(samples=samples, head=head, method=method, seed=seed, recompute=recompute)
        prepared = probe_cache.prepare_for_probe(source, session, samples)
        folder = probe_cache.cache_folder(prepared, settings) if out is None else Path(out)
        return ProbeResult(folder, run_probe(prepared, settings, folder, session))


def recommend(
    model: str | os.PathLike[str] | None = None,
    data: Any = None,
    *,
    eval_data: Any = None,
    task: str = "auto",
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    metric: str | None = None,
    max_length: int | None = None,
    budget: str = "25%",
    granularity: str = "module",
    strategy: str = PREDICTED,
    baseline: str | os.PathLike[str] | None = None,
    demo: bool = False,
    rank: int | str = 8,
    alpha: float = 16,
    rslora: bool = False,
    train_rows: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    confirm: int = 0,
    confirm_rows: int | None = None,
    workers: int = 1,
    samples: int | None = None,
    head: str = "probed",
    method: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
    recompute: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    kernel: str = "adam",
    sigma: float | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    format: str | Sequence[str] = "peft",
    session: Session | None = None,
) -> Recommended:
    """Probe ``model`` on ``data``, recommend target modules under ``budget``, and write the folder ``out``.

    Args:
        model, data, eval_data, session: as :func:`probe` takes them; or ``model`` is the folder of a probe, which says the
            rest that :func:`probe` asks for.
        out: the recommendation's folder; None: ``recommendation``.
        format: names of formats, in a list or separated by commas.
        The others are the options of ``advisor recommend``, see docs/commands.md.

    Raises:
        AdvisorError: see :mod:`advisor.core.errors`.
        KeyboardInterrupt: stopped, once the pass or the real run at hand is done; what is finished is kept.
    """
    given = dict(locals())
    with _shown(session) as session:
        from advisor.advice.budget import parse_budget
        from advisor.theory.kernels import KERNELS

        parsed, names = parse_budget(budget), format_names(format)
        check_choice("--granularity", granularity, GRANULARITIES)
        check_choice("--strategy", strategy, tuple(STRATEGIES))
        check_choice("--kernel", kernel, KERNELS)
        if confirm and strategy != PREDICTED:
            raise BadInput(f"--confirm corrects predictions, --strategy {strategy} does not pick by them.", "Leave one out.")
        if confirm_rows is not None and not confirm:
            raise BadInput("--confirm-rows needs --confirm.", "Add --confirm N.")
        settings = lora_settings(rank, alpha, rslora)
        from advisor import probe_cache, real_runs, workflow
        from advisor.core.probe import load_probe
        from advisor.core.recipe import recipe_for
        from advisor.core.store import is_probe
        from advisor.export.baseline import read_baseline
        from advisor.probing.run import ProbeSettings, run_probe

        if demo:
            if model is not None or data is not None:
                raise BadInput("--demo brings its own model and data.", "Leave out --demo, or MODEL and --data.")
            model, data = probe_cache.demo_inputs()
            session.note("Demo: the embedded MiniLM, and topics of this Python's standard-library docstrings.")
        probed = Path(model) if isinstance(model, str | os.PathLike) and is_probe(Path(model)) else None
        if probed is not None:
            _refuse_beside_probe(given, probed)
            source, how = probe_cache.made_from(load_probe(probed), trust_remote_code)
        else:
            source = source_of(
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
            how = ProbeSettings(samples=samples, head=head, method=method, seed=seed, recompute=recompute)
        plan = real_runs.ConfirmSettings(confirm, confirm_rows, workers) if confirm else None
        folder = Path("recommendation" if out is None else out)
        workflow.require_place(folder)
        prepared = probe_cache.prepare_for_probe(source, session, how.samples)
        if confirm:
            prepared.loaded.require_in_memory()
        recipe = recipe_for(prepared.loaded.task, train_rows, epochs, lr, batch_size)
        session.note(f"Recipe: {recipe}.")
        found = probe_cache.probe_cached(prepared, how, session) if probed is None else run_probe(prepared, how, probed, session)
        own = None if baseline is None else read_baseline(Path(baseline), found, trust_remote_code)
        return workflow.recommend_folder(
            found,
            settings,
            recipe,
            parsed,
            session,
            out=folder,
            granularity=granularity,
            strategy=strategy,
            baseline=own,
            kernel=kernel,
            sigma=sigma,
            seed=seed,
            trust_remote_code=trust_remote_code,
            linearity_of=workflow.measure_pick(prepared, how, settings, session),
            confirmation_of=None if plan is None else real_runs.confirm_in(folder, source, prepared.made_of, plan, session),
            own_ranks=rank == AUTO,
            formats=names,
        )


def _refuse_beside_probe(given: dict[str, Any], folder: Path) -> None:
    """What a probe has decided cannot be asked for beside it.

    Raises:
        BadInput: there is such an option; names it.
    """
    free = {"model", "seed", "out", "session", "trust_remote_code"}  # the seed is the search's, trust the user's
    decided = signature(probe).parameters.keys() - free
    defaults = signature(recommend).parameters
    named = [f"--{name.replace('_', '-')}" for name in defaults if name in decided and given[name] != defaults[name].default]
    if named:
        raise BadInput(f"{folder} is a probe, made with its own {', '.join(named)}.", "Leave these out, or name the model.")


def source_of(
    model: str | os.PathLike[str] | None,
    data: Any,
    eval_data: Any,
    task: str,
    text_column: str | Sequence[str] | None,
    label_column: str | None,
    metric: str | None,
    max_length: int | None,
    device: str,
    dtype: str,
    revision: str | None,
    trust_remote_code: bool,
    seed: int,
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
) -> Source:
    """What the options name, as plain values.

    Raises:
        BadInput: model or data is missing, an object cannot be read, or both sizes of quantised weights are asked for.
    """
    if load_in_4bit and load_in_8bit:
        raise BadInput("--load-in-4bit and --load-in-8bit: weights can only have one size.", "Leave one out.")
    if model is None:
        raise BadInput("MODEL is missing.", "Name a model folder or hub id, or use --demo.")
    if data is None:
        raise BadInput("--data is missing.", "Name a CSV, TSV or JSONL file, a folder, or a hub id.")
    if not isinstance(model, str | os.PathLike):
        raise BadInput(
            f"The model is a {type(model).__name__}, not the name of one. The advisor loads it itself, several times: to see "
            "whether its head is trained, to prove the config, in the workers of real runs.",
            f"Give its folder or hub id ({getattr(model, 'name_or_path', '') or 'its name_or_path'}), or save model and "
            "tokenizer with save_pretrained and give that folder.",
        )
    from advisor.data.in_memory import data_place
    from advisor.models.prepare import Source

    columns = (text_column,) if isinstance(text_column, str) else tuple(text_column or ())
    return Source(
        os.fspath(model),
        data_place(data),
        None if eval_data is None else data_place(eval_data),
        task,
        columns,
        label_column,
        metric,
        max_length,
        device,
        dtype,
        revision,
        trust_remote_code,
        seed,
        "4bit" if load_in_4bit else "8bit" if load_in_8bit else None,
    )


def lora_settings(rank: int | str, alpha: float, rslora: bool) -> LoraSettings:
    """Common rank and alpha; for rank ``auto`` those that its budget is counted at."""
    from advisor.core.targets import LoraSettings

    try:
        number = AUTO_BASE if rank == AUTO else int(rank)
    except ValueError:
        raise BadInput(f"--rank {rank}: not a whole number.", "Give one of 1 or more, or auto.") from None
    return LoraSettings(number, float(alpha), rslora)


def format_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Formats of a list, or of a text with commas, each once.

    Raises:
        BadInput: an unknown one, or none.
    """
    from advisor.export import FORMATS

    listed = names.split(",") if isinstance(names, str) else names
    found = tuple(dict.fromkeys(name.strip() for name in listed if name.strip()))
    for name in found:
        check_choice("--format", name, tuple(FORMATS))
    if not found:
        raise BadInput("--format names no format.", f"Use some of {', '.join(FORMATS)}.")
    return found


@contextmanager
def _shown(session: Session | None) -> Iterator[Session]:
    """The session given, or one that shows its events and in which Ctrl-C, or a notebook's stop button, stops the work."""
    if session is not None:
        yield session
        return
    from advisor.report.console import console_session

    with console_session() as shown:
        try:
            yield shown
        except Interrupted as error:
            raise KeyboardInterrupt(str(error)) from None
