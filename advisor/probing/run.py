"""The probe: one streaming pass over a sample of the user's data gives the kernel blocks of every module."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advisor.core.choices import LANGUAGE
from advisor.core.errors import BadInput, NotFinite
from advisor.core.events import Note, Session, Warn
from advisor.core.folders import locked, sweep
from advisor.core.probe import (
    BLOCKS_FILE,
    HeadBlock,
    Probe,
    load_probe,
    require_finite_blocks,
    save_info,
    save_probe,
    stratified_folds,
)
from advisor.core.reading import check_seal, sealed
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.core.selections import ALL_LINEAR, QV, target_sets
from advisor.core.store import PROBE_FILE, is_probe, read_json, write_json, writing
from advisor.core.targets import LoraSettings, Selection
from advisor.core.tasks import EMBEDDING, SPANS, TOKENS
from advisor.core.version import __version__
from advisor.data.dataset import sample_rows
from advisor.models.embedding import batches_of, longest_text
from advisor.models.encode import EncodedRow, encode
from advisor.models.head_input import first_linear, head_linears
from advisor.models.load import LoadedModel
from advisor.models.prepare import Kept, Prepared, Source
from advisor.probing import gram
from advisor.probing.contrast import with_pulls
from advisor.probing.counted import counted_loss, mean_of_tokens
from advisor.probing.footprint import measure_training
from advisor.probing.head import (
    HeadFit,
    fit_head,
    fresh_head_gradient,
    head_features,
    head_labels,
    install_head,
    last_linear,
    layer_inputs,
)
from advisor.probing.head_alone import HeadRun, train_head_alone
from advisor.probing.keep import beside, keep_blocks
from advisor.probing.linear_check import check_linearity, few_rows, scale_of, uncopyable
from advisor.probing.method import choose_method, estimate_error, probed_layers
from advisor.probing.outputs import Outputs, loss_slope, make_outputs, residual, targets_of
from advisor.probing.peer_scores import measure_peers
from advisor.probing.settings import ProbeSettings, probe_samples
from advisor.probing.span_head import fit_span_head, fresh_span_gradient
from advisor.probing.spool import Spool
from advisor.theory.linearity import Linearity

PARTIAL = ".advisor-partial"  # in the probe's folder: what is kept of a probe that is not finished
MOST_SPANS = 128  # rows that a linear probe for the ends of spans is fitted to
COUNTED = ("causal-lm", "seq2seq")  # tasks whose loss is of the next token
MOST_WORDS = 4096  # that the head's linear probe is fitted to
LINEARITY_OF = (ALL_LINEAR, QV)  # the target sets whose linearity a probe stores


def probe_identity(prepared: Prepared, settings: ProbeSettings) -> dict[str, Any]:
    """What must agree for one probe to stand for another: weights, data, settings, and rows to keep where any are named."""
    dtype = str(prepared.loaded.dtype).removeprefix("torch.")
    return {**_asked_identity(prepared, settings), "max_length": prepared.max_length, "dtype": dtype}


def _asked_identity(prepared: Prepared, settings: ProbeSettings) -> dict[str, Any]:
    """As much of it as is known without the model."""
    kept = {} if prepared.kept is None else {"keep_fingerprint": prepared.kept.fingerprint}
    return {
        **kept,
        **_usual_length(prepared),
        "model_fingerprint": prepared.made_of["model_fingerprint"],
        "data_fingerprint": prepared.made_of["data_fingerprint"],
        "settings": {key: value for key, value in asdict(settings).items() if key != "recompute"} | _parts(prepared.source),
    }


def _usual_length(prepared: Prepared) -> dict[str, int | None]:
    """At how many tokens texts to be embedded are cut where the user does not say."""
    source = prepared.source
    if prepared.train.schema.task != EMBEDDING or source.max_length is not None:
        return {}
    return {"usual_length": longest_text(source.model, {"revision": source.revision})}


def _parts(source: Source) -> dict[str, str]:
    """Which parts of a model of images and text have targets, where it is another choice than the usual one."""
    return {} if source.adapt == LANGUAGE else {"adapt": source.adapt}


def cache_key(prepared: Prepared, settings: ProbeSettings) -> str:
    """Of what was asked for, without the model: two that agree in it have the same :func:`probe_identity`."""
    asked = {**_asked_identity(prepared, settings), "max_length": prepared.source.max_length, "dtype": prepared.dtype}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]


def run_probe(prepared: Prepared, settings: ProbeSettings, folder: Path, session: Session) -> Probe:
    """Probe ``prepared`` into ``folder``, or load what is already there, or resume what was interrupted.

    The weights of a new head change: ``--head probed`` installs the fitted one in ``prepared.loaded``.

    Raises:
        BadInput: ``folder`` holds a probe of something else, or cannot be written to.
        NotFinite: NaN or infinity; names the module.
        OutOfMemory: not even one row fits.
        Interrupted: cancelled; finished micro-batches and modules are kept.
    """
    if not is_probe(folder):
        with locked(folder, session):
            if not is_probe(folder):  # another process may have made it meanwhile
                return _new_probe(prepared, settings, folder, probe_identity(prepared, settings), session)
    probe = load_probe(folder)
    identity = probe.info.get("identity") or {}
    _check_identity(identity, _asked_identity(prepared, settings), folder)
    if not _asked_alike(probe, prepared):
        _check_identity(identity, probe_identity(prepared, settings), folder)
    probe = _where_it_lies_now(probe, prepared, folder)
    sweep(folder, PARTIAL)
    for said in probe.info.get("said", ()):
        note = Note(said["text"], said["brief"], said.get("left_out", False))
        session.emit(Warn(said["text"]) if said["warning"] else note)
    session.note(f"Probe found in {folder}; nothing to compute.")
    return probe


def _asked_alike(probe: Probe, prepared: Prepared) -> bool:
    """Whether length and type of the weights need not be looked up in the model: the probe's were asked for in the same words."""
    asked, dtype = probe.info.get("source") or {}, (probe.info.get("identity") or {}).get("dtype")
    return "max_length" in asked and asked["max_length"] == prepared.source.max_length and dtype == prepared.dtype


