"""Ranks by module: never above the budget, never below 1, scale kept, and trained and exported as shown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command import advisor, refused, write_data
from fakes import candidate, make_probe, make_scorer, one_thread
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from advisor.advice import recommend as recommend_module
from advisor.advice.budget import parse_budget
from advisor.advice.ranks import MOST, allocate, auto_ranks, rank_values, serving_note
from advisor.advice.recommend import recommend
from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.probe import Probe
from advisor.core.targets import LoraSettings, Selection
from advisor.prediction.learn import rows_from_runs
from advisor.prediction.payload import score_json
from advisor.report.tables import module_map
from advisor.report.verdict import verdict
from advisor.training import runs as calibrate_module
from advisor.training.runner import PlannedRun

TinyModel = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("own_folders")


def with_spectra(probe: Probe, known: Callable[[int], bool] = lambda m: True) -> Probe:
    """Falling spectra of different steepness, None where not ``known``."""
    decays = np.linspace(0.5, 0.97, len(probe.targets))
    ratios = [[float((1 - d) * d**k) for k in range(64)] if known(m) else None for m, d in enumerate(decays)]
    others = {peer: [None] * len(probe.targets) for peer in ("spectrum", "kappatune", "plop")}
    return replace(probe, info={**probe.info, "peers": {**others, "eva": {"ratios": ratios, "tokens": 100}}})


PROBE = with_spectra(make_probe(n=32, layers=3))


# --- the allocator -------------------------------------------------------------------------------------------------


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Values that fall along k, costs, a budget of at least one rank a module."""
    modules, directions = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    number = st.floats(0, 10, allow_subnormal=False)
    row = st.lists(number, min_size=directions, max_size=directions)
    values = np.array(draw(st.lists(row, min_size=modules, max_size=modules)))
    costs = np.array(draw(st.lists(st.integers(1, 40), min_size=modules, max_size=modules)), dtype=np.int64)
    spare = draw(st.integers(0, 40 * modules * directions))
    return -np.sort(-values, axis=1), costs, int(costs.sum()) + spare


@given(problems())
def test_within_the_budget_and_between_one_and_the_most(problem: tuple[np.ndarray, np.ndarray, int]) -> None:
    values, costs, budget = problem
    ranks = allocate(values, costs, budget)
    assert ranks.min() >= 1
    assert ranks.max() <= values.shape[1]
    assert int(ranks @ costs) <= budget
    left = budget - int(ranks @ costs)
    assert not ((costs <= left) & (ranks < values.shape[1])).any()  # nothing more fits
    assert (allocate(values.copy(), costs.copy(), budget) == ranks).all()


@given(problems(), st.data())
def test_more_importance_never_means_a_lower_rank(problem: tuple[np.ndarray, np.ndarray, int], data: st.DataObject) -> None:
    values, costs, budget = problem
    module = data.draw(st.integers(0, len(costs) - 1))
    raised = values.copy()
    raised[module] *= data.draw(st.floats(1, 100))
    assert allocate(raised, costs, budget)[module] >= allocate(values, costs, budget)[module]


@settings(max_examples=60)
@given(problems())
def test_best_of_all_up_to_the_last_rank(problem: tuple[np.ndarray, np.ndarray, int]) -> None:
    values, costs, budget = (problem[0][:3, :4], problem[1][:3], problem[2])
    budget = max(int(costs.sum()), min(budget, int(values.shape[1] * costs.sum())))

    def worth(ranks: tuple[int, ...]) -> float:
        return sum(float(values[m, :r].sum()) for m, r in enumerate(ranks))

    every = product(range(1, values.shape[1] + 1), repeat=len(costs))
    best = max(worth(r) for r in every if int(np.array(r) @ costs) <= budget)
    found = worth(tuple(allocate(values, costs, budget)))
    assert found <= best + 1e-9
    last = float((values[:, 1:] / costs[:, None]).max(initial=0.0) * costs.max())
    assert found >= best - last - 1e-9
    if len(set(costs.tolist())) == 1:
        assert found == pytest.approx(best)


