"""How linear a prepared model is in its LoRA weights: a few rows, a copy of the model, some selections (docs/design.md 2.6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisor.core.errors import OutOfMemory
from advisor.core.events import Session, Stage
from advisor.core.targets import LoraSettings, Selection
from advisor.data.dataset import sample_rows
from advisor.models.encode import EncodedRow, encode
from advisor.models.forward import label_scale
from advisor.models.load import LoadedModel
from advisor.models.prepare import Prepared
from advisor.probing.contrast import with_pulls
from advisor.probing.outputs import make_outputs, residual, targets_of
from advisor.probing.settings import ProbeSettings
from advisor.probing.tangent import Tangent, gram_of
from advisor.theory.linearity import Linearity

LINEARITY_ROWS = 32  # also those whose inputs the peers' scores look at
COPYABLE_PARAMETERS = 2_000_000_000  # the check works on a copy of the model


def check_linearity(
    prepared: Prepared, settings: ProbeSettings, lora: LoraSettings, selections: Sequence[Selection], session: Session
) -> list[Linearity]:
    """:class:`Linearity` of any selections with the head that is in place; empty where the model is too large for the copy
    that this takes, or memory is used up."""
    loaded = prepared.loaded
    if reason := uncopyable(loaded):
        session.note(f"Linearity: not measured, it works on a copy of the model, {reason}.")
        return []
    outputs = make_outputs(loaded.task, len(prepared.train.schema.class_names), settings.seed)
    rows = with_pulls(loaded, few_rows(prepared, settings), settings.seed, session)
    tangent = Tangent.of(loaded, rows, outputs, lora, *scale_of(prepared), seed=settings.seed)
    try:
        return measure_linearity(tangent, selections, session, seed=settings.seed)
    except OutOfMemory as error:
        session.warn(f"Linearity: not measured. {error.what}")
        return []


def few_rows(prepared: Prepared, settings: ProbeSettings) -> list[EncodedRow]:
    """The rows that this check and the peers' scores look at."""
    rows, _ = encode(sample_rows(prepared.train, LINEARITY_ROWS, settings.seed), prepared.loaded, prepared.max_length)
    return rows


def uncopyable(loaded: LoadedModel) -> str:
    """Why the linearity check cannot have its copy of the model; empty where it can."""
    if loaded.parameters > COPYABLE_PARAMETERS:
        return "which is too large here"
    return "whose weights are not all in memory here" if loaded.offloaded else ""


def scale_of(prepared: Prepared) -> tuple[float, float]:
    """Mean and standard deviation of a regression's training labels; of other tasks 0 and 1."""
    return label_scale(prepared.train_rows) if prepared.loaded.task == "regression" else (0.0, 1.0)


def measure_linearity(tangent: Tangent, selections: Sequence[Selection], session: Session, *, seed: int = 0) -> list[Linearity]:
    """:class:`Linearity` of each selection; the Lipschitz constants of the first, and of it only up to 8 classes.

    A selection on whose way the model overflows is left out, and said.

    Raises:
        OutOfMemory: not even one row fits.
    """
    session.check()
    tangent.session = session
    tangent.move({})
    n = len(tangent.rows)
    z = residual(tangent.outputs, targets_of(tangent.outputs, tangent.labels()), tangent.values().numpy())
    jacobian = tangent.jacobian(list(tangent.movable))
    kernels = {name: tangent.outputs.weight * _same_output_sum(gram_of(part), n) for name, part in jacobian.items()}
    del jacobian
    sigma = 1e-2 * float(sum(np.trace(kernel) for name, kernel in kernels.items() if "/" not in name)) / n
    found = []
    stage = Stage(session, "Linearity (selections)", len(selections))
    for number, selection in enumerate(selections):
        session.check()
        kernel = sum((kernels[name] for name in tangent.names(selection)), np.zeros((n, n)))
        constants = number == 0 and not tangent.outputs.projected
        measured = tangent.linearity(selection, sigma, kernel, z, seed if constants else None)
        if measured.is_finite:
            found.append(measured)
        else:
            session.warn(f"Linearity of {selection.name}: not measured, the model's output overflows on the way.")
        stage.advance(selection.name)
    return found


def _same_output_sum(gram: np.ndarray, n: int) -> np.ndarray:
    """[n·P, n·P] → [n, n], summed over blocks of the same output."""
    outputs = len(gram) // n
    return np.asarray(np.einsum("ipjp->ij", gram.reshape(n, outputs, n, outputs)))