def _new_probe(prepared: Prepared, settings: ProbeSettings, folder: Path, identity: dict[str, Any], session: Session) -> Probe:
    """Probe into ``folder``. All that is not whole lies in a folder of its own there, from which it is moved at the end."""
    partial = folder / PARTIAL
    kept = identity.get("keep_fingerprint")  # None is another one than any
    # Sketches of two kinds of device do not go together.
    begun = {**identity, "keep_fingerprint": kept, "device": prepared.loaded.device.type}
    if (found := _begun(partial / "identity.json", session)) is not None:
        _check_identity(found, begun, folder)
        session.note(f"Resuming the interrupted probe in {folder}.")
    elif os.path.lexists(folder / BLOCKS_FILE):
        raise BadInput(f"{folder / BLOCKS_FILE}: is there already, and belongs to no probe.", "Choose another --out.")
    with writing(partial):
        partial.mkdir(exist_ok=True)
        for cut_off in partial.glob(".*"):
            cut_off.unlink()
    write_json(partial / "identity.json", sealed(begun))
    try:
        probe = _probe(prepared, settings, partial, identity, session)
    except NotFinite:
        shutil.rmtree(partial)  # resumed, it would end there again
        raise
    save_probe(probe, partial)
    with writing(folder):
        for name in (BLOCKS_FILE, PROBE_FILE):
            os.replace(partial / name, folder / name)
    shutil.rmtree(partial, ignore_errors=True)
    return probe


def _begun(path: Path, session: Session) -> dict[str, Any] | None:
    """What an interrupted probe was of; None where there is none. If that cannot be read, its files are removed."""
    if not path.exists():
        return None
    try:
        found = read_json(path, "interrupted probe")
        check_seal(found, str(path), "")
    except BadInput as error:
        session.warn(f"{error.what} The interrupted probe is begun anew.")
        shutil.rmtree(path.parent)
        return None
    return found


def _where_it_lies_now(probe: Probe, prepared: Prepared, folder: Path) -> Probe:
    """The probe with the names that model and data were found under, which may have moved; the folder follows."""
    now = json.loads(json.dumps(_place(prepared)))
    if now.items() <= probe.info.items():
        return probe
    moved = replace(probe, info={**probe.info, **now})
    with suppress(BadInput):  # reading needs no right to write
        save_info(moved, folder)
    return moved