def test_equal_modules_get_equal_ranks_and_zeros_are_shared_out() -> None:
    costs = np.array([10, 10, 10], dtype=np.int64)
    assert allocate(np.tile([4.0, 2.0, 1.0, 0.5], (3, 1)), costs, 61).tolist() == [2, 2, 2]
    assert allocate(np.zeros((3, 4)), costs, 75).tolist() == [3, 2, 2]


def test_a_budget_below_one_rank_a_module_is_refused() -> None:
    with pytest.raises(ValueError, match="below one rank"):
        allocate(np.ones((2, 3)), np.array([5, 5]), 9)


# --- candidates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(("rank", "alpha"), [(8, 16.0), (1, 3.0), (5, 7.0)])
@pytest.mark.parametrize("indices", [range(18), [2, 9, 17], [4]])
def test_every_module_keeps_its_scale_within_the_parameters(rank: int, alpha: float, rslora: bool, indices: Any) -> None:
    plain = candidate(PROBE, indices, LoraSettings(rank, alpha, rslora))
    found = auto_ranks(PROBE)(plain)
    assert (found.selection, found.settings) == (plain.selection, plain.settings)
    assert set(found.ranks) == set(found.alphas) <= set(plain.selection.targets)
    params = found.selection.params(PROBE.targets, rank, found.ranks)
    assert params <= plain.selection.params(PROBE.targets, rank)
    for name in found.selection.targets:
        own = found.module_settings(name)
        assert 1 <= own.rank <= MOST * rank
        assert own.scale == pytest.approx(plain.settings.scale)
    assert auto_ranks(PROBE)(plain) == found
    if len(indices) == 18 and rank == 8:
        assert len(set(found.ranks.values())) > 2
        if not rslora:
            assert all(float(a).is_integer() for a in found.alphas.values())


def test_values_follow_the_gradient_the_shape_and_the_spectrum() -> None:
    values = rank_values(PROBE)
    assert values.shape == (18, 64)
    assert (np.diff(values, axis=1) <= 0).all()
    up = PROBE.targets[4]
    norm = math.sqrt(PROBE.gradient_blocks[4].astype(float).sum())
    assert values[4, 3] == pytest.approx(math.sqrt(40 / 24) * norm * PROBE.info["peers"]["eva"]["ratios"][4][3])
    assert (values[:, min(up.in_features, up.out_features) :] == 0).all()
    louder = replace(PROBE, gradient_blocks=PROBE.gradient_blocks * np.where(np.arange(18) == 3, 9.0, 1.0)[:, None, None])
    assert rank_values(louder)[3] == pytest.approx(3 * values[3])
    name, whole = PROBE.targets[3].name, candidate(PROBE, range(18))
    before, after = (auto_ranks(p)(whole).module_settings(name).rank for p in (PROBE, louder))
    assert after >= before


def test_modules_without_a_spectrum_take_the_mean_of_the_others() -> None:
    partly = rank_values(with_spectra(PROBE, lambda m: m != 5))
    whole = rank_values(PROBE)
    others = np.delete(np.array(PROBE.info["peers"]["eva"]["ratios"]), 5, axis=0)
    assert np.delete(partly, 5, axis=0) == pytest.approx(np.delete(whole, 5, axis=0))
    assert partly[5, 0] / whole[5, 0] == pytest.approx(others[:, 0].mean() / PROBE.info["peers"]["eva"]["ratios"][5][0])


@pytest.mark.parametrize("probe", [make_probe(n=20, layers=1), with_spectra(make_probe(n=20, layers=1), lambda m: False)])
def test_a_probe_without_spectra_is_refused(probe: Probe) -> None:
    with pytest.raises(BadInput, match="no spectra"):
        auto_ranks(probe)


@pytest.mark.parametrize(("largest", "says"), [(8, None), (16, None), (17, "32"), (64, "64"), (500, "512"), (513, "none")])
def test_what_serving_takes(largest: int, says: str | None) -> None:
    note = serving_note(largest, "causal-lm")
    assert note is None if says is None else says in str(note)
    assert serving_note(largest, "classification") is None  # whose head vLLM does not take


