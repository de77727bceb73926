"""The scalar outputs whose kernels are probed, their targets, and the losses (docs/design.md 2.2).

Outputs are [examples, P]: one logit margin (two classes), one value (regression), the centred logits in an orthonormal
basis of their C − 1 dimensions (up to 8 classes), sign projections of them (more), one mean log-odds over target tokens
(language models) or words (token classification), or what is compared, which is 0 at the start: β·(margin − the base model's)
of DPO (preference), ±β·(log-likelihood − the base model's) of KTO's answers, + of desirable ones, −2·⟨E, G⟩ of a row's
embeddings and their pulls (embedding, see :mod:`advisor.probing.contrast`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import helmert
from scipy.special import expit
from torch.nn import functional

from advisor.core.recipe import BY_ODDS
from advisor.core.tasks import BETA, COMPARED, EMBEDDING, KTO, PREFERENCE
from advisor.models.encode import IGNORED
from advisor.models.forward import aligned, log_likelihoods, margins, signs

MAX_EXACT_CLASSES = 8
PROJECTIONS = 16


@dataclass(frozen=True)
class Outputs:
    """What is differentiated.

    Attributes:
        task: one of ``recipe.TASKS``.
        classes: number of classes; 0 unless classification.
        directions: [classes, P] of more than two classes: an orthonormal basis of the centred logits, P = C − 1
            (exact: Σ_c J_c J_cᵀ does not depend on the basis); above 8 classes ±1, drawn once, shared by all examples.
        projected: the directions are sign projections.
    """

    task: str
    classes: int = 0
    directions: torch.Tensor | None = None
    projected: bool = False

    @property
    def count(self) -> int:
        """P, backward passes an example needs for the output kernels."""
        return 1 if self.directions is None else self.directions.shape[1]

    @property
    def weight(self) -> float:
        """W = weight · Σ_p J_p J_pᵀ: 1/C in a basis, 1/(C·P) over sign projections, else 1."""
        if self.directions is None:
            return 1.0
        return 1.0 / (self.classes * (self.count if self.projected else 1))

    @property
    def loss_gradient_is_scaled(self) -> bool:
        """∇ℓ_i is a multiple of ∇f_i, so that G follows from W without another backward pass."""
        return self.task in ("regression", *COMPARED) or self.classes == 2


def make_outputs(task: str, classes: int, seed: int) -> Outputs:
    """Exact outputs up to 8 classes, beyond that 16 seeded sign projections."""
    if task != "classification" or classes <= MAX_EXACT_CLASSES:
        return exact_outputs(Outputs(task, classes if task == "classification" else 0))
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (classes, PROJECTIONS), generator=generator).float() * 2 - 1
    return Outputs(task, classes, signs, projected=True)


def exact_outputs(outputs: Outputs) -> Outputs:
    """The same outputs without projections: an orthonormal basis of the centred logits, however many classes."""
    if outputs.classes <= 2:
        return Outputs(outputs.task, outputs.classes)
    basis = torch.from_numpy(helmert(outputs.classes).T.copy()).float()
    return Outputs(outputs.task, outputs.classes, basis)


def forward_outputs(
    outputs: Outputs, logits: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """From the model's logits: differentiated outputs [B, P], full outputs f0 [B, 1 or C], and losses [B].

    Losses are cross-entropy (classification; language models: mean over the example's target tokens), half the squared
    error (regression), or DPO's or KTO's at its start; of embeddings those beside the pulls. Logits are [B, C], [B, 1] or
    [B, T, vocabulary], of pairs [2B, T, vocabulary], of k texts each embeddings [kB, h]; labels as
    :func:`advisor.models.encode.collate` gives.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if outputs.task == PREFERENCE:
        value = BETA * margins(logits, labels)[:, None]
        start = torch.zeros_like(value.detach())
        return value, start, functional.softplus(-start[:, 0])
    if outputs.task == KTO:
        value = (BETA * signs(labels) * log_likelihoods(logits, labels))[:, None]
        start = torch.zeros_like(value.detach())
        return value, start, torch.sigmoid(-start[:, 0])
    if outputs.task == EMBEDDING:
        pulls = labels.to(logits)
        value = -2 * (logits.view(*pulls.shape[:2], -1) * pulls[..., :-1]).sum((1, 2))[:, None]
        return value, torch.zeros_like(value.detach()), pulls[..., -1].mean(1)
    if outputs.task in BY_ODDS:
        odds, losses = _token_means(*aligned(outputs.task, logits, labels))
        return odds[:, None], odds.detach()[:, None], losses
    if outputs.task == "regression":
        value = logits[:, :1]
        return value, value.detach(), 0.5 * (value[:, 0] - labels) ** 2
    losses = functional.cross_entropy(logits, labels, reduction="none")
    if outputs.classes == 2:
        margin = logits[:, 1:] - logits[:, :1]
        return margin, margin.detach(), losses
    centred = logits - logits.mean(1, keepdim=True)
    assert outputs.directions is not None
    return centred @ outputs.directions.to(centred), centred.detach(), losses


def _token_means(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per example over its target tokens: mean of log p/(1−p) and mean of −log p, each [B]."""
    keep = labels != IGNORED
    index = labels.clamp(min=0)[..., None]
    target = logits.gather(-1, index)[..., 0]
    others = torch.logsumexp(logits.scatter(-1, index, float("-inf")), -1)
    count = keep.sum(1).clamp(min=1)
    odds = ((target - others) * keep).sum(1) / count
    losses = (functional.softplus(others - target) * keep).sum(1) / count  # −log p = log(1 + e^{−odds})
    return odds, losses


def targets_of(outputs: Outputs, labels: np.ndarray) -> np.ndarray:
    """Targets Y in output space, float64 [n, 1 or C]: ±1, standardised values, centred one-hot rows.

    A language model's residual target is set by :func:`residual`; its Y is returned as ones.
    """
    if outputs.task in BY_ODDS:
        return np.ones((len(labels), 1))
    if outputs.task == "regression":
        return np.asarray(labels, dtype=np.float64)[:, None]
    if outputs.classes == 2:
        return np.asarray(np.where(labels == 1, 1.0, -1.0))[:, None]
    one_hot = np.eye(outputs.classes)[labels.astype(int)]
    return np.asarray(one_hot - 1.0 / outputs.classes)


def residual(outputs: Outputs, y: np.ndarray, f0: np.ndarray) -> np.ndarray:
    """Residual target z [n, 1 or C]: Y − f0; language models: 1 − σ(f0), an approximation of mean(1 − p); what is
    compared: 1 − σ(0), of KTO half of it, as its loss is 1 − σ and not −log σ."""
    if outputs.task == KTO:
        return np.full_like(f0, 0.25)
    if outputs.task in COMPARED:
        f0 = np.zeros_like(f0)
    if outputs.task in BY_ODDS:
        return np.asarray(expit(-f0))
    return np.asarray(y - f0)


def loss_slope(outputs: Outputs, y: np.ndarray, f0: np.ndarray) -> np.ndarray:
    """dℓ_i/df_i [n] where ∇ℓ_i is a multiple of ∇f_i (two classes, regression, what is compared)."""
    if outputs.task == "regression":
        return np.asarray((f0 - y)[:, 0])
    if outputs.task == KTO:
        return np.full(len(y), -0.25)
    return np.asarray((-y * expit(-y * f0))[:, 0])
