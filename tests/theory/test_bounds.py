"""Every bound against its quantity over random PSD families, in 60-digit arithmetic; the certificate by brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from bound_families import (
    EPS,
    Family,
    exact_condition,
    exact_eigenvalues,
    families,
    objective_and_risk,
    psd,
    ratio_of_objectives,
    root_ratio_of_risks,
    spectrum_of_shape,
)
from fakes import random_kernels
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.theory.bounds import (
    APPLIES,
    DOES_NOT_APPLY,
    Bound,
    Change,
    bound_a,
    bound_a_eigenvalues,
    bound_b,
    bound_b_budget,
    bound_b_removal,
    certificate,
    corollary_1,
    relative_sizes,
    theorem_5,
    theorem_6,
    theorem_7,
    weyl,
    weyl_bound,
)
from advisor.theory.kernels import Kernels
from advisor.theory.spectrum import Spectrum

M, N = 5, 12
MASKS = [np.array(bits, dtype=float) for bits in product([0, 1], repeat=M)]
ALMOST = 1 + 1e-6  # what a tight side may be away from equality


def assert_holds(bound: Bound, value: float, slack: float) -> None:
    assert bound.status == APPLIES
    assert bound.reason is None
    assert bound.low is not None
    assert bound.high is not None
    assert bound.low <= value * (1 + slack), (bound, value)
    assert value <= bound.high * (1 + slack), (bound, value)


def assert_fails(bound: Bound, reason: str) -> None:
    assert (bound.low, bound.high, bound.status) == (None, None, DOES_NOT_APPLY)
    assert bound.reason is not None
    assert reason in bound.reason


# Validity.


@settings(max_examples=700, deadline=None)
@given(families())
def test_theorem_5(family: Family) -> None:
    risk = float(objective_and_risk([family.base], family.sigma, family.z)[1])
    assert_holds(theorem_5(family.change.spectrum, family.z, family.sigma), risk, 2 * family.rounding)


@settings(max_examples=1500, deadline=None)
@given(families())
def test_eigenvalues_weyl_theorem_6_and_a(family: Family) -> None:
    change = family.change
    before, after = np.linalg.eigvalsh(family.base), np.linalg.eigvalsh(family.base + family.part)
    slack = 1e-9 * after[-1]
    low, high = weyl(change)
    assert (low <= after + slack).all()
    assert (after <= high + slack).all()
    low, high = bound_a_eigenvalues(change)
    assert (low <= after + family.sigma + slack).all()
    assert (after + family.sigma <= high * (1 + family.rounding) + slack).all()
    if before[-1] > 0:
        assert_holds(weyl_bound(change), after[-1] / before[-1], 1e-9)
    else:
        assert_fails(weyl_bound(change), "K is zero")
    bound = theorem_6(change)
    if bound.status == APPLIES:
        assert bound.low is not None
        assert bound.high is not None
        relative = 1e-9 + 16 * len(before) * EPS * before[-1] / before[0]
        assert (bound.low * before <= after * (1 + relative) + slack).all()
        assert (after <= bound.high * before * (1 + relative) + slack).all()
    else:
        assert_fails(bound, "singular")
        assert before[0] <= 1.01e-10 * before[-1]


@settings(max_examples=400, deadline=None)
@given(families(shapes=("full", "mild", "decades"), relations=("within", "proportional", "shared")))
def test_theorem_6_to_the_smallest_eigenvalue(family: Family) -> None:
    """Ratios, where 1e-9 of λmax would hide the small eigenvalues."""
    bound = theorem_6(family.change)
    before, after = exact_eigenvalues([family.base]), exact_eigenvalues([family.base, family.part])
    if before[0] <= 1.01e-10 * before[-1]:
        assert before[0] >= 0.99e-10 * before[-1] or bound.status == DOES_NOT_APPLY
        return
    for a, b in zip(after, before, strict=True):
        assert_holds(bound, float(a / b), 1e-9 + 16 * len(before) * EPS * float(before[-1] / before[0]))


@settings(max_examples=500, deadline=None)
@given(families())
def test_a_condition_number(family: Family) -> None:
    """σ down to 1e-8 of the mean and S up to 1e8 times K: the small end of K+S+σI needs more digits than float64 has."""
    ratio = exact_condition([family.base, family.part], family.sigma) / exact_condition([family.base], family.sigma)
    assert_holds(bound_a(family.change), float(ratio), family.rounding)


@settings(max_examples=1200, deadline=None)
@given(families())
def test_b_adding(family: Family) -> None:
    ratio = ratio_of_objectives([family.base, family.part], [family.base], family.sigma, family.z)
    bound = bound_b(family.change)
    assert_holds(bound, ratio, family.rounding)
    assert bound.high == 1.0
    assert ratio <= 1 + 1e-12


@settings(max_examples=700, deadline=None)
@given(families())
def test_b_removal(family: Family) -> None:
    whole = family.base + family.part
    bound = bound_b_removal(Change(whole, family.part, family.sigma))
    ratio = ratio_of_objectives([whole, -family.part], [whole], family.sigma, family.z)
    loss = 16 * len(whole) * EPS * np.linalg.norm(whole, 2) / family.sigma  # of η_σ, which 1/(1−η_σ) magnifies
    if bound.status == APPLIES:
        assert bound.high is not None
        assert_holds(bound, ratio, 1e-9 + loss * bound.high)
    else:
        assert_fails(bound, "not below 1")
        assert loss * ratio > 0.1  # no digit left


@settings(max_examples=1200, deadline=None)
@given(families(shapes=("full", "mild", "flat", "decades"), relations=("within", "within", "proportional", "flat", "full")))
def test_theorem_7_and_corollary_1(family: Family) -> None:
    first, second = family.change, Change(family.base, family.other, family.sigma, "S2")
    slack = 4 * family.rounding
    values = np.linalg.eigvalsh(family.base)
    applying = []
    for change in (first, second):
        bound = theorem_7(change)
        if values[0] > 1.01e-10 * values[-1]:
            eta = float(np.max(np.abs(np.linalg.eigvals(np.linalg.solve(family.base, change.part)))))
            doubt = 1e-6 + 16 * len(values) * EPS * values[-1] / values[0]
            if eta > 1 + doubt:
                assert_fails(bound, "not below 1")
            if eta < 1 - doubt:
                assert bound.status == APPLIES
        elif values[0] < 0.99e-10 * values[-1]:
            assert_fails(bound, "singular")
        applying.append(bound.status == APPLIES)
        if bound.status == APPLIES:
            ratio = root_ratio_of_risks([family.base, change.part], [family.base], family.sigma, family.z)
            assert_holds(bound, ratio, slack)
            wider = theorem_7(change, 3 * (values[-1] + family.sigma) / (values[0] + family.sigma))
            assert_holds(wider, ratio, slack)
            assert wider.high == pytest.approx(3 * bound.high, rel=1e-5)
            assert wider.low == pytest.approx(bound.low / 3, rel=1e-5)
    bound = corollary_1(first, second)
    assert bound.added == "S or S2"
    if all(applying):
        sums = [family.base, family.part], [family.base, family.other]
        assert_holds(bound, root_ratio_of_risks(*sums, family.sigma, family.z), slack)
    else:
        assert_fails(bound, f"{'S2' if applying[0] else 'S'}: ")


@settings(max_examples=250, deadline=None)
@given(families(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_b_of_every_set_that_fits(family: Family, modules: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, top = len(family.z), np.linalg.norm(family.base, 2) or 1.0
    parts = np.stack(
        [psd(np.linalg.qr(rng.normal(size=(n, n)))[0], spectrum_of_shape(rng, "deficient", n)) for _ in range(modules)]
    )
    if rng.random() < 0.3:
        parts[:] = parts[:1]  # the same direction again and again: Σ η is reached
    parts *= (top * 10 ** rng.uniform(-8, 1, modules))[:, None, None]
    sizes = rng.integers(1, 6, modules)
    etas = relative_sizes(Change(family.base, parts[0], family.sigma).spectrum, parts, family.sigma)
    left = float(rng.uniform(0, sizes.sum() + 1))
    floor = bound_b_budget(etas, sizes, left)
    for bits in product([False, True], repeat=modules):
        chosen = np.array(bits)
        if not chosen.any():
            continue
        together = Change(family.base, parts[chosen].sum(0), family.sigma).eta_sigma
        assert together <= etas[chosen].sum() * (1 + family.rounding)
        if sizes[chosen].sum() <= left:
            ratio = ratio_of_objectives([family.base, *parts[chosen]], [family.base], family.sigma, family.z)
            assert floor <= ratio * (1 + family.rounding)
            assert floor <= 1 / (1 + together) * (1 + family.rounding)


@settings(max_examples=200, deadline=None)
@given(families(), st.booleans(), st.integers(0, 2**32 - 1))
def test_certificate_of_any_family(family: Family, with_head: bool, seed: int) -> None:
    """The head's block is K, the modules are S, its double and another; every superset of every selection."""
    blocks = np.stack([family.part, 2 * family.part, family.other])
    kernels = Kernels("adam", blocks, family.base)
    start = np.random.default_rng(seed).integers(0, 2, 3)
    bound = certificate(kernels, start.astype(float), family.z, family.sigma, with_head)
    head = [family.base] if with_head else [np.zeros_like(family.base)]
    top = np.linalg.norm(blocks.sum(0) + family.base, 2)
    slack = 1e-9 + 16 * len(family.z) * EPS * top / family.sigma
    before, _ = objective_and_risk([*head, *blocks[start == 1]], family.sigma, family.z)
    for bits in product([0, 1], repeat=3):
        chosen = np.array(bits)
        if (chosen >= start).all():
            after, _ = objective_and_risk([*head, *blocks[chosen == 1]], family.sigma, family.z)
            assert_holds(bound, float(after / before), slack)
    assert bound.low is not None
    assert abs(bound.low - float(after / before)) <= slack  # the last one is everything: reached