@pytest.mark.parametrize("budget", ["40%", "100%", "8modules", "memory"])
def test_the_pick_has_ranks_within_the_budget(budget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recommend_module, "STABILITY_DRAWS", 2)
    scorer = make_scorer(PROBE)
    most = (scorer.cost(candidate(PROBE, range(18))).memory_bytes + scorer.cost(candidate(PROBE, [17])).memory_bytes) // 2
    text = f"{most / 1e6}MB" if budget == "memory" else budget
    rec = recommend(scorer, parse_budget(text), Session(), spread=auto_ranks(PROBE))
    pick = rec.picked.candidate
    assert pick.ranks
    total = sum(t.lora_params(8) for t in PROBE.targets)
    assert rec.picked.cost.params == pick.selection.params(PROBE.targets, 8, pick.ranks)
    if budget == "memory":
        assert rec.picked.cost.memory_bytes <= most
    elif budget == "8modules":
        assert len(pick.selection.targets) <= 8
    else:
        assert rec.picked.cost.params <= total * float(budget[:-1]) / 100
    assert rec.finalists[0] == [c.trained_like(pick) for c in rec.pool].index(True)
    shown = score_json(rec.picked, scorer)
    assert shown["rank_pattern"] == pick.ranks
    assert shown["alpha_pattern"] == pick.alphas
    own = [pick.module_settings(n).rank for n in pick.selection.targets]
    assert f"ranks {min(own)}–{max(own)} by module" in verdict(scorer, rec, None)[0]
    cells = [cell for row in module_map(scorer, rec).rows for cell in row]
    assert sorted(int(c.rsplit(" r")[1]) for c in cells if " r" in c) == sorted(own)


def test_a_uniform_twin_of_the_pick_is_no_twin() -> None:
    plain = candidate(PROBE, range(18))
    found = auto_ranks(PROBE)(plain)
    assert not found.trained_like(plain)
    assert found.trained_like(replace(found, selection=replace(found.selection, name="other")))


# --- runs ----------------------------------------------------------------------------------------------------------


def test_runs_without_own_ranks_keep_their_keys_and_others_differ() -> None:
    plain = PlannedRun(Selection("s", ("a", "b")), LoraSettings(), 0)
    assert plain.key == "9c781e0348ebe78e"  # of folders made before there were ranks by module
    assert plain.own == {}
    found = [replace(plain, ranks={"a": 4}), replace(plain, ranks={"b": 4}), replace(plain, alphas={"a": 4.0})]
    found.append(replace(plain, ranks={"a": 4, "b": 2}))
    assert len({plain.key, *(run.key for run in found)}) == 5
    assert replace(plain, ranks={"b": 2, "a": 4}).key == found[-1].key


def test_runs_with_own_ranks_become_no_rows() -> None:
    assert rows_from_runs([{"ranks": {"a": 3}, "alphas": {}}], PROBE) == []


# --- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_model("bert"), write_data(tmp_path_factory.mktemp("data"), "classification")


