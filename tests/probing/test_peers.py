"""Other methods' scores of modules against direct computations and PEFT's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.helpers import KappaTuneSelector, find_kappa_target_modules

from advisor.core.events import Event, Note, Session, Warn
from advisor.models.encode import IGNORED, EncodedRow, collate
from advisor.models.prepare import Prepared
from advisor.probing import peer_scores as peers
from advisor.probing.peer_scores import condition_number, explained_variance, measure_peers, norm_ratios, spectrum_score

TinyModel = Callable[..., Path]


# --- formulas ----------------------------------------------------------------------------------------------------


def reference_spectrum(weight: np.ndarray) -> float:
    s = np.linalg.svd(weight, compute_uv=False)
    sigma = (np.percentile(s, 75) - np.percentile(s, 25)) / 1.349
    edge = sigma * (1 + np.sqrt(min(weight.shape) / max(weight.shape)))
    noise = s[s <= edge].sum() if (s <= edge).any() else 1.0
    return float(s[s > edge].sum() / noise / s.max())


@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (24, 90)])
def test_spectrum_and_condition_number_on_random_weights(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(0).normal(size=shape) + 3 * np.outer(np.ones(shape[0]), np.linspace(-1, 1, shape[1]))
    weight[:, :1] *= 1e-3  # the smallest singular values fall below the edge
    weight[:8] *= 1e-3
    values = torch.linalg.svdvals(torch.from_numpy(weight))
    b, a = shape
    assert spectrum_score(values, a, b) == pytest.approx(reference_spectrum(weight), rel=1e-9)
    assert spectrum_score(values, b, a) == spectrum_score(values, a, b)  # a transposed weight, GPT-2's
    s = np.linalg.svd(weight, compute_uv=False)
    assert condition_number(values) == pytest.approx(s[0] / (s[-1] + 1e-8), rel=1e-9)


def with_singular_values(values: np.ndarray, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(len(values), len(values))))[0] for _ in range(2))
    return torch.from_numpy(u @ np.diag(values) @ v)


def test_spectrum_separates_a_low_rank_part_from_noise() -> None:
    """More than a quarter zeros and most of the rest of size 1: the edge is 2/1.349, so the three of size 10 are the signal."""
    s = np.array([10.0] * 3 + [1.0] * 47 + [0.0] * 30)
    values = torch.linalg.svdvals(with_singular_values(s))
    assert spectrum_score(values, 80, 80) == pytest.approx(30 / 47 / 10, rel=1e-6)


def test_spectrum_without_noise_or_weight() -> None:
    assert spectrum_score(torch.tensor([4.0, 4.0, 4.0]), 3, 3) == 3.0  # all above an edge of 0; noise counts as 1
    assert math.isnan(spectrum_score(torch.zeros(3), 3, 3))
    assert math.isnan(spectrum_score(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]), 5, 5))  # noise is exactly 0


def test_an_orthogonal_weight_has_condition_number_one() -> None:
    values = torch.linalg.svdvals(with_singular_values(np.full(30, 2.0)))
    assert condition_number(values) == pytest.approx(1.0, abs=1e-6)
    assert condition_number(torch.tensor([1.0, 0.0])) == pytest.approx(1e8)


@pytest.mark.parametrize("shape", [(200, 12), (9, 30), (90, 100)])
def test_explained_variance_is_that_of_centred_principal_components(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(1).normal(size=shape) * np.linspace(1, 4, shape[1]) + 5
    s = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    wanted = np.pad((s / s.sum())[:64], (0, max(0, 64 - len(s))))
    np.testing.assert_allclose(explained_variance(torch.from_numpy(x)), wanted, rtol=1e-5, atol=1e-12)


def test_explained_variance_of_inputs_on_a_plane() -> None:
    rng = np.random.default_rng(2)
    plane = np.linalg.qr(rng.normal(size=(20, 2)))[0].T
    coordinates = rng.choice([-1.0, 1.0], size=(400, 2)) * [3.0, 1.0]
    coordinates = np.vstack([coordinates, -coordinates, coordinates * [1, -1], coordinates * [-1, 1]])  # uncorrelated
    found = np.array(explained_variance(torch.from_numpy(coordinates @ plane + 7.0)))
    np.testing.assert_allclose(found[:2], [0.9, 0.1], rtol=1e-5)
    assert np.abs(found[2:]).max() < 1e-12
    assert explained_variance(torch.full((5, 3), 2.0)) == [0.0] * 64


def test_plop_is_one_for_random_inputs_and_extreme_along_singular_vectors() -> None:
    torch.manual_seed(0)
    weight = torch.randn(300, 200)
    norm = float(weight.norm())
    x = torch.randn(500, 200) * torch.rand(500, 1)
    assert float(norm_ratios(x, x @ weight.T, norm).mean()) == pytest.approx(1.0, abs=0.01)
    _, s, v = torch.linalg.svd(weight)
    x = torch.stack([3 * v[0], 0.1 * v[-1], 0 * v[0]])
    wanted = [float(s[0]) * math.sqrt(200) / norm, float(s[-1]) * math.sqrt(200) / norm]
    np.testing.assert_allclose(norm_ratios(x, x @ weight.T, norm), wanted, rtol=1e-4)  # the zero input is left out


# --- on models ---------------------------------------------------------------------------------------------------


Encoded = Callable[..., tuple[Prepared, list[EncodedRow]]]
MODELS = [("bert", "classification"), ("gpt2", "classification"), ("gpt2", "causal-lm"), ("llama", "causal-lm")]
MODELS += [("t5", "seq2seq")]


def inputs_of(prepared: Prepared, rows: list[EncodedRow], trained_only: bool) -> dict[str, np.ndarray]:
    """Inputs of every target, row by row, so without padding."""
    seen: dict[str, list[np.ndarray]] = {t.name: [] for t in prepared.loaded.targets}
    handles = [
        prepared.loaded.model.get_submodule(name).register_forward_pre_hook(
            lambda module, x, name=name: seen[name].append(x[0].double().numpy().reshape(-1, x[0].shape[-1]))
        )
        for name in seen
    ]
    with torch.no_grad():
        for row in rows:
            batch = collate([row], prepared.loaded)
            batch.pop("labels")
            prepared.loaded.model(**batch)
            if trained_only and prepared.loaded.task == "causal-lm":
                wanted = np.array(row.token_labels) != IGNORED
                for parts in seen.values():
                    parts[-1] = parts[-1][wanted]
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(parts) for name, parts in seen.items()}


@pytest.mark.parametrize(("name", "task"), MODELS)
def test_scores_equal_a_direct_computation(encoded: Encoded, name: str, task: str) -> None:
    prepared, rows = encoded(name, task)
    assert len({len(row.ids) for row in rows}) > 3  # so there is padding
    found = measure_peers(prepared.loaded, rows, Session())
    every, trained = inputs_of(prepared, rows, False), inputs_of(prepared, rows, True)
    state = {k: v.double().numpy() for k, v in prepared.loaded.model.state_dict().items()}
    assert any(t.kind == "conv1d" for t in prepared.loaded.targets) == (name == "gpt2")
    for i, target in enumerate(prepared.loaded.targets):
        weight = state[f"{target.name}.weight"]
        weight = weight.T if target.kind == "conv1d" else weight
        assert found["spectrum"][i] == pytest.approx(reference_spectrum(weight), rel=1e-4)
        s = np.linalg.svd(weight, compute_uv=False)
        assert found["kappatune"][i] == pytest.approx(s[0] / s[-1], rel=1e-3)
        x = every[target.name]
        root_mean_square = np.linalg.norm(x, axis=1) * np.sqrt(s @ s / x.shape[1])
        assert found["plop"][i] == pytest.approx((np.linalg.norm(x @ weight.T, axis=1) / root_mean_square).mean(), rel=1e-4)
        x = trained[target.name]
        variances = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
        ratios = np.array(found["eva"]["ratios"][i])
        assert ratios.shape == (64,)
        shown = min(24, len(variances))
        np.testing.assert_allclose(ratios[:shown], (variances / variances.sum())[:shown], rtol=1e-3, atol=1e-6)
    assert found["eva"]["tokens"] == len(trained[prepared.loaded.targets[0].name])


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_condition_numbers_are_those_of_peft(encoded: Encoded, name: str) -> None:
    prepared, rows = encoded(name, "classification")
    model, targets = prepared.loaded.model, prepared.loaded.targets
    found = dict(zip([t.name for t in targets], measure_peers(prepared.loaded, rows, Session())["kappatune"], strict=True))
    selector = KappaTuneSelector(model, show_progress=False)
    order = [n for n in selector.get_best_targets() if n in found]
    assert len(order) == len(targets)
    for target in found:
        assert found[target] == pytest.approx(selector._condition_numbers[target], rel=1e-6)  # type: ignore[index]
    assert sorted(found, key=found.__getitem__) == order
    best = find_kappa_target_modules(model, top_p=0.5, show_progress=False)["target_modules"] or []
    mine = sorted(found, key=found.__getitem__)
    assert [n for n in best if n in found] == mine[: sum(n in found for n in best)]


def test_half_precision_is_measured_in_single(encoded: Encoded) -> None:
    prepared, rows = encoded("gpt2", "causal-lm")
    full = measure_peers(prepared.loaded, rows, Session())
    prepared, rows = encoded("gpt2", "causal-lm", "bfloat16")
    assert prepared.loaded.dtype == torch.bfloat16
    half = measure_peers(prepared.loaded, rows, Session())
    for i, target in enumerate(prepared.loaded.targets):
        weight = prepared.loaded.model.get_submodule(target.name).weight.double().numpy()
        assert half["spectrum"][i] == pytest.approx(reference_spectrum(weight), rel=1e-4)
        s = np.linalg.svd(weight, compute_uv=False)
        assert half["kappatune"][i] == pytest.approx(s[0] / s[-1], rel=1e-3)
    np.testing.assert_allclose(half["plop"], full["plop"], rtol=0.02)
    np.testing.assert_allclose(half["eva"]["ratios"], full["eva"]["ratios"], rtol=0.1, atol=2e-3)


def test_large_weights_are_skipped_and_said_so(encoded: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, rows = encoded("bert", "classification")
    events: list[Event] = []
    wide = [max(t.in_features, t.out_features) > 30 for t in prepared.loaded.targets]
    none, every = [False] * len(wide), [True] * len(wide)
    tried: tuple[tuple[dict[str, float], list[bool]], ...] = (
        ({"MAX_DIMENSION": 30}, wide),
        ({"SVD_FREE": 0, "SVD_SHARE": 1.0}, none),  # less than the passes
        ({"SVD_FREE": 0, "SVD_SHARE": 0}, every),
    )
    for limits, skipped in tried:
        with monkeypatch.context() as patch:
            for limit, value in limits.items():
                patch.setattr(peers, limit, value)
            found = measure_peers(prepared.loaded, rows, Session(emit=events.append))
        assert [value is None for value in found["kappatune"]] == skipped == [value is None for value in found["spectrum"]]
        assert None not in found["plop"]
    said = [f"of {count} of {len(wide)} weights" for count in (sum(wide), len(wide))]
    assert [words in e.text for words, e in zip(said, (e for e in events if isinstance(e, Note)), strict=True)] == [True, True]
    with torch.no_grad():
        prepared.loaded.model.get_submodule(prepared.loaded.targets[0].name).weight[0, 0] = math.nan
    found = measure_peers(prepared.loaded, rows, Session())
    assert [peer for peer in ("spectrum", "kappatune", "plop") if found[peer][0] is not None] == []
    assert found["eva"]["ratios"][0] is not None  # its input is still sound


def test_of_many_tokens_some_rows_are_enough(encoded: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, rows = encoded("llama", "causal-lm")
    monkeypatch.setattr(peers, "PEER_TOKENS", sum(row.length for row in rows) // 3)
    some = peers._some(rows)
    assert len(rows) // 4 <= len(some) <= len(rows) // 2
    places = [rows.index(row) for row in some]
    assert len(set(places)) == len(places)
    assert max(np.diff(places)) - min(np.diff(places)) <= 1  # evenly spread
    found = measure_peers(prepared.loaded, rows, Session())
    monkeypatch.undo()
    assert found["plop"] == measure_peers(prepared.loaded, some, Session())["plop"]
    assert peers._some(rows) == rows


def test_memory_is_bounded_and_the_result_the_same(encoded: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, rows = encoded("bert", "classification")
    whole = measure_peers(prepared.loaded, rows, Session())
    monkeypatch.setattr(peers, "EVA_BYTES", 1)  # one module a turn
    monkeypatch.setattr(peers, "BATCH_TOKENS", 6 * max(len(row.ids) for row in rows))
    forward, calls = prepared.loaded.model.forward, []

    def tight(**batch: torch.Tensor) -> Any:
        calls.append(len(batch["input_ids"]))
        if len(batch["input_ids"]) > 3:
            forward(**batch)  # what was seen before the memory ran out must not count
            raise MemoryError
        return forward(**batch)

    monkeypatch.setattr(prepared.loaded.model, "forward", tight)
    again = measure_peers(prepared.loaded, rows, Session())
    assert calls.count(6) == len(prepared.loaded.targets)
    assert calls.count(3) > 5 * len(prepared.loaded.targets)
    for peer in ("spectrum", "kappatune", "plop"):
        np.testing.assert_allclose(again[peer], whole[peer], rtol=1e-5)
    np.testing.assert_allclose(again["eva"]["ratios"], whole["eva"]["ratios"], rtol=1e-4, atol=1e-7)
    events: list[Event] = []
    monkeypatch.setattr(prepared.loaded.model, "forward", lambda **batch: (_ for _ in ()).throw(MemoryError()))
    none = measure_peers(prepared.loaded, rows, Session(emit=events.append))
    assert none["plop"] == none["eva"]["ratios"] == [None] * len(prepared.loaded.targets)
    assert none["kappatune"] == whole["kappatune"]
    assert any(isinstance(e, Warn) and "PLoP and EVA" in e.text for e in events)
    assert not [m for m in prepared.loaded.model.modules() if m._forward_hooks]


def test_eva_looks_at_no_more_tokens_than_it_may(encoded: Encoded, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, rows = encoded("llama", "causal-lm")
    keep = peers._kept_tokens(rows, 10_000)
    assert keep == [[label != IGNORED for label in row.token_labels] for row in rows]
    fewer = peers._kept_tokens(rows, 25)
    assert 13 <= sum(map(sum, fewer)) <= 25
    places = np.flatnonzero(np.concatenate([np.array(row) for row in fewer])[np.concatenate([np.array(row) for row in keep])])
    assert set(np.diff(places)) == {math.ceil(sum(map(sum, keep)) / 25)} != {1}  # evenly spaced among those it is trained on
    assert all(not f or k for f_row, k_row in zip(fewer, keep, strict=True) for f, k in zip(f_row, k_row, strict=True))
    monkeypatch.setattr(peers, "EVA_TOKENS", 25)
    found = measure_peers(prepared.loaded, rows, Session())
    assert found["eva"]["tokens"] == sum(map(sum, fewer))
    chosen = np.concatenate([np.array(row) for row in fewer])
    x = inputs_of(prepared, rows, False)[prepared.loaded.targets[0].name][chosen]
    variances = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    wanted = (variances / variances.sum())[:10]
    np.testing.assert_allclose(found["eva"]["ratios"][0][:10], wanted, rtol=1e-3, atol=1e-6)
