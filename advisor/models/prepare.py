"""Model and data, loaded, split and tokenised: where every command that touches a model begins."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch

from advisor.core.choices import LANGUAGE
from advisor.core.errors import BadInput
from advisor.core.events import Note, Session, Warn
from advisor.core.probe import FOLDS
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.tasks import COMPARED, KTO, OF_TOKENS, outputs_of
from advisor.data.dataset import Dataset, load_dataset, only_read, overlap, require_both_marks, sample_rows, split_evaluation
from advisor.data.schema import Schema
from advisor.data.tables import has_evaluation
from advisor.models.config import language_task_of, load_config, sees
from advisor.models.encode import EncodedRow, encode, resolve_max_length
from advisor.models.identity import model_fingerprint
from advisor.models.load import LoadedModel, load_model
from advisor.models.placement import pick_device, pick_dtype, stored_dtype

KEPT_ROWS = 64  # reference rows that are probed
OF_DATA = re.compile(r"--(task|text-column|label-column|metric)\b")  # options that say how the training data are read
READ_BY_ALL = "prompt and completion, or messages"  # columns that are known by their names
READ_TO_KEEP = {"causal-lm": f"text, {READ_BY_ALL}", "seq2seq": READ_BY_ALL}


@dataclass(frozen=True)
class Source:
    """What the user pointed at: plain values, so that it travels to worker processes.

    ``seed`` draws the evaluation split, row samples and a new head's weights; ``quantised`` is ``4bit`` or ``8bit``;
    ``adapt`` which parts of a model of images and text have targets.
    """

    model: str
    data: str
    eval_data: str | None = None
    task: str = "auto"
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    metric: str | None = None
    max_length: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    seed: int = 0
    quantised: str | None = None
    adapt: str = LANGUAGE

    def as_dict(self) -> dict[str, Any]:
        """Its fields; ``adapt`` where it is not what it was before there was a choice."""
        return {key: value for key, value in asdict(self).items() if key != "adapt" or value != LANGUAGE}


@dataclass(frozen=True)
class Kept:
    """A sample of the rows that the model should keep doing well; ``fingerprint`` identifies all of them."""

    data: Dataset
    fingerprint: str


@dataclass(frozen=True)
class WithModel:
    """The model, and the rows as it reads them; a row that was dropped in tokenising is missing. ``said``: notes and warnings."""

    loaded: LoadedModel
    train_rows: list[EncodedRow]
    eval_rows: list[EncodedRow]
    max_length: int
    said: tuple[Note | Warn, ...]


@dataclass(frozen=True)
class Prepared:
    """Training and evaluation data, and a model that is loaded, with tokenised rows, when it is first asked for.

    ``train`` and ``evaluation`` are the datasets the rows come from. ``available_rows`` is how many training rows the source has
    (an estimate where a large file was sampled). ``made_of`` identifies what was prepared, wherever it lies:
    ``model_fingerprint`` of all the model's files, ``data_fingerprint`` and ``eval_fingerprint`` of all rows, those that were
    not sampled too. ``revision``: of a hub model. ``stored``: what its config says its weights are in. ``load`` raises BadInput
    where the model cannot be used. ``kept``: see :func:`with_kept`.
    """

    source: Source
    train: Dataset
    evaluation: Dataset
    available_rows: int
    made_of: Mapping[str, str]
    revision: str | None
    load: Callable[[], WithModel]
    stored: torch.dtype | None = None
    kept: Kept | None = None

    @cached_property
    def with_model(self) -> WithModel:
        return self.load()

    @property
    def loaded(self) -> LoadedModel:
        return self.with_model.loaded

    @property
    def train_rows(self) -> list[EncodedRow]:
        return self.with_model.train_rows

    @property
    def eval_rows(self) -> list[EncodedRow]:
        return self.with_model.eval_rows

    @property
    def max_length(self) -> int:
        return self.with_model.max_length

    @property
    def dtype(self) -> str:
        """Of the weights, as it was asked for, without loading them."""
        return str(pick_dtype(self.source.dtype, pick_device(self.source.device), self.stored)).removeprefix("torch.")


def read_data(
    source: Source, session: Session, language: str = "causal-lm", with_images: bool = False
) -> tuple[Dataset, Dataset]:
    """Training and evaluation data; ``language`` is the model's own language task, where the data leave that open, and
    ``with_images`` says whether it reads images beside texts.

    Evaluation is ``eval_data``; else the validation (else test) part of the folder or hub data set; else a seeded,
    stratified 10 % split off.

    Raises:
        BadInput: see :func:`advisor.data.dataset.load_dataset`; or there are fewer training rows than folds.
    """
    train = load_dataset(
        source.data,
        task=source.task,
        text_columns=source.text_columns,
        label_column=source.label_column,
        metric=source.metric,
        language=language,
        sees=with_images,
        seed=source.seed,
    )
    for note in train.notes:
        session.note(note)
    place = source.eval_data
    if place is None and has_evaluation(source.data):
        place = source.data
    if place is None:
        train, evaluation = split_evaluation(train, source.seed)
        session.note(f"Evaluation: {len(evaluation.examples)} rows split off {train.source} (seed {source.seed}).")
        if train.schema.task == KTO:
            require_both_marks([e.label for e in evaluation.examples], f"{train.source}, the evaluation rows split off it")
    else:
        evaluation = load_dataset(place, like=train.schema, sees=with_images, seed=source.seed)
        session.note(f"Evaluation: {len(evaluation.examples)} rows of {evaluation.source}.")
        for note in evaluation.notes:
            session.note(f"Evaluation data: {note}", brief=True)
    _require_enough(len(train.examples), train.source)
    if both := overlap(train, evaluation):
        session.warn(
            f"{both} of {len(evaluation.examples)} evaluation rows also appear in the training data, "
            "so scores will be optimistic."
        )
    return train, evaluation


def _require_enough(rows: int, of: str) -> None:
    """Raises:
    BadInput: there are fewer training rows than folds.
    """
    if rows < FOLDS:
        raise BadInput(f"{of} has {rows} usable {'row' if rows == 1 else 'rows'} to train on.", f"Give {FOLDS} at the least.")


def prepare(
    source: Source,
    session: Session,
    *,
    train_limit: int | Callable[[Schema], int] | None = None,
    eval_limit: int | None = None,
) -> Prepared:
    """Read the data that ``source`` names, at most the given numbers of rows, and load the model when it is asked for.

    ``train_limit`` may depend on what the data turned out to be; ``eval_limit`` 0 leaves evaluation untokenised.

    Raises:
        BadInput: the data cannot be used, or a file of the model cannot be read.
    """
    config, with_images = None, False
    try:
        config = load_config(source.model, {"trust_remote_code": source.trust_remote_code, "revision": source.revision})
        language, with_images = language_task_of(config), sees(config)
    except BadInput:  # loading the model says so, after what is wrong with the data
        language = "causal-lm"
    train, evaluation = read_data(source, session, language, with_images)
    available_rows = train.rows_there
    schema = train.schema
    made_of = {"data_fingerprint": train.fingerprint, "eval_fingerprint": evaluation.fingerprint}
    if train_limit is not None:
        count = train_limit(schema) if callable(train_limit) else train_limit
        train = sample_rows(train, count, source.seed)
    if eval_limit:
        evaluation = sample_rows(evaluation, eval_limit, source.seed)
    revision = getattr(config, "_commit_hash", None)

    def load() -> WithModel:
        return _with_model(source, train, evaluation, eval_limit != 0, session)

    try:
        fingerprint = model_fingerprint(source.model, revision, source.quantised)
    except BadInput:
        load()  # says what is wrong with the model as well as it can
        raise
    made_of = {"model_fingerprint": fingerprint, **made_of}
    return Prepared(source, train, evaluation, available_rows, made_of, revision, load, stored_dtype(config))


def _with_model(source: Source, train: Dataset, evaluation: Dataset, encode_evaluation: bool, session: Session) -> WithModel:
    said: list[Note | Warn] = []

    def say(event: Note | Warn) -> None:
        said.append(event)
        session.emit(event)

    loaded = load_model(
        source.model,
        train.schema.task,
        num_labels=outputs_of(train.schema.task, len(train.schema.class_names)),
        device=source.device,
        dtype=source.dtype,
        revision=source.revision,
        trust_remote_code=source.trust_remote_code,
        quantised=source.quantised,
        adapt=source.adapt,
        seed=source.seed,
    )
    for number, text in enumerate(loaded.notes):
        # All but the first say what is left out, or what to keep in mind while training.
        say(Note(text, brief=number > 0, left_out=text in loaded.left_out))
    for text in loaded.warnings:
        say(Warn(text))
    max_length = resolve_max_length(source.max_length, loaded)
    train_rows, notes = encode(train, loaded, max_length)
    _require_enough(len(train_rows), f"{train.source}, within {max_length} tokens,")
    for note in notes:
        say(Note(f"Training data: {note}", brief=True))
    eval_rows: list[EncodedRow] = []
    if encode_evaluation:
        eval_rows, notes = encode(evaluation, loaded, max_length)
        for note in notes:
            say(Note(f"Evaluation data: {note}", brief=True))
    for rows, data in ((train_rows, train), (eval_rows, evaluation)) if loaded.task == KTO else ():
        require_both_marks([row.label for row in rows], f"{data.source}, within {max_length} tokens")
    return WithModel(loaded, train_rows, eval_rows, max_length, tuple(said))


def with_kept(prepared: Prepared, place: str, session: Session) -> Prepared:
    """The same with rows that the model should keep doing well; a sample of ``KEPT_ROWS``, read by columns of their own.

    A classifier or regressor only reads them, so that they may be of any task.

    Raises:
        BadInput: they cannot be read, or nothing is predicted of such rows for the task.
    """
    own, seed = prepared.train.schema.task, prepared.source.seed
    if own in (*OF_TOKENS, *COMPARED):
        raise BadInput(
            f"--keep: the task is {own}, for which nothing is predicted of rows to keep.",
            "Leave it out. Classification, regression, causal-lm and seq2seq have it.",
        )
    task = own if own in LANGUAGE_TASKS else "auto"
    try:
        source = prepared.source
        config = load_config(source.model, {"trust_remote_code": source.trust_remote_code, "revision": source.revision})
        language = own if own in LANGUAGE_TASKS else "causal-lm"
        data = load_dataset(place, task=task, language=language, sees=sees(config), seed=seed)
    except BadInput as error:
        hint = f"Give rows of {READ_TO_KEEP.get(own, READ_BY_ALL)} as --keep." if OF_DATA.search(error.hint) else error.hint
        raise BadInput(f"Rows to keep: {error.what}", hint.replace("--data", "--keep")) from error
    sample = sample_rows(data, KEPT_ROWS, seed)
    if own not in LANGUAGE_TASKS:
        sample = only_read(sample)
    session.note(f"To keep: {len(sample.examples)} rows of {data.source}.")
    return replace(prepared, kept=Kept(sample, data.fingerprint))
