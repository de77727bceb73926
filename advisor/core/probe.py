"""A probe as plain arrays, and its folder: ``probe.json`` and ``blocks.safetensors`` (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from advisor.core.errors import BadInput, NotFinite
from advisor.core.store import PROBE_FILE, read_json, replacing, write_json
from advisor.core.targets import Target

PROBE_SCHEMA = 1
BLOCKS_FILE = "blocks.safetensors"
FOLDS = 4


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
class Probe:
    """Everything later commands need without the model.

    Attributes:
        targets: the M adaptable modules in model order.
        weight_blocks: W_m, float32 [M, n, n]. gradient_blocks: G_m likewise (DESIGN 2.1, 2.2).
        head: the head's block, None for a causal LM.
        labels: [n] class ids or standardised values (zeros for a causal LM).
        y, f0, z: targets, outputs and residual targets, float64 [n, 1 or C].
        losses: [n] loss of each example at θ0 in nats or half squared errors.
        folds: [n] fold 0..3 of each example, stratified.
        info: provenance and settings, as in ``probe.json``.
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

    @property
    def samples(self) -> int:
        return len(self.y)

    @property
    def task(self) -> str:
        return str(self.info["task"])

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.info["class_names"])


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
    with replacing(folder / BLOCKS_FILE, needed=sum(a.nbytes for a in arrays.values())) as temporary:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, temporary)
    save_info(probe, folder)


def save_info(probe: Probe, folder: Path) -> None:
    """Write ``probe.json`` alone."""
    info = {"schema": PROBE_SCHEMA, **probe.info, "targets": [asdict(t) for t in probe.targets]}
    if probe.head is not None:
        info["head_block"] = {
            "fresh_gradient_norm": probe.head.fresh_gradient_norm,
            "fresh_gradient_energy": probe.head.fresh_gradient_energy,
            "fresh_gradient_params": probe.head.fresh_gradient_params,
        }
    write_json(folder / PROBE_FILE, info)


def load_probe(folder: Path) -> Probe:
    """Read and check a probe folder.

    Raises:
        BadInput: missing, corrupt, truncated or foreign; names file and field.
        NotFinite: a block holds NaN or infinity; names the module.
    """
    info = read_json(folder / PROBE_FILE, "probe")
    if info.get("schema") != PROBE_SCHEMA:
        raise BadInput(
            f"{folder / PROBE_FILE}: schema is {info.get('schema')!r}, this version reads {PROBE_SCHEMA}.",
            "Probe again with `advisor probe`.",
        )
    path = folder / BLOCKS_FILE
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError, TypeError, KeyError) as error:  # the last two: a type numpy lacks
        raise BadInput(f"{path}: cannot be read: {error}", "Probe again with `advisor probe`.") from error
    try:
        targets = tuple(Target(**t) for t in info.pop("targets"))
        head_info = info.pop("head_block", None)
        names = [field.name for field in fields(HeadBlock) if field.name != "weight"]
        head_fields = head_info and {name: head_info[name] + 0 for name in names}  # a text plus 0 is a TypeError
        _ = (str(info["task"]), tuple(info["class_names"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{folder / PROBE_FILE}: a field is missing or garbled ({error}).", "Probe again.") from error
    n, m = len(arrays.get("labels", ())), len(targets)
    columns = arrays["y"].shape[1:] if "y" in arrays else ()
    expected = {"weight": (m, n, n), "gradient": (m, n, n), "labels": (n,), "losses": (n,), "folds": (n,)}
    expected |= {"y": (n, *columns[:1]), "f0": (n, *columns[:1]), "z": (n, *columns[:1])}
    if head_fields:
        expected["head"] = (n, n)
    for name, shape in expected.items():
        if name not in arrays:
            raise BadInput(f"{path}: {name} is missing.", "Probe again.")
        if arrays[name].shape != shape:
            raise BadInput(f"{path}: {name} has shape {arrays[name].shape}, not {shape}.", "Probe again.")
    probe = Probe(
        targets=targets,
        weight_blocks=arrays["weight"],
        gradient_blocks=arrays["gradient"],
        head=HeadBlock(arrays["head"], **head_fields) if head_fields else None,
        **{name: arrays[name] for name in ("labels", "y", "f0", "z", "losses", "folds")},
        info=info,
    )
    require_finite_blocks(probe)
    return probe


def require_finite_blocks(probe: Probe) -> None:
    """Raises:
    NotFinite: names the first module whose block holds NaN or infinity.
    """
    for kind, blocks in (("weight", probe.weight_blocks), ("loss-gradient", probe.gradient_blocks)):
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
