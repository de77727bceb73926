"""Is linearisation a good model of this selection here? What was measured, and a verdict (docs/design.md 2.6; no torch).

:mod:`advisor.probing.tangent` measures it on the model; a probe stores it for some target sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from advisor.theory.bounds import FlowConstants, horizon, threshold_pull

LINEAR, PARTLY, NOT = "linear", "partly", "not"
LINEAR_UP_TO, PARTLY_UP_TO = 0.1, 0.5  # gap at the full step


@dataclass(frozen=True)
class Linearity:
    """What moving to the kernel ridge solution in LoRA space does to the model, beside what its tangent says.

    The solution is Δθ = J_Sᵀα, α = (K + σI)⁻¹z, over B of every adapted module and the head, for one draw of A, which
    stays: A·B curvature is unseen. Examples are a few of the probe's.

    Attributes:
        selection, targets: which modules.
        rows: examples. sigma: σ, 1e-2·tr(K of all modules without head)/rows.
        residual: ‖f0 − Y‖ over them. distance: ‖Δθ‖; lora_distance: of it, B's.
        steps: shares s of Δθ, ascending, the last 1. gaps: ‖f(θ0+sΔθ) − f0 − sJΔθ‖/‖sJΔθ‖ at each.
        lora_gap: the same at s = 1 with B's part of Δθ alone; None where that changes no output.
        lipschitz: largest ‖J‖ seen at θ0, θ0+Δθ and random points as far away; gradient_lipschitz: largest
            ‖J_θ − J_θ0‖/‖θ − θ0‖ there: lower estimates of Lip(f) and Lip(∇f) with respect to the parameters.
        input_lipschitz, input_gradient_lipschitz: the same two with respect to the input embeddings, as in the paper's
            experiments. All four are None where not measured.
    """

    selection: str
    targets: tuple[str, ...]
    rows: int
    sigma: float
    residual: float
    distance: float
    lora_distance: float
    steps: tuple[float, ...]
    gaps: tuple[float, ...]
    lora_gap: float | None
    lipschitz: float | None = None
    gradient_lipschitz: float | None = None
    input_lipschitz: float | None = None
    input_gradient_lipschitz: float | None = None

    @property
    def gap(self) -> float:
        """At the full step."""
        return self.gaps[-1]

    @property
    def is_finite(self) -> bool:
        """Whether every number is: the model may overflow on the way."""
        numbers = (
            self.sigma,
            self.residual,
            self.distance,
            self.lora_distance,
            *self.gaps,
            self.lora_gap,
            self.lipschitz,
            self.gradient_lipschitz,
            self.input_lipschitz,
            self.input_gradient_lipschitz,
        )
        return all(number is None or math.isfinite(number) for number in numbers)

    @property
    def verdict(self) -> str:
        """``linear``: the tangent is off by at most 10 % of the change at the full step; ``partly``: 50 %; else ``not``."""
        return LINEAR if self.gap <= LINEAR_UP_TO else PARTLY if self.gap <= PARTLY_UP_TO else NOT

    @property
    def flow(self) -> FlowConstants | None:
        """Constants of Theorems 2–4 in the ball travelled, None where not measured."""
        if self.lipschitz is None or self.gradient_lipschitz is None or self.distance == 0:
            return None
        return FlowConstants(self.lipschitz, self.gradient_lipschitz, self.residual, self.distance)

    def sentence(self, name: str | None = None) -> str:
        """The verdict for a person, with its thresholds; ``name``: what to call the selection."""
        words = {
            LINEAR: "Linearisation is a good model here",
            PARTLY: "Linearisation is a rough model here",
            NOT: "Linearisation is a poor model here",
        }
        text = (
            f"{words[self.verdict]}: at the kernel ridge solution of {name or self.selection} the model's change differs "
            f"from its tangent's by {self.gap:.0%} on {self.rows} rows (up to {LINEAR_UP_TO:.0%} counts as linear, up to "
            f"{PARTLY_UP_TO:.0%} as partly)"
        )
        if self.lora_gap is not None:
            text += f"; with LoRA's B alone moved, by {self.lora_gap:.0%}"
        return text + ". A·B curvature is unseen."

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the fields, the verdict, λ° and the horizon of Theorem 4 without a pull."""
        flow = self.flow
        return asdict(self) | {
            **{name: list(getattr(self, name)) for name in ("targets", "steps", "gaps")},
            "gap": self.gap,
            "verdict": self.verdict,
            "threshold_pull": None if flow is None else threshold_pull(flow),
            "horizon_without_pull": None if flow is None else _finite(horizon(flow, 0.0)),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Linearity:
        """The inverse of :meth:`as_dict`.

        Raises:
            TypeError, KeyError: a field is missing or of another type.
        """
        known = {name: fields[name] for name in cls.__dataclass_fields__}
        lists = {name: tuple(known[name]) for name in ("targets", "steps", "gaps")}
        return cls(**{**known, **lists})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
