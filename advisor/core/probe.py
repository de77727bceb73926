"""A probe as plain arrays, and its folder: ``probe.json`` and ``blocks.safetensors`` (no torch)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from advisor.core.errors import BadInput, NotFinite
from advisor.core.reading import CHECKSUM, check_regular, check_seal, refuse_newer, sealed
from advisor.core.recipe import FEWEST_ROWS, LANGUAGE_TASKS
from advisor.core.store import PROBE_FILE, read_json, replacing, write_json
from advisor.core.targets import Target

PROBE_SCHEMA = 2
BLOCKS_FILE = "blocks.safetensors"
FOLDS = FEWEST_ROWS  # so that each has a row
PROJECTIONS = 2  # of each reference row's representation
PROBE_AGAIN = f"Delete {PROBE_FILE} and {BLOCKS_FILE} there, then probe again with `advisor probe`."


@dataclass(frozen=True)
class HeadBlock:
    """The trained head's part of every kernel.

    Attributes:
        weight: [n, n] block over all head weights and biases.
        fresh_gradient_norm: ‖Σ_i g_i‖ of the last layer's loss gradients at a zero head. fresh_gradient_energy:
            Σ_i ‖g_i‖². fresh_gradient_params: that layer's parameters.
    """

    weight: np.ndarray
    fresh_gradient_norm: float
    fresh_gradient_energy: float
    fresh_gradient_params: int


@dataclass(frozen=True)
class KeepBlocks:
    """Reference rows beside the n training rows of a probe (docs/keep.md).

    Attributes:
        loss: ⟨∇ρ_r, ∇ℓ_i⟩ in each module's weight, ρ_r a reference row's loss, float32 [M, r, n].
        score: the same with the loss of target tokens that the model drew itself, [M, r, n].
        energies: squared norms of these rows' own gradients, [M, r].
        losses: [r] losses of the reference rows at θ0, nats. tokens: [r] target tokens of each.
    """

    loss: np.ndarray
    score: np.ndarray
    energies: np.ndarray
    losses: np.ndarray
    tokens: np.ndarray

    @staticmethod
    def shapes(m: int, rows: int, n: int) -> dict[str, tuple[int, ...]]:
        """Of each array, for M modules, so many reference rows and n training rows."""
        return {"loss": (m, rows, n), "score": (m, rows, n), "energies": (m, rows), "losses": (rows,), "tokens": (rows,)}

    def of_training_rows(self, chosen: np.ndarray) -> KeepBlocks:
        return replace(self, loss=self.loss[..., chosen], score=self.score[..., chosen])


@dataclass(frozen=True)
class DriftBlocks:
    """The same of a classifier or regressor, whose loss says nothing of rows of another task (docs/keep.md).

    ρ_r is a random projection of the representation that the head reads, ``PROJECTIONS`` of each reference row, all first ones
    first. Its variance over draws is the representation's squared change as a share of its variance between the rows.

    Attributes:
        cross: ⟨∇ρ_r, Σ_c d_ic ∇f_ic⟩ in each module's weight, float32 [M, r, n], d as
            :func:`advisor.theory.forgetting.pull_directions` has it.
        energies: ‖∇ρ_r‖², [M, r].
    """

    cross: np.ndarray
    energies: np.ndarray

    @staticmethod
    def shapes(m: int, rows: int, n: int) -> dict[str, tuple[int, ...]]:
        """As :meth:`KeepBlocks.shapes`."""
        return {"cross": (m, PROJECTIONS * rows, n), "energies": (m, PROJECTIONS * rows)}

    def of_training_rows(self, chosen: np.ndarray) -> DriftBlocks:
        return replace(self, cross=self.cross[..., chosen])


def kept_kind(task: str) -> type[KeepBlocks] | type[DriftBlocks]:
    """What a probe of the task has of its rows to keep."""
    return KeepBlocks if task in LANGUAGE_TASKS else DriftBlocks


KEEP_PREFIX = "keep_"
HEAD_FIELDS = tuple(field.name for field in fields(HeadBlock) if field.name != "weight")


@dataclass(frozen=True)
class Probe:
    """Everything later commands need without the model.

    Attributes:
        targets: the M adaptable modules in model order.
        weight_blocks: W_m, float32 [M, n, n]. gradient_blocks: G_m likewise (docs/design.md 2.1, 2.2).
        head: the head's block, None for a causal LM.
        labels: [n] class ids or standardised values (zeros for a causal LM).
        y, f0, z: targets, outputs and residual targets, float64 [n, 1 or C].
        losses: [n] loss of each example at θ0 in nats or half squared errors.
        folds: [n] fold 0..3 of each example, stratified.
        info: provenance and settings, as in ``probe.json``.
        keep: of the rows that the model should keep doing well, None where none were named.
    """

    targets: tuple[Target, ...]
    weight_blocks: np.ndarray
    gradient_blocks: np.ndarray
    head: HeadBlock | None
    labels: np.ndarray
    y: np.ndarray
    f0: np.ndarray
    z: np.ndarray
    losses: np.ndarray
    folds: np.ndarray
    info: Mapping[str, Any]
    keep: KeepBlocks | DriftBlocks | None = None

    @cached_property
    def learns(self) -> NDArray[np.bool_]:
        """Of each module whether its weight has a gradient on any example, [M]: LoRA on the others would learn nothing."""
        energies = [np.einsum("mii->mi", blocks) for blocks in (self.weight_blocks, self.gradient_blocks)]
        return np.asarray((energies[0] != 0).any(1) | (energies[1] != 0).any(1))

    @cached_property
    def learning(self) -> tuple[Target, ...]:
        """The modules that learn, of which a pick is made; the common target sets and a user's own config may name any."""
        return tuple(t for t, learns in zip(self.targets, self.learns, strict=True) if learns)

    @property
    def samples(self) -> int:
        return len(self.y)

    @property
    def task(self) -> str:
        return str(self.info["task"])

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.info["class_names"])

    def path_now(self, name: str) -> str:
        """A model or file as the probe was given it; where there is none of that name here, from the folder it was made in."""
        there = Path(str(self.info.get("made_in") or "")) / name
        return str(there) if not os.path.lexists(name) and there.exists() else name


