"""How far two selections lie apart, and how alike the errors of their predictions are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def parameter_distances(params: Array, reference: Array) -> Array:
    """[S + 1, S + 1]: 1 − Σ_m min/Σ_m max of the modules' LoRA parameters; the reference [M] is appended last."""
    sizes = np.vstack([params, reference])
    shared = np.array([np.minimum(sizes, row).sum(1) for row in sizes])
    own = sizes.sum(1)
    either = own[:, None] + own[None, :] - shared
    return np.asarray(1.0 - np.divide(shared, either, out=np.ones_like(shared), where=either > 0))


def error_correlations(distances: Array, common: float) -> Array:
    """[S + 1, S + 1] correlations of the errors of selections at these distances, all modules last.

    An error is one part that two selections share as far as they share parameters, 1 − distance, and one, ``common`` of the
    variance, that all of a group have at their distance d from all modules: cos(θ_S − θ_T) with cos θ = 1 − d. So the error
    against all modules is the same whatever ``common`` is; what selections of one size differ by falls with it.
    """
    near = np.clip(1.0 - distances, 0.0, 1.0)
    to_all = near[-1]
    off = np.sqrt(1.0 - to_all**2)
    return np.asarray((1.0 - common) * (1.0 - distances) + common * (np.outer(to_all, to_all) + np.outer(off, off)))