def test_recommend_confirms_and_exports_the_ranks_it_shows(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = made
    monkeypatch.setattr(recommend_module, "STABILITY_DRAWS", 2)
    monkeypatch.setattr(calibrate_module, "processes", one_thread)
    ran = advisor(
        "recommend",
        model,
        "--data",
        data,
        "--samples",
        24,
        "--device",
        "cpu",
        "--budget",
        "60%",
        "--rank",
        "auto",
        "--granularity",
        "layer",
        "--epochs",
        1,
        "--confirm",
        2,
        "--confirm-rows",
        16,
        "--out",
        tmp_path,
        "--json",
    )
    assert ran.code == 0, ran.err
    shown = json.loads(ran.out)
    first = shown["confirm"]["runs"][0]
    trained = [json.loads(line) for line in (tmp_path / "confirm" / "runs.jsonl").read_text().splitlines()]
    assert (first["rank_pattern"], first["alpha_pattern"]) == (trained[0]["ranks"], trained[0]["alphas"])
    assert first["rank_pattern"]
    wanted = {name: shown["pick"].get("rank_pattern", {}).get(name, 8) for name in shown["pick"]["targets"]}
    assert (
        sum(rank * 64 if "dense" in n and "attention" not in n else rank * 48 for n, rank in wanted.items())
        == (shown["pick"]["params"])
    )
    read = yaml.safe_load((tmp_path / "lora.yaml").read_text())
    adapted: Any = get_peft_model(AutoModelForSequenceClassification.from_pretrained(model), LoraConfig(**read))
    layers = {n.removesuffix(".lora_A"): m for n, m in adapted.base_model.model.named_modules() if hasattr(m, "lora_A")}
    assert {n: layer.r["default"] for n, layer in layers.items()} == wanted
    assert all(layer.scaling["default"] == pytest.approx(2.0) for layer in layers.values())
    assert "by module" in (tmp_path / "report.md").read_text()
    again = advisor("verify", tmp_path, "--model", model, "--json")
    assert again.code == 0, again.out
    assert json.loads(again.out)["lora_params"] == shown["pick"]["params"]


@pytest.mark.parametrize("rank", ["eight", "2.5", "0", "-1"])
def test_a_bad_rank_of_recommend_is_one_line(made: tuple[Path, Path], rank: str) -> None:
    assert "--rank" in refused(2, "recommend", made[0], "--data", made[1], "--rank", rank)


@pytest.mark.parametrize("rank", ["auto", "eight"])
@pytest.mark.parametrize("command", ["score", "compare", "explain", "calibrate"])
def test_elsewhere_a_rank_is_a_number(command: str, rank: str, tmp_path: Path) -> None:
    options = ["--selections", tmp_path / "none.json"] if command == "score" else []
    found = refused(2, command, tmp_path, *options, "--rank", rank)
    assert f"--rank must be a whole number from 1 to 65536, got {rank}" in found


def test_a_baseline_counts_with_the_ranks_and_alphas_that_peft_gives_it(made: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = made
    ran = advisor("probe", model, "--data", data, "--samples", 24, "--device", "cpu", "--out", tmp_path / "probe")
    assert ran.code == 0, ran.err
    path = tmp_path / "adapter_config.json"
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "r": 16,
        "lora_alpha": 32,
        "target_modules": ["query", "value", "key"],
        # a suffix, a regex that also matches the first (which comes first), and one that matches nothing
        "rank_pattern": {"1.attention.self.query": 3, "layer\\.\\d.attention.self.(query|value)": 5, "uery": 9},
        "alpha_pattern": {"self.key": 7},
    }
    path.write_text(json.dumps(config))
    ran = advisor("compare", tmp_path / "probe", "--baseline", path, "--json")
    assert ran.code == 0, ran.err
    own = json.loads(ran.out)["selections"][0]
    place = "bert.encoder.layer.{}.attention.self.{}"
    assert own["rank_pattern"] == {
        place.format(0, "query"): 5,
        place.format(0, "value"): 5,
        place.format(1, "query"): 3,
        place.format(1, "value"): 5,
    }
    assert own["alpha_pattern"] == {place.format(0, "key"): 7, place.format(1, "key"): 7}
    assert own["params"] == (5 + 5 + 3 + 5 + 16 + 16) * 48
    plain = LoraConfig(**{k: v for k, v in config.items() if k != "peft_type"})
    adapted: Any = get_peft_model(AutoModelForSequenceClassification.from_pretrained(model), plain)
    assert own["params"] == sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n)
    for pattern, value in (
        ("rank_pattern", 0),
        ("rank_pattern", "x"),
        ("alpha_pattern", 0),
        ("alpha_pattern", "x"),
        ("rank_pattern", [1]),
    ):
        path.write_text(json.dumps({**config, pattern: {"key": value}}))
        refused(2, "compare", tmp_path / "probe", "--baseline", path)