def save_probe(probe: Probe, folder: Path) -> None:
    """Write the folder; ``probe.json`` last, so that a folder that has it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "weight": probe.weight_blocks,
        "gradient": probe.gradient_blocks,
        "labels": probe.labels,
        "y": probe.y,
        "f0": probe.f0,
        "z": probe.z,
        "losses": probe.losses,
        "folds": probe.folds,
    }
    if probe.head is not None:
        arrays["head"] = probe.head.weight
    if probe.keep is not None:
        arrays |= {KEEP_PREFIX + field.name: getattr(probe.keep, field.name) for field in fields(probe.keep)}
    with replacing(folder / BLOCKS_FILE, needed=sum(a.nbytes for a in arrays.values())) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, temporary)
    save_info(probe, folder)


def save_info(probe: Probe, folder: Path) -> None:
    """Write ``probe.json`` alone, with checksums of itself and of the blocks that are there."""
    info = {"schema": PROBE_SCHEMA, **probe.info, "targets": [asdict(t) for t in probe.targets]}
    if probe.head is not None:
        info["head_block"] = {name: getattr(probe.head, name) for name in HEAD_FIELDS}
    info["files"] = {BLOCKS_FILE: _digest(folder / BLOCKS_FILE)}
    write_json(folder / PROBE_FILE, sealed(info))


def load_probe(folder: Path) -> Probe:
    """Read and check a probe folder.

    Raises:
        BadInput: missing, damaged, truncated or foreign, or a number is not finite; names file and field.
    """
    from advisor.core.checked import check  # here, so that what only handles probes does not wait for pydantic
    from advisor.core.probe_schema import ProbeFile

    where, path = folder / PROBE_FILE, folder / BLOCKS_FILE
    info = read_json(where, "probe", PROBE_AGAIN)
    refuse_newer(info, PROBE_SCHEMA, str(where))
    if info.get("schema") != PROBE_SCHEMA:
        raise BadInput(f"{where}: schema is {info.get('schema')!r:.60}, this version reads {PROBE_SCHEMA}.", PROBE_AGAIN)
    content = check(ProbeFile, info, str(where), PROBE_AGAIN)
    check_seal(info, str(where), PROBE_AGAIN)
    arrays = _read_blocks(path, content.files.get(BLOCKS_FILE))
    targets = tuple(Target(**t) for t in info["targets"])
    kept, kind = content.keep, kept_kind(content.task)
    _check_arrays(
        arrays, path, targets, len(content.class_names), content.task, content.head_block is not None, kept.rows if kept else 0
    )
    head = info.get("head_block")
    return Probe(
        targets=targets,
        weight_blocks=arrays["weight"],
        gradient_blocks=arrays["gradient"],
        head=HeadBlock(arrays["head"], **{name: head[name] for name in HEAD_FIELDS}) if head else None,
        **{name: arrays[name] for name in ("labels", "y", "f0", "z", "losses", "folds")},
        info={key: value for key, value in info.items() if key not in ("targets", "head_block", "files", CHECKSUM)},
        keep=kind(**{field.name: arrays[KEEP_PREFIX + field.name] for field in fields(kind)}) if kept else None,
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_blocks(path: Path, digest: str | None) -> dict[str, np.ndarray]:
    """The arrays of a probe, checked against the digest that ``probe.json`` has of the file (older ones have none).

    Raises:
        BadInput: the file is missing, damaged, or not the one that was written.
    """
    try:
        check_regular(path, "probe's file of kernels")
        arrays = load_file(path)
        intact = digest is None or _digest(path) == digest
    except BadInput as error:
        raise BadInput(error.what, PROBE_AGAIN) from error
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:  # the last three: a type numpy lacks
        raise BadInput(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}.", PROBE_AGAIN) from error
    if not intact:
        raise BadInput(f"{path}: its SHA-256 is not the one in {PROBE_FILE}, so the file is damaged.", PROBE_AGAIN)
    return arrays


def _check_arrays(
    arrays: Mapping[str, np.ndarray],
    path: Path,
    targets: Sequence[Target],
    classes: int,
    task: str,
    has_head: bool,
    kept: int,
) -> None:
    """Raises:
    BadInput: an array is missing, of another shape or kind, or holds a number that cannot be; names it, and the module.
    """
    m = len(targets)
    n = len(arrays["labels"]) if "labels" in arrays and arrays["labels"].ndim else 0
    columns = classes if classes > 2 and task == "classification" else 1
    expected: dict[str, tuple[int, ...]] = {"labels": (n,), "losses": (n,), "folds": (n,)}
    expected |= {"weight": (m, n, n), "gradient": (m, n, n)} | dict.fromkeys(("y", "f0", "z"), (n, columns))
    if has_head:
        expected["head"] = (n, n)
    if kept:
        expected |= {KEEP_PREFIX + name: shape for name, shape in kept_kind(task).shapes(m, kept, n).items()}
    for name, shape in expected.items():
        if name not in arrays:
            raise BadInput(f"{path}: {name} is missing.", PROBE_AGAIN)
        array = arrays[name]
        if array.shape != shape or not n:
            raise BadInput(f"{path}: {name} has shape {array.shape}, not {shape}.", PROBE_AGAIN)
        if array.dtype.kind not in "fiu":
            raise BadInput(f"{path}: {name} holds {array.dtype}, not numbers.", PROBE_AGAIN)
        if not np.isfinite(array).all():
            bad = int(np.argmin(np.isfinite(array).all(axis=tuple(range(1, array.ndim)))))
            of = f" of module {targets[bad].name}" if array.ndim == 3 else ""
            raise BadInput(f"{path}: {name}{of} holds NaN or infinity.", PROBE_AGAIN)
    ranges = {"folds": FOLDS} | ({"labels": classes} if task == "classification" else {})
    for name, count in ranges.items():
        if not np.isin(arrays[name], np.arange(count)).all():
            raise BadInput(f"{path}: {name} holds other numbers than 0 to {count - 1}.", PROBE_AGAIN)


def require_finite_blocks(probe: Probe) -> None:
    """Raises:
    NotFinite: names the first module whose block holds NaN or infinity.
    """
    kinds = [("weight", probe.weight_blocks), ("loss-gradient", probe.gradient_blocks)]
    if probe.keep is not None:
        kinds += [("reference", array) for array in vars(probe.keep).values() if array.ndim == 3]
    for kind, blocks in kinds:
        bad = ~np.isfinite(blocks).all(axis=(1, 2))
        if bad.any():
            name = probe.targets[int(np.argmax(bad))].name
            raise NotFinite(f"The {kind} block of module {name} holds NaN or infinity.", "Try --dtype float32.")
    if probe.head is not None and not np.isfinite(probe.head.weight).all():
        raise NotFinite("The head's block holds NaN or infinity.", "Try --dtype float32.")


def stratified_folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """Fold 0..3 of each example; each class, or range of values, is spread evenly."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % FOLDS
    return folds
