"""``advisor.probe`` and ``advisor.recommend``: the commands of these names, for scripts and notebooks.

Every option of a command is an argument of the same name and default (:mod:`advisor.core.options`); the commands call these
functions. What is heavy is imported when they are called.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from advisor.core import option_groups, options
from advisor.core.choices import AUTO, AUTO_BASE
from advisor.core.errors import BadInput, Interrupted
from advisor.core.option import shared, values

if TYPE_CHECKING:
    from advisor import workflow
    from advisor.core.candidate import Candidate
    from advisor.core.events import Session
    from advisor.core.recipe import TrainingRecipe
    from advisor.core.targets import LoraSettings
    from advisor.models.prepare import Prepared, Source
    from advisor.probing.settings import ProbeSettings
    from advisor.results import ProbeResult, Recommended

P = ParamSpec("P")
Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class ProbeArguments(options.Called, options.Probe):
    """Arguments of :func:`probe`."""


@dataclass(frozen=True, kw_only=True)
class RecommendArguments(options.Called, options.Recommend):
    """Arguments of :func:`recommend`."""


def takes(arguments: Callable[P, Given]) -> Callable[[Callable[[Given], Result]], Callable[P, Result]]:
    """A function of one object of a class becomes one of the arguments of that class, which ``inspect`` and type checkers see."""
    signature = inspect.signature(arguments)

    def decorate(function: Callable[[Given], Result]) -> Callable[P, Result]:
        @wraps(function)
        def call(*given: P.args, **named: P.kwargs) -> Result:
            try:
                signature.bind(*given, **named)
            except TypeError as error:
                raise TypeError(f"{function.__name__}(): {error}{_meant(named, signature)}") from None
            return function(arguments(*given, **named))

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate


def _meant(named: Mapping[str, object], signature: inspect.Signature) -> str:
    """The argument that a misspelt name comes nearest to."""
    unknown = [name for name in named if name not in signature.parameters]
    near = [(name, meant) for name in unknown for meant in get_close_matches(name, signature.parameters)]
    return f"; is {near[0][0]!r} meant to be {near[0][1]!r}?" if near else ""


@takes(ProbeArguments)
def probe(given: ProbeArguments) -> ProbeResult:
    """Probe ``model`` on ``data``; an interrupted probe resumes, a finished one is read again.

    Args:
        model: folder or hub id.
        data, eval_data, keep: a file, folder or hub id; or rows: a ``datasets.Dataset`` or ``DatasetDict``, a pandas
            ``DataFrame``, or a list of dictionaries.
        out: the probe's folder; None: in the user's cache, where ``recommend`` finds it too.
        session: gets progress, notes and warnings; None: they are shown on stderr or in the notebook.
        The others are the options of ``advisor probe``, see docs/commands.md.

    Raises:
        AdvisorError: see :mod:`advisor.core.errors`.
        KeyboardInterrupt: stopped, once the pass at hand is done; what is finished is kept.
    """
    with _shown(given.session) as session:
        source, settings = source_of(given), probe_settings(given)  # before torch is imported, which takes seconds
        from advisor import probe_cache
        from advisor.probing.run import run_probe
        from advisor.probing.usual_torch import usual_torch
        from advisor.results import ProbeResult

        with usual_torch():
            prepared = with_kept_rows(probe_cache.prepare_for_probe(source, session, settings.samples), given, session)
            if given.out is None:
                found = probe_cache.probe_cached(prepared, settings, session)
                return ProbeResult(probe_cache.cache_folder(prepared, settings), found)
            return ProbeResult(Path(given.out), run_probe(prepared, settings, Path(given.out), session))


@takes(RecommendArguments)
def recommend(given: RecommendArguments) -> Recommended:
    """Probe ``model`` on ``data``, recommend target modules under ``budget``, and write the folder ``out``.

    Args:
        model, data, eval_data, keep, session: as :func:`probe` takes them; or ``model`` is the folder of a probe, which says the
            rest that :func:`probe` asks for.
        out: the recommendation's folder; None: ``recommendation``.
        format: names of formats, in a list or separated by commas.
        The others are the options of ``advisor recommend``, see docs/commands.md.

    Raises:
        AdvisorError: see :mod:`advisor.core.errors`.
        KeyboardInterrupt: stopped, once the pass or the real run at hand is done; what is finished is kept.
    """
    from advisor import probe_cache, real_runs, workflow
    from advisor.advice.gentle import require_ranks
    from advisor.core.probe import load_probe
    from advisor.core.recipe import recipe_for
    from advisor.export.baseline import read_baseline
    from advisor.probing.run import run_probe
    from advisor.probing.usual_torch import usual_torch

    with _shown(given.session) as session, usual_torch():
        if given.demo:
            model, data = probe_cache.demo_inputs()
            given = replace(given, demo=False, model=model, data=data)
            session.note("Demo: the embedded MiniLM, and topics of this Python's standard-library docstrings.")
        if (probed := options.probe_of(given)) is not None:
            source, how = probe_cache.made_from(load_probe(probed), given.trust_remote_code)
        else:
            source, how = source_of(given), probe_settings(given)
        settings = lora_settings(given)
        folder = options.out_of(given, "recommendation")
        workflow.require_place(folder)
        if given.max_forgetting is not None and given.keep is None and (probed is None or load_probe(probed).keep is None):
            raise BadInput("--max-forgetting needs rows to keep.", "Add --keep, or name a probe that was made with it.")
        read = probe_cache.prepare_for_probe if probed is None else probe_cache.prepare_again
        prepared = read(source, session, how.samples)
        if given.max_forgetting is not None:
            require_ranks(prepared.train.schema.task)
        prepared = with_kept_rows(prepared, given, session)
        if given.real_runs:
            prepared.loaded.require_in_memory()
        recipe = recipe_for(prepared.train.schema.task, **values(given, option_groups.Recipe))
        schema = prepared.train.schema
        columns = ", ".join(schema.text_columns) + (f" → {schema.label_column}" if schema.label_column else "")
        session.note(f"Read as {schema.task}: {columns}; metric {schema.metric}. Recipe: {recipe}.", brief=True)
        found = probe_cache.probe_cached(prepared, how, session) if probed is None else run_probe(prepared, how, probed, session)
        own = None if given.baseline is None else read_baseline(Path(given.baseline), found, given.trust_remote_code)
        return workflow.recommend_folder(
            found,
            _question(given, settings, recipe, own),
            session,
            folder,
            linearity_of=workflow.measure_pick(prepared, how, settings, session) if given.linearity else None,
            confirmation_of=real_runs.confirm_in(folder, prepared, given, session) if given.real_runs else None,
        )


def _question(
    given: options.Recommend, settings: LoraSettings, recipe: TrainingRecipe, baseline: Candidate | None
) -> workflow.Question:
    """What is to be decided, from the options and what was made of some of them."""
    from advisor import workflow
    from advisor.advice.budget import parse_budget

    return workflow.Question(
        settings,
        recipe,
        parse_budget(given.budget),
        granularity=given.granularity,
        strategy=given.strategy,
        baseline=baseline,
        kernel=given.kernel,
        sigma=given.sigma,
        seed=given.seed,
        trust_remote_code=given.trust_remote_code,
        formats=given.formats,
        own_ranks=given.rank == AUTO,
        max_forgetting=given.max_forgetting,
    )


def with_kept_rows(prepared: Prepared, given: option_groups.Keep, session: Session) -> Prepared:
    """With the rows to keep, where any are named."""
    if given.keep is None:
        return prepared
    from advisor.data.in_memory import data_place
    from advisor.models.prepare import with_kept

    return with_kept(prepared, data_place(given.keep), session)


def source_of(given: option_groups.ModelAndData) -> Source:
    """What the options name, as plain values.

    Raises:
        BadInput: model or data is missing, or an object cannot be read.
    """
    if given.model is None:
        raise BadInput("MODEL is missing.", "Name a model folder or hub id, or use --demo.")
    if not isinstance(given.model, str | os.PathLike):
        from advisor.results import ProbeResult

        if isinstance(given.model, ProbeResult):
            raise BadInput("The model is a probe's result, not the name of a model.", f"Give its folder, {given.model.folder}.")
        raise BadInput(
            f"The model is a {type(given.model).__name__}, not the name of one. The advisor loads it itself, several times: to "
            "see whether its head is trained, to prove the config, in the workers of real runs.",
            f"Give its folder or hub id ({getattr(given.model, 'name_or_path', '') or 'its name_or_path'}), or save model and "
            "tokenizer with save_pretrained and give that folder.",
        )
    if given.data is None:
        raise BadInput("--data is missing.", "Name a CSV, TSV or JSONL file, a folder, or a hub id.")
    from advisor.data.in_memory import data_place
    from advisor.models.prepare import Source

    places = {
        "model": os.fspath(given.model),
        "data": data_place(given.data),
        "eval_data": None if given.eval_data is None else data_place(given.eval_data),
    }
    quantised = "4bit" if given.load_in_4bit else "8bit" if given.load_in_8bit else None
    return Source(**{**shared(given, Source), **places}, text_columns=given.text_columns, quantised=quantised)


def probe_settings(given: options.Probe | options.Recommend | options.Terminal) -> ProbeSettings:
    """How to probe."""
    from advisor.probing.settings import ProbeSettings

    return ProbeSettings(**shared(given, ProbeSettings))


def lora_settings(given: option_groups.Lora) -> LoraSettings:
    """Common rank and alpha; for rank ``auto`` those that its budget is counted at."""
    from advisor.core.targets import LoraSettings

    settings = values(given, option_groups.Lora)
    return LoraSettings(**{**settings, "rank": AUTO_BASE if settings["rank"] == AUTO else settings["rank"]})


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