# What does not hold, and says so.


def scalar(*values: float) -> np.ndarray:
    return np.diag(np.array(values, dtype=float))


def test_theorem_7_beyond_one_is_false_and_says_so() -> None:
    """K = 1, S = 3, σ = Y = c = 1: what the paper prints as lower bound is 10, the ratio 0.4."""
    change = Change(scalar(1), scalar(3), 1.0)
    assert change.eta == pytest.approx(3)
    printed = (4 + 1) / (1 + 1) / (1 / (1 - 3) ** 2)
    assert printed == pytest.approx(10)
    assert root_ratio_of_risks([scalar(1), scalar(3)], [scalar(1)], 1.0, np.ones((1, 1))) == pytest.approx(0.4)
    assert_fails(theorem_7(change), "η = 3 is not below 1")
    assert_fails(theorem_7(Change(scalar(1), scalar(1), 1.0)), "not below 1")
    fine = Change(scalar(1), scalar(0.5), 1.0, "fine")
    assert_fails(corollary_1(change, fine), "S: η = 3")
    assert_fails(corollary_1(fine, change), "S: η = 3")
    assert theorem_6(change).status == APPLIES


@pytest.mark.parametrize("base", [scalar(0), scalar(1, 0), scalar(1, 1e-11), np.ones((3, 3)), np.zeros((4, 4))])
def test_a_singular_kernel(base: np.ndarray) -> None:
    change = Change(base, 1e-3 * np.eye(len(base)), 0.1)
    for bound in (theorem_6(change), theorem_7(change), corollary_1(change, change)):
        assert_fails(bound, "K is singular")
    for bound in (theorem_5(change.spectrum, np.ones((len(base), 1)), 0.1), bound_a(change), bound_b(change)):
        assert bound.status == APPLIES