def _check_identity(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    different = [key for key in wanted if found.get(key) != json.loads(json.dumps(wanted[key]))]
    if different:
        raise BadInput(
            f"{folder}: holds a probe with another {' and '.join(different).replace('_', ' ')}.",
            "Choose another folder for a new probe.",
        )


def _probe(prepared: Prepared, settings: ProbeSettings, partial: Path, identity: dict[str, Any], session: Session) -> Probe:
    loaded, classes = prepared.loaded, len(prepared.train.schema.class_names)
    outputs = make_outputs(loaded.task, classes, settings.seed)
    head_kind = _head_kind(loaded, settings)
    fit, alone = _fit_head(prepared, head_kind, session, train_alone=True) if loaded.head else (None, [])

    sample = sample_rows(prepared.train, probe_samples(settings, classes), settings.seed)
    if sample is not prepared.train:
        session.note(f"Probe: {sample.notes[-1]}")
    own_rows = with_pulls(loaded, encode(sample, loaded, prepared.max_length)[0], settings.seed, session)
    n, kept = len(own_rows), _kept_rows(prepared, session)
    rows = [*own_rows, *(beside(loaded, kept, settings.seed, session) if kept else ())]
    order = sorted(range(len(rows)), key=lambda i: (rows[i].length, i))
    spool = _filled(prepared, settings, partial, [rows[i] for i in order], outputs, session)
    error = estimate_error(spool, loaded, session)

    back = np.argsort(order)  # from length order to sample order
    labels = spool.read("labels").double().numpy()
    f0 = spool.read("f0").double().numpy()
    y = targets_of(outputs, labels)
    slopes = torch.from_numpy(loss_slope(outputs, y, f0)).float() if outputs.loss_gradient_is_scaled else None
    exact = settings.method if settings.method != gram.KRONECKER else "auto"
    weight, gradient, methods = spool.contract(slopes, exact, loaded.device, session)
    m = len(loaded.targets)
    _require_some(weight[:m], loaded, partial)

    losses = spool.read("losses").double().numpy()[back]
    blocks_beside = None
    if kept:
        of_all_rows = (weight if outputs.loss_gradient_is_scaled else gradient)[:m].numpy()[..., back, :][..., back]
        blocks_beside = keep_blocks(loaded.task, of_all_rows, losses, rows, n, len(kept))
    back = back[:n]

    def reordered(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[..., back, :][..., back])

    head = None
    if loaded.head:
        if loaded.task == SPANS:
            fresh = fresh_span_gradient(*_span_states(loaded, own_rows, session), spool.layers[-1].bias)
        elif loaded.task == TOKENS:
            of_words = head_labels(loaded, own_rows)
            fresh = fresh_head_gradient(
                head_features(loaded, own_rows, session), of_words[0], classes, spool.layers[-1].bias, of_words[1]
            )
        else:
            pooled = spool.read("pooled").double().numpy()[back]
            own_labels = labels[back].astype(int) if classes else labels[back]
            fresh = fresh_head_gradient(pooled, own_labels, classes, spool.layers[-1].bias)
        head = HeadBlock(reordered(weight[m:].sum(0).numpy()), *fresh)
    labels, y, f0 = labels[back], y[back], f0[back]
    probe = Probe(
        targets=loaded.targets,
        weight_blocks=reordered(weight[:m].numpy()),
        gradient_blocks=reordered(gradient[:m].numpy()),
        head=head,
        labels=labels,
        y=y,
        f0=f0,
        z=residual(outputs, y, f0),
        losses=losses[:n],
        folds=stratified_folds(labels, settings.seed),
        info={
            "identity": identity,
            **_provenance(prepared),
            "head_kind": head_kind,
            "head_layers": len(head_linears(loaded)),
            "head_cv": fit and {"loss": fit.cv_loss, "score": fit.cv_score, "penalty": fit.penalty},
            "head_alone": [asdict(run) for run in alone],
            "mean_tokens": float(np.mean([row.length for row in own_rows])),
            "max_tokens": max(row.length for row in prepared.train_rows),
            "methods": methods,
            "estimate_error": error,
            **_by_token(loaded.task, own_rows, losses[:n]),
            **_measured_beside(prepared, settings, own_rows, session),
            **({} if prepared.kept is None else {"keep": _kept_fields(prepared.kept, loaded.task, losses[n:], len(kept))}),
        },
        keep=blocks_beside,
    )
    require_finite_blocks(probe)
    return probe


def _filled(
    prepared: Prepared, settings: ProbeSettings, partial: Path, rows: Sequence[EncodedRow], outputs: Outputs, session: Session
) -> Spool:
    """What passes over ``rows``, shortest first, give; those that an interrupted probe made are not made again."""
    if prepared.loaded.rows_apart:
        session.note(
            "What the model makes of a row may depend on its batch, so the probe reads one row at a time, without padding."
        )
    spool = Spool(
        partial,
        rows,
        probed_layers(prepared.loaded, settings.seed),
        outputs,
        *scale_of(prepared),
        settings.sketch_size,
        1 if prepared.loaded.rows_apart else settings.micro_batch,
        settings.recompute,
    )
    spool.drop_damaged(session)
    spool = choose_method(spool, settings, prepared, session)
    spool.fill(prepared.loaded, session)
    return spool


def _require_some(weight: torch.Tensor, loaded: LoadedModel, partial: Path) -> None:
    """Raises:
    BadInput: no module has a gradient; nothing of the probe is kept to be resumed.
    """
    if not weight.any():
        shutil.rmtree(partial)
        raise BadInput(
            f"{loaded.name}: the gradient of every module is zero on these rows, so nothing tells them apart.",
            "Check the model's weights: zeros in one place are enough. Or its code has a backward pass of its own, as that of "
            "Reformer and MRA, and what passes there reaches no module.",
        )


def _measured_beside(prepared: Prepared, settings: ProbeSettings, rows: Sequence[EncodedRow], session: Session) -> dict[str, Any]:
    """What a probe stores of further passes: linearity where it is asked for, memory and time of training, scores of others."""
    loaded = prepared.loaded
    stored = [s for s in target_sets(loaded.targets, loaded.qv_roles()) if s.name in LINEARITY_OF]
    linearity = check_linearity(prepared, settings, LoraSettings(), stored, session) if settings.linearity else []
    return {
        "linearity": [found.as_dict() for found in linearity],
        "footprint": asdict(measure_training(loaded, rows)),
        "peers": measure_peers(loaded, few_rows(prepared, settings), session),
    }


def _by_token(task: str, rows: Sequence[EncodedRow], losses: np.ndarray) -> dict[str, float | None]:
    """Of a language model: the loss of a token to be learned before training, and that of a count of word pairs."""
    if task not in COUNTED:
        return {"start_loss": None, "counted_loss": None}
    apart = task == "seq2seq"
    return {"start_loss": mean_of_tokens(losses.tolist(), rows, apart), "counted_loss": counted_loss(rows, apart)}


def _kept_rows(prepared: Prepared, session: Session) -> list[EncodedRow]:
    """The rows to keep, tokenised; none where none were named."""
    if prepared.kept is None:
        return []
    rows, notes = encode(prepared.kept.data, prepared.loaded, prepared.max_length)
    for note in notes:
        session.note(f"Rows to keep: {note}", brief=True)
    return rows


def _kept_fields(kept: Kept, task: str, losses: np.ndarray, rows: int) -> dict[str, Any]:
    """A probe's ``keep``, see :class:`advisor.core.probe_schema.KeepFields`; ``losses`` are of :func:`beside`'s rows."""
    found: dict[str, Any] = {"data": kept.data.source, "rows": rows}
    if task in LANGUAGE_TASKS:
        found["expected"] = float(losses[rows:].mean())
    return found


def _fit_head(prepared: Prepared, head_kind: str, session: Session, train_alone: bool = False) -> tuple[HeadFit, list[HeadRun]]:
    """Cross-validate a linear probe on the training rows; install it for ``--head probed``. With ``train_alone`` a head that has
    other linear layers too is trained alone before.

    Raises:
        BadInput: the rows as they are read hold one class.
    """
    loaded, rows, classes = prepared.loaded, prepared.train_rows, len(prepared.train.schema.class_names)
    mean, std = scale_of(prepared)
    if loaded.task == SPANS:
        return _fit_span_head(loaded, rows, head_kind, session), []
    train_alone &= loaded.task != TOKENS and len(head_linears(loaded)) > 1
    layers = (last_linear(loaded), first_linear(loaded)) if train_alone else (last_linear(loaded),)
    features, *read = layer_inputs(loaded, rows, session, layers)
    labels, owners = head_labels(loaded, rows)
    if len(labels) > MOST_WORDS:  # words of texts that may be long
        some = np.linspace(0, len(labels) - 1, MOST_WORDS).astype(int)
        features, labels, owners = features[some], labels[some], owners[some]
    if classes and len(set(labels.tolist())) == 1:
        only = prepared.train.schema.class_names[int(labels[0])]
        raise BadInput(
            f"{prepared.train.source}: within {prepared.max_length} tokens a row, all {len(labels)} labels are {only!r}.",
            "Raise --max-length, or give rows of other classes.",
        )
    alone = train_head_alone(loaded, read[0], rows, (mean, std), session) if train_alone else []
    use_bias = last_linear(loaded).bias is not None
    values = labels if classes else (labels - mean) / std
    fit = fit_head(features, values, classes, use_bias, owners if loaded.task == TOKENS else None)
    if head_kind == "probed":
        install_head(loaded, fit)
    of = "words" if loaded.task == TOKENS else "rows"
    session.note(
        f"Head: {head_kind}. A linear probe on frozen features of {len(labels)} {of} reaches a held-out loss of "
        f"{fit.cv_loss:.3f} ({'accuracy' if classes else 'R²'} {fit.cv_score:.3f})."
    )
    return fit, alone


def _fit_span_head(loaded: LoadedModel, rows: Sequence[EncodedRow], head_kind: str, session: Session) -> HeadFit:
    """The same for the ends of spans, on few rows, as all their tokens count."""
    some = [rows[i] for i in np.linspace(0, len(rows) - 1, min(MOST_SPANS, len(rows))).astype(int)]
    fit = fit_span_head(*_span_states(loaded, some, session))
    if head_kind == "probed":
        install_head(loaded, fit)
    session.note(
        f"Head: {head_kind}. A linear probe on frozen features of {len(some)} rows reaches a held-out loss of {fit.cv_loss:.3f} "
        f"({fit.cv_score:.3f} of the ends of spans found)."
    )
    return fit


def _span_states(loaded: LoadedModel, rows: Sequence[EncodedRow], session: Session) -> tuple[list[np.ndarray], np.ndarray]:
    """What the head reads of each row's tokens, and the places of its span's ends."""
    states = np.split(head_features(loaded, rows, session), np.cumsum([len(row.ids) for row in rows])[:-1])
    return states, np.array([row.token_labels for row in rows])


def _head_kind(loaded: LoadedModel, settings: ProbeSettings) -> str:
    return "none" if not loaded.head else settings.head if loaded.head_is_new else "trained"


def measure_selections(
    prepared: Prepared, settings: ProbeSettings, lora: LoraSettings, selections: Sequence[Selection], session: Session
) -> list[Linearity]:
    """:class:`Linearity` of any selections, with the head that ``settings`` names, fitted if it is not yet; empty where
    the model is too large for the copy that this takes.

    Raises:
        BadInput: a row's images cannot be read.
        OutOfMemory: not even one row fits.
        Interrupted: cancelled.
    """
    loaded = prepared.loaded
    if _head_kind(loaded, settings) == "probed" and not loaded.head_is_fitted and not uncopyable(loaded):
        _fit_head(prepared, "probed", session)
    return check_linearity(prepared, settings, lora, selections, session)


def _provenance(prepared: Prepared) -> dict[str, Any]:
    loaded, schema = prepared.loaded, prepared.train.schema
    return {
        "advisor": __version__,
        "torch": torch.__version__,
        "task": loaded.task,
        "reads": loaded.reads,
        **({"pooling": loaded.embedder.pooling} if loaded.embedder else {}),
        **({"stored": stored} if (stored := loaded.quantised or loaded.stored) else {}),
        "metric": schema.metric,
        "class_names": list(schema.class_names),
        **({"class_shares": _shares(prepared)} if loaded.task in (TOKENS, EMBEDDING) else {}),
        "model_type": loaded.model.config.model_type,
        "model_parameters": loaded.parameters,
        "qv_roles": list(loaded.qv_roles()),
        "head": list(loaded.head),
        "head_parameters": sum(p.numel() for name in loaded.head for p in loaded.model.get_submodule(name).parameters()),
        "train_rows": prepared.available_rows,
        "device": str(loaded.device),
        "said": [
            {
                "text": event.text,
                "warning": isinstance(event, Warn),
                "brief": isinstance(event, Note) and event.brief,
                "left_out": isinstance(event, Note) and event.left_out,
            }
            for event in prepared.with_model.said
        ],
        **_place(prepared),
    }


def _shares(prepared: Prepared) -> list[float]:
    """Of the classes among the training rows' words; of the texts that a positive is to be found among, all alike."""
    if prepared.loaded.task == EMBEDDING:
        row = prepared.train_rows[0]
        texts = len(row.others) * len(batches_of(len(prepared.train_rows), 0)[0])
        return [1 / texts] * texts
    labels, _ = head_labels(prepared.loaded, prepared.train_rows)
    counts = np.bincount(labels, minlength=len(prepared.train.schema.class_names))
    return [float(share) for share in counts / counts.sum()]


def _place(prepared: Prepared) -> dict[str, Any]:
    """Where model and data are found, which may move; ``made_in``: the folder that relative paths among them are of."""
    source = prepared.source
    paths = (source.model, source.data, source.eval_data or "")
    made_in = os.getcwd() if any(not os.path.isabs(path) and os.path.exists(path) for path in paths) else ""
    place = {"model": source.model, "revision": prepared.revision, "data": prepared.train.source, "source": source.as_dict()}
    return {**place, "made_in": made_in}
