"""How to probe: the settings of a probe (no torch)."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.core.choices import HEADS, METHODS
from advisor.core.errors import BadInput

DEFAULT_SAMPLES = 128
HEAD_ROWS = 512  # training rows the head's linear probe is fitted on


@dataclass(frozen=True)
class ProbeSettings:
    """How to probe.

    Attributes:
        samples: probe examples; None: max(128, 4 · classes).
        head: ``probed`` or ``fresh`` (a head trained in the checkpoint is kept as it is).
        method: ``auto``, ``materialise``, ``token-gram`` or ``kronecker``.
        sketch_size: k of the Kronecker sketch.
        micro_batch: most rows a pass; None: by tokens.
        recompute: keep no activations of the blocks for the backward pass but compute them again; without, this is
            done once a single row does not fit in memory. The kernel blocks are the same.
        linearity: compare the model with its tangent for a few target sets (docs/design.md 2.6).
        seed: of sample, folds and projections.
    """

    samples: int | None = None
    head: str = "probed"
    method: str = "auto"
    sketch_size: int = 64
    micro_batch: int | None = None
    recompute: bool = False
    linearity: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 8:
            raise BadInput(f"--samples must be at least 8, got {self.samples}.")
        for option, value, allowed in (("--head", self.head, HEADS), ("--method", self.method, METHODS)):
            if value not in allowed:
                raise BadInput(f"{option} {value}: unknown.", f"Use one of {', '.join(allowed)}.")


def probe_samples(settings: ProbeSettings, classes: int) -> int:
    """Probe examples asked for: the setting, or max(128, 4 · classes)."""
    return settings.samples or max(DEFAULT_SAMPLES, 4 * classes)