def test_what_is_no_part_cannot_be_removed() -> None:
    assert_fails(bound_b_removal(Change(scalar(1, 1), scalar(0.5, 1.1), 1.0)), "not a part of K")
    assert_fails(bound_b_removal(Change(scalar(1), scalar(1), 1e-20)), "not below 1")
    assert bound_b_removal(Change(scalar(1, 1), scalar(0.5, 1), 1.0)).status == APPLIES


def test_arguments_that_contradict() -> None:
    change = Change(scalar(1, 4), scalar(0.1, 0.1), 1.0)
    theorem_7(change, 2.5)
    with pytest.raises(ValueError, match="below κ"):
        theorem_7(change, 2.4)
    with pytest.raises(ValueError, match="one kernel"):
        corollary_1(change, Change(scalar(1, 4), scalar(0.1, 0.1), 2.0))
    with pytest.raises(ValueError, match="one kernel"):
        corollary_1(change, Change(scalar(1, 5), scalar(0.1, 0.1), 1.0))


# Tightness: families on which a side is reached.


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def assert_reached(side: float | None, value: float) -> None:
    assert side is not None
    assert 1 / ALMOST <= side / value <= ALMOST


def test_theorem_5_is_reached_by_eigenvectors() -> None:
    kernel, sigma = scalar(2, 5, 7), 0.3
    spectrum = Spectrum.of(kernel)
    for z, side in ((column(0, 0, 3), "low"), (column(3, 0, 0), "high")):
        risk = float(objective_and_risk([kernel], sigma, z)[1])
        assert_reached(getattr(theorem_5(spectrum, z, sigma), side), risk)
    assert theorem_5(spectrum, column(3, 0, 0), sigma).high == pytest.approx((0.3 * 3 / 2.3) ** 2)
    two = theorem_5(spectrum, np.ones((3, 2)), sigma)  # columns add
    assert two.low == pytest.approx(6 * (0.3 / 7.3) ** 2)


def test_weyl_is_reached() -> None:
    change = Change(scalar(1, 2, 5), scalar(3, 3, 3), 1.0)
    for side in weyl(change):
        np.testing.assert_allclose(side, [4, 5, 8], rtol=1e-6)
    assert_reached(weyl_bound(Change(scalar(1, 5), scalar(0, 2), 1.0)).high, 7 / 5)
    assert_reached(weyl_bound(Change(scalar(1, 5), scalar(3, 1), 1.0)).low, 6 / 5)


def test_theorem_6_is_reached() -> None:
    """Above by S ∝ K; below only as η → 0, as it allows for parts that are not PSD."""
    values = [1, 2, 50]
    assert_reached(theorem_6(Change(scalar(*values), 0.7 * scalar(*values), 1.0)).high, 1.7)
    small = theorem_6(Change(scalar(*values), 1e-7 * scalar(*values), 1.0))
    assert_reached(small.low, 1 + 1e-7)


def test_theorem_7_and_corollary_1_are_reached_as_eta_vanishes_on_one_eigenvalue() -> None:
    base, sigma, z = 3 * np.eye(4), 0.5, column(1, 2, 3, 4)
    first, second = (Change(base, size * np.eye(4), sigma) for size in (2e-7, 1e-7))
    ratio = root_ratio_of_risks([base, first.part], [base], sigma, z)
    bounds = [(theorem_7(first), ratio)]
    bounds.append((corollary_1(first, second), ratio / root_ratio_of_risks([base, second.part], [base], sigma, z)))
    for bound, value in bounds:
        assert_reached(bound.low, value)
        assert_reached(bound.high, value)


def test_theorem_7_by_hand() -> None:
    """K = diag(1, 4), S = diag(0.5, 0.4), σ = 1: η = ½, κ = 5/2, a = 10, ρ = 5.4/5; and S2 = diag(0, 2): ρ = 7/5, a = 10."""
    first, second = Change(scalar(1, 4), scalar(0.5, 0.4), 1.0), Change(scalar(1, 4), scalar(0, 2), 1.0)
    bound = theorem_7(first)
    assert (bound.low, bound.high) == (pytest.approx(0.108), pytest.approx(10.8))
    bound = theorem_7(first, 5.0)
    assert (bound.low, bound.high) == (pytest.approx(0.054), pytest.approx(21.6))
    bound = corollary_1(first, second)
    assert (bound.low, bound.high) == (pytest.approx(5.4 / 7 / 100), pytest.approx(5.4 / 7 * 100))


def test_a_is_reached() -> None:
    sigma = 0.1
    low, high = bound_a_eigenvalues(Change(scalar(1, 5), scalar(0, 2), sigma))
    assert_reached(low[0], 1.1)
    assert_reached(high[1], 7.1)
    more = Change(scalar(1, 5), scalar(0, 2), sigma)  # raises the top alone
    assert_reached(bound_a(more).high, (7.1 / 1.1) / (5.1 / 1.1))
    less = Change(scalar(0, 5), scalar(2, 0), sigma)  # raises the bottom alone
    assert_reached(bound_a(less).low, (5.1 / 2.1) / (5.1 / 0.1))
    proportional = Change(scalar(1, 5), scalar(1, 5), 1e-9)
    assert_reached(bound_a_eigenvalues(proportional)[1][0], 2.0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_b_is_reached(scale: float) -> None:
    base, part, sigma = scale * scalar(1, 5), scale * scalar(0, 2), 0.1 * scale
    along, across = column(0, 1), column(1, 0)
    adding, removing = Change(base, part, sigma), Change(base, part, sigma)
    assert adding.eta_sigma == pytest.approx(2 / 5.1)
    assert_reached(bound_b(adding).low, ratio_of_objectives([base, part], [base], sigma, along))
    assert_reached(bound_b(adding).high, ratio_of_objectives([base, part], [base], sigma, across))
    assert_reached(bound_b_removal(removing).high, ratio_of_objectives([base, -part], [base], sigma, along))
    assert_reached(bound_b_removal(removing).low, ratio_of_objectives([base, -part], [base], sigma, across))
    proportional = Change(base, 3 * base, 1e-8 * scale)
    assert_reached(bound_b(proportional).low, ratio_of_objectives([base, 3 * base], [base], 1e-8 * scale, along))


def test_b_of_a_budget_is_reached() -> None:
    base, sigma, z = 2 * np.eye(3), 0.5, column(1, 0, 0)
    parts = np.stack([size * np.eye(3) for size in (1.0, 0.5, 4.0)])
    etas = relative_sizes(Change(base, parts[0], sigma).spectrum, parts, sigma)
    np.testing.assert_allclose(etas, [0.4, 0.2, 1.6])
    ratio = ratio_of_objectives([base, parts[0], parts[1]], [base], sigma, z)
    assert_reached(bound_b_budget(etas, np.array([2, 2, 50]), 4.0), ratio)
    assert bound_b_budget(etas, np.array([1, 1, 5]), 2.0) == pytest.approx(1 / 1.72)  # 0.4 + 1.6/5
    for left, total in ((0.0, 0.0), (0.5, 0.2), (7.0, 2.2), (100.0, 2.2)):
        assert bound_b_budget(etas, np.array([1, 1, 5]), left) == pytest.approx(1 / (1 + total))


def test_c_is_reached_above_where_the_rest_says_nothing() -> None:
    kernels = Kernels("adam", np.stack([scalar(1, 0), scalar(0, 1)]), np.zeros((2, 2)))
    only = np.array([1.0, 0.0])
    assert_reached(certificate(kernels, only, column(1, 0), 0.1).low, 1.0)
    assert certificate(kernels, only, column(0, 1), 0.1).low == pytest.approx(0.1 / 1.1)


# The certificate on its own.


def objective(kernel: np.ndarray, z: np.ndarray, sigma: float) -> float:
    return float(sigma * np.trace(z.T @ np.linalg.solve(kernel + sigma * np.eye(len(z)), z)))


def brute(kernels, mask: np.ndarray, with_head: bool = True) -> np.ndarray:  # type: ignore[no-untyped-def]
    return np.asarray(np.einsum("m,mij->ij", mask, kernels.blocks) + with_head * kernels.head)


@pytest.mark.parametrize("with_head", [True, False])
@pytest.mark.parametrize("relative_sigma", [1e-4, 1e-2, 10.0])
def test_exact_over_all_additions(relative_sigma: float, with_head: bool) -> None:
    kernels = random_kernels(3, M, N)
    z = np.random.default_rng(0).normal(size=(N, 2))
    sigma = relative_sigma * np.trace(kernels.blocks.sum(0)) / N
    values = [objective(brute(kernels, mask, with_head), z, sigma) for mask in MASKS]
    informative = 0
    for mask, own in zip(MASKS, values, strict=True):
        bound = certificate(kernels, mask, z, sigma, with_head)
        ratios = [v / own for other, v in zip(MASKS, values, strict=True) if (other >= mask).all()]
        assert bound.low == pytest.approx(min(ratios), rel=1e-7)  # reached: by adding everything
        assert max(ratios) <= bound.high * (1 + 1e-9)
        assert bound.high == 1.0
        informative += bound.low < 0.999
    assert informative >= 2**M - 2


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_objective_never_rises_when_modules_are_added(seed: int, relative: float) -> None:
    rng = np.random.default_rng(seed)
    kernels = random_kernels(seed, M, N, rank=int(rng.integers(1, N)))
    z = rng.normal(size=(N, int(rng.integers(1, 4))))
    sigma = relative * kernels.default_sigma()
    mask = np.zeros(M)
    previous = certificate(kernels, mask, z, sigma).low
    for m in rng.permutation(M):
        mask[m] = 1
        now = certificate(kernels, mask, z, sigma).low
        assert previous <= now * (1 + 1e-7)  # V(all) is the same, so V(S) must not have risen
        previous = now
    assert previous == pytest.approx(1.0)


def test_everything_adapted_leaves_nothing_to_gain() -> None:
    kernels = random_kernels(1, M, N)
    bound = certificate(kernels, np.ones(M), np.ones((N, 1)), 1.0)
    assert (bound.low, bound.high) == (pytest.approx(1.0), 1.0)
    assert bound.low <= 1.0


def test_nothing_to_fit_leaves_nothing_to_gain() -> None:
    bound = certificate(random_kernels(1, M, N), np.zeros(M), np.zeros((N, 1)), 1.0)
    assert bound.low == bound.high == 1.0


def test_as_plain_data() -> None:
    kernels = random_kernels(1, M, N)
    bound = certificate(kernels, np.zeros(M), np.ones((N, 1)), 0.5, with_head=False).as_dict()
    assert list(bound) == ["id", "quantity", "added", "kernel", "head", "sigma", "low", "high", "status", "reason"]
    assert (bound["id"], bound["quantity"], bound["added"]) == ("C", "V(all)/V(S)", "rest")
    assert (bound["head"], bound["sigma"], bound["kernel"]) == (False, 0.5, "adam")
    assert (bound["status"], bound["reason"]) == ("applies", None)
