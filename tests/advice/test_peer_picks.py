"""Other methods' picks and their scores of selections, and what the commands show of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import advisor, write_data
from fakes import bert_targets, candidate, footprint, make_probe, make_scorer
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.eva import get_eva_state_dict

from advisor.advice import peer_picks as picks_module
from advisor.advice.budget import parse_budget
from advisor.advice.peer_picks import (
    NOT_MEASURED,
    NOTHING_FITS,
    PEERS,
    TOO_MANY,
    PeerPick,
    candidate_scores,
    comparison_json,
    gradient_norms,
    module_scores,
    peer_picks,
    selection_scores,
)
from advisor.advice.recommend import compare
from advisor.core.candidate import Candidate
from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.probe import Probe, load_probe, save_probe
from advisor.core.selections import target_sets
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.models.encode import EncodedRow, collate
from advisor.models.prepare import Prepared
from advisor.prediction.payload import plain
from advisor.prediction.scorer import Scorer
from advisor.probing.peer_scores import measure_peers
from advisor.report.tables import peer_table

TinyModel = Callable[..., Path]
Encoded = Callable[..., tuple[Prepared, list[EncodedRow]]]
TARGETS = bert_targets(3)
M = len(TARGETS)
UNIT_PEERS = tuple(peer for peer in PEERS if peer not in ("eva", "condition-number", "spectral-ratio"))


def fake(targets: tuple[Target, ...] = TARGETS, **info: Any) -> Probe:
    """A probe of ``targets`` with made-up or given peers' numbers."""
    rng = np.random.default_rng(5)
    m = len(targets)
    ratios = -np.sort(-rng.dirichlet(np.full(64, 0.3), size=m), axis=1)
    made = {
        "spectrum": rng.uniform(0.1, 3, m).tolist(),
        "kappatune": rng.uniform(5, 5000, m).tolist(),
        "plop": rng.uniform(0.5, 2, m).tolist(),
        "eva": {"ratios": ratios.tolist(), "tokens": 100},
    }
    info = {"peers": made, **info}
    probe = make_probe(n=24, layers=-(-m // 6), **info)
    sizes = {"footprint": asdict(footprint(targets))}
    return replace(
        probe,
        targets=targets,
        weight_blocks=probe.weight_blocks[:m],
        gradient_blocks=probe.gradient_blocks[:m],
        info={**probe.info, **sizes},
    )


@pytest.fixture(scope="module")
def probe() -> Probe:
    return fake()


@pytest.fixture(scope="module")
def scorer(probe: Probe) -> Scorer:
    return make_scorer(probe)


def by_peer(picks: list[PeerPick]) -> dict[str, PeerPick]:
    return {pick.peer: pick for pick in picks}


def taken(pick: PeerPick) -> list[int]:
    assert pick.candidate is not None
    return [i for i, t in enumerate(TARGETS) if t.name in pick.candidate.selection.targets]


def memory_budget(scorer: Scorer) -> str:
    most, least = (scorer.cost(candidate(scorer.probe, chosen)).memory_bytes for chosen in (range(M), [M - 1]))
    return f"{(most + least) / 2e6}MB"


@pytest.mark.parametrize("granularity", ["module", "role", "layer"])
@pytest.mark.parametrize("budget", ["35%", "100%", "9000", "7modules", "memory"])
def test_picks_are_within_budget_of_whole_units_and_not_empty(scorer: Scorer, budget: str, granularity: str) -> None:
    parsed = parse_budget(memory_budget(scorer) if budget == "memory" else budget)
    picks = peer_picks(scorer, parsed, granularity=granularity)
    assert tuple(pick.peer for pick in picks) == PEERS
    label = {"module": lambda t: t.name, "role": lambda t: t.role, "layer": lambda t: t.layer}[granularity]
    for pick in picks:
        found = pick.candidate
        assert found is not None
        assert pick.score is not None
        assert found.selection.targets
        assert parsed.allows(scorer.cost(found), len(found.selection.targets), TARGETS, 8), pick
        labels = {label(t) for t in TARGETS if t.name in found.selection.targets}
        assert {t.name for t in TARGETS if label(t) in labels} == set(found.selection.targets)
        if pick.peer == "eva" and budget == "7modules" and granularity == "module":
            assert sum(found.module_settings(n).rank for n in found.selection.targets) == 8 * 7
        left = [i for i in range(M) if i not in taken(pick)]
        if pick.peer in UNIT_PEERS and budget != "memory" and granularity == "module":
            sizes = parsed.sizes(TARGETS, 8)
            assert not [i for i in left if sizes[taken(pick)].sum() + sizes[i] <= parsed.ceiling(TARGETS, 8)]
        if pick.peer in UNIT_PEERS and budget == "memory" and granularity == "module":
            assert not [i for i in left if scorer.cost(candidate(scorer.probe, [*taken(pick), i])).memory_bytes <= parsed.amount]
    again = peer_picks(scorer, parsed, granularity=granularity)
    assert [(p.peer, p.candidate, p.same_as) for p in picks] == [(p.peer, p.candidate, p.same_as) for p in again]


@pytest.mark.parametrize("budget", ["100", "0.1MB"])
def test_nothing_fits(scorer: Scorer, budget: str) -> None:
    picks = by_peer(peer_picks(scorer, parse_budget(budget)))
    eva = picks.pop("eva")
    assert {pick.reason for pick in picks.values()} == {NOTHING_FITS}
    assert {pick.candidate for pick in picks.values()} == {None}
    if budget == "100":  # two ranks of one module, which the others cannot have
        assert eva.candidate is not None
        assert eva.score is not None
        assert 0 < eva.score.cost.params <= 100
    else:
        assert eva.reason == NOTHING_FITS


def test_kappatune_and_fisher_take_their_best_first(probe: Probe, scorer: Scorer) -> None:
    picks = by_peer(peer_picks(scorer, parse_budget("5modules")))
    kappas = probe.info["peers"]["kappatune"]
    assert taken(picks["kappatune"]) == sorted(np.argsort(kappas)[:5].tolist())
    fisher = [np.trace(g) / (t.in_features * t.out_features) for g, t in zip(probe.gradient_blocks, TARGETS, strict=True)]
    assert taken(picks["fisher"]) == sorted(np.argsort(fisher)[-5:].tolist())


def test_spectrum_takes_as_many_of_every_role(probe: Probe, scorer: Scorer) -> None:
    values = np.array(probe.info["peers"]["spectrum"])
    roles = np.array([t.role for t in TARGETS])
    for count in (6, 12):
        chosen = taken(by_peer(peer_picks(scorer, parse_budget(f"{count}modules")))["spectrum"])
        for role in set(roles):
            members = np.flatnonzero(roles == role)
            best = members[np.argsort(-values[members])][: count // 6]
            assert sorted(set(chosen) & set(members.tolist())) == sorted(best.tolist()), role


def test_plop_takes_roles_of_the_lowest_average_and_fills_up_within_the_next(probe: Probe, scorer: Scorer) -> None:
    values = np.array(probe.info["peers"]["plop"])
    roles = [t.role for t in TARGETS]
    means = {role: np.mean([v for v, r in zip(values, roles, strict=True) if r == role]) for role in roles}
    order = sorted(means, key=means.__getitem__)
    chosen = taken(by_peer(peer_picks(scorer, parse_budget("5modules")))["plop"])
    whole = [i for i in range(M) if roles[i] == order[0]]
    second = [i for i in range(M) if roles[i] == order[1]]
    assert chosen == sorted(whole + sorted(second, key=lambda i: values[i])[:2])
    found = by_peer(peer_picks(scorer, parse_budget("6modules"), granularity="role"))["plop"]
    assert {TARGETS[i].role for i in taken(found)} == set(order[:2])


def test_gradient_norm_takes_layers(probe: Probe, scorer: Scorer) -> None:
    gradients = probe.gradient_blocks.astype(np.float64).sum((1, 2))
    layers = [math.sqrt(gradients[6 * i : 6 * i + 6].sum()) for i in range(3)]
    np.testing.assert_allclose(module_scores(probe)["gradient-norm"], np.repeat(layers, 6), rtol=1e-9)
    order = np.argsort(layers)[::-1]
    chosen = taken(by_peer(peer_picks(scorer, parse_budget("8modules")))["gradient-norm"])
    within = 6 * order[1] + np.argsort(gradients[6 * order[1] : 6 * order[1] + 6])[::-1]
    assert chosen == sorted([*range(6 * order[0], 6 * order[0] + 6), *within[:2].tolist()])
    found = by_peer(peer_picks(scorer, parse_budget("4modules"), granularity="role"))["gradient-norm"]
    own = np.sqrt(gradients).reshape(3, 6).mean(0)
    assert {TARGETS[i].role for i in taken(found)} == {TARGETS[int(np.argmax(own))].role}
    np.testing.assert_allclose(gradient_norms(probe) ** 2, gradients, rtol=1e-9)


def test_random_follows_the_seed(scorer: Scorer) -> None:
    chosen = [taken(by_peer(peer_picks(scorer, parse_budget("30%"), seed=s))["random"]) for s in (0, 0, 1, 2)]
    assert chosen[0] == chosen[1]
    assert len({tuple(c) for c in chosen}) == 3


def test_ties_are_broken_in_model_order() -> None:
    peers = {"spectrum": [1.0] * M, "kappatune": [2.0] * M, "plop": [1.0] * M, "eva": {"ratios": [[0.1] * 64] * M}}
    picks = by_peer(peer_picks(make_scorer(fake(peers=peers)), parse_budget("4modules")))
    assert taken(picks["kappatune"]) == [0, 1, 2, 3]
    assert taken(picks["spectrum"]) == [0, 1, 2, 3]
    assert taken(picks["plop"]) == [0, 1, 6, 12]  # a role as a whole
    eva = picks["eva"].candidate
    assert eva is not None
    assert (taken(picks["eva"]), dict(eva.ranks)) == ([0, 1], {TARGETS[0].name: 16, TARGETS[1].name: 16})


def test_unknown_scores_come_last() -> None:
    peers = dict(fake().info["peers"])
    for peer in ("spectrum", "kappatune", "plop"):
        peers[peer] = [None if i < 2 else v for i, v in enumerate(peers[peer])]
    peers["eva"] = {"ratios": [None if i < 2 else v for i, v in enumerate(peers["eva"]["ratios"])]}
    scorer = make_scorer(fake(peers=peers))
    most = by_peer(peer_picks(scorer, parse_budget(f"{M - 2}modules")))
    for peer in ("spectrum", "kappatune", "eva"):
        assert taken(most[peer]) == list(range(2, M)), peer
    every = by_peer(peer_picks(scorer, parse_budget("100%")))
    assert taken(every["kappatune"]) == taken(every["plop"]) == taken(every["spectrum"]) == list(range(M))
    scores = selection_scores(scorer.probe, np.array([[1] * M, [1, 1] + [0] * (M - 2)]))
    values = np.array([p for p in peers["spectrum"][2:]])
    weights = np.array([t.lora_params(8) for t in TARGETS])[2:]
    assert scores["spectrum"][0] == pytest.approx((values * weights).sum() / weights.sum())
    assert np.isnan(scores["spectrum"][1])
    assert np.isfinite(scores["fisher"][1])


def eva_reference(ratios: np.ndarray, costs: np.ndarray, ceiling: int, most: int) -> np.ndarray:
    """One rank at a time, always scanning for the best that fits."""
    ranks = np.zeros(len(ratios), dtype=int)
    while True:
        open_ = [(ratios[m, ranks[m]], -m) for m in range(len(ratios)) if ranks[m] < most and costs @ ranks + costs[m] <= ceiling]
        if not open_:
            return ranks
        ranks[-max(open_)[1]] += 1


@pytest.mark.parametrize("rank", [3, 8, 40])
def test_eva_hands_out_ranks_by_explained_variance(probe: Probe, rank: int) -> None:
    scorer = make_scorer(probe, settings=LoraSettings(rank, 24.0))
    ratios = np.array(probe.info["peers"]["eva"]["ratios"])
    costs = np.array([t.lora_params(1) for t in TARGETS])
    pick = by_peer(peer_picks(scorer, parse_budget("30%")))["eva"]
    ceiling = parse_budget("30%").ceiling(TARGETS, rank)
    ranks = eva_reference(ratios, costs, ceiling, min(2 * rank, 64))
    found = pick.candidate
    assert found is not None
    assert pick.score is not None
    assert taken(pick) == np.flatnonzero(ranks).tolist()
    assert [found.module_settings(TARGETS[i].name).rank for i in taken(pick)] == ranks[ranks > 0].tolist()
    assert pick.score.cost.params == costs @ ranks <= ceiling
    assert ceiling - costs @ ranks < costs.max()
    for i in taken(pick):
        own = found.module_settings(TARGETS[i].name)
        assert own.alpha / own.rank == pytest.approx(24.0 / rank)
    assert set(found.ranks) == set(found.alphas) == {TARGETS[i].name for i in np.flatnonzero(ranks) if ranks[i] != rank}


def test_the_search_of_the_kernel_peers_is_left_out_when_long(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    picks = by_peer(peer_picks(scorer, parse_budget("30%")))
    low = selection_scores(scorer.probe, np.eye(M))
    for peer in ("condition-number", "spectral-ratio"):
        assert picks[peer].candidate is not None
        mask = np.isin(range(M), taken(picks[peer])).astype(float)[None]
        others = by_peer(peer_picks(scorer, parse_budget("30%")))
        rivals = np.array([np.isin(range(M), taken(others[p])) for p in ("random", "kappatune", "fisher", "plop")], dtype=float)
        assert selection_scores(scorer.probe, mask)[peer][0] >= selection_scores(scorer.probe, rivals)[peer].max()
        assert np.isfinite(low[peer]).all()
    monkeypatch.setattr(picks_module, "MOST_UNITS", M - 1)
    picks = by_peer(peer_picks(scorer, parse_budget("30%")))
    assert [p for p in PEERS if picks[p].reason == TOO_MANY] == ["condition-number", "spectral-ratio"]
    assert by_peer(peer_picks(scorer, parse_budget("30%"), granularity="role"))["spectral-ratio"].candidate is not None


def test_equal_picks_are_said_to_be_equal(scorer: Scorer) -> None:
    everything = Candidate(Selection("all-linear", tuple(t.name for t in TARGETS)), LoraSettings())
    picks = by_peer(peer_picks(scorer, parse_budget("100%"), [everything]))
    assert {peer for peer, pick in picks.items() if pick.same_as == "all-linear"} == set(PEERS) - {"eva"}
    assert picks["eva"].same_as is None
    assert picks["fisher"].label == "fisher (= all-linear)"
    other = Candidate(everything.selection, LoraSettings(8, 32))
    picks = by_peer(peer_picks(scorer, parse_budget("100%"), [other]))
    assert picks["spectrum"].same_as is None
    assert picks["kappatune"].same_as == picks["fisher"].same_as == "spectrum"
    twice = Candidate(Selection("the same again", everything.selection.targets), LoraSettings())
    assert by_peer(peer_picks(scorer, parse_budget("100%"), [everything, twice]))["fisher"].same_as == "all-linear"


# --- scores of selections ----------------------------------------------------------------------------------------


def test_selection_scores_are_weighted_means(probe: Probe) -> None:
    rng = np.random.default_rng(7)
    masks = rng.random((6, M)) < 0.4
    masks[5] = False
    found = selection_scores(probe, masks)
    assert set(found) == set(PEERS) - {"random"}
    info = probe.info["peers"]
    raw = {
        "spectrum": np.array(info["spectrum"]),
        "kappatune": -np.log(info["kappatune"]),
        "plop": -np.array(info["plop"]),
        "eva": np.array(info["eva"]["ratios"])[:, :8].sum(1),
        "fisher": np.trace(probe.gradient_blocks, axis1=1, axis2=2) / 24 / [t.in_features * t.out_features for t in TARGETS],
    }
    weights = np.array([t.in_features + t.out_features for t in TARGETS])
    for peer, values in raw.items():
        wanted = [np.average(values, weights=weights * mask) for mask in masks[:5]]
        np.testing.assert_allclose(found[peer][:5], wanted, rtol=1e-6, err_msg=peer)
    assert all(np.isnan(values[5]) for values in found.values())
    kernels = make_scorer(probe).kernels
    sigma = 1e-2 * np.trace(kernels.blocks.sum(0)) / probe.samples
    for s, mask in enumerate(masks[:5]):
        values = np.linalg.eigvalsh(kernels.head + kernels.blocks[mask].sum(0))
        kappa = (values[-1] + sigma) / (max(values[0], 0) + sigma)
        assert found["condition-number"][s] == pytest.approx(-math.log(kappa), rel=1e-6)
        base = np.linalg.eigvalsh(kernels.head)[-1] + sigma
        assert found["spectral-ratio"][s] == pytest.approx(-math.log((values[-1] + sigma) / base), rel=1e-6)


def test_own_ranks_weigh_in(probe: Probe) -> None:
    scorer = make_scorer(probe, kernel="lora-expected", sigma=0.5)
    names = (TARGETS[0].name, TARGETS[4].name)
    own = Candidate(Selection("own", names), LoraSettings(), {names[0]: 2}, {names[0]: 4.0})
    found = candidate_scores(scorer, [own])
    values = probe.info["peers"]["plop"]
    assert found["plop"][0] == pytest.approx(-(values[0] * 2 * 48 + values[4] * 8 * 64) / (2 * 48 + 8 * 64))
    assert found["eva"][0] == pytest.approx(
        np.average(np.array(probe.info["peers"]["eva"]["ratios"])[[0, 4], :8].sum(1), weights=[2 * 48, 8 * 64])
    )
    kernel = scorer.kernels.head + 0.25 * scorer.kernels.blocks[0] + scorer.kernels.blocks[4]  # scale² · rank / 3a
    values = np.linalg.eigvalsh(kernel)
    kappa = (values[-1] + 0.5) / (max(values[0], 0.0) + 0.5)
    assert found["condition-number"][0] == pytest.approx(-math.log(kappa), rel=1e-6)
    ranks = selection_scores(probe, np.eye(M)[:1], LoraSettings(3))
    assert ranks["eva"][0] == pytest.approx(sum(probe.info["peers"]["eva"]["ratios"][0][:3]))


# --- probes ------------------------------------------------------------------------------------------------------


def test_round_trip(probe: Probe, tmp_path: Path) -> None:
    save_probe(probe, tmp_path)
    again = load_probe(tmp_path)
    assert again.info["peers"] == probe.info["peers"]
    masks = np.eye(M)
    for peer, values in selection_scores(probe, masks).items():
        np.testing.assert_allclose(selection_scores(again, masks)[peer], values)


def test_an_older_probe_says_not_measured() -> None:
    older = make_probe(n=24, layers=3)
    assert "peers" not in older.info
    assert set(module_scores(older)) == {"gradient-norm", "fisher"}
    scorer = make_scorer(older)
    picks = peer_picks(scorer, parse_budget("30%"))
    assert [p.peer for p in picks if p.reason == NOT_MEASURED] == ["spectrum", "kappatune", "plop", "eva"]
    assert "spectrum: not measured" in peer_table(picks, parse_budget("30%"), "accuracy").title
    scores, _ = compare(scorer, parse_budget("30%"))
    shown = comparison_json(scores, picks, scorer)
    json.dumps(shown, allow_nan=False)
    assert shown["without_pick"] == dict.fromkeys(("spectrum", "kappatune", "plop", "eva"), NOT_MEASURED)
    assert {entry["peers"]["spectrum"] for entry in shown["selections"]} == {None}
    assert all(isinstance(entry["peers"]["fisher"], float) for entry in shown["selections"])
    nothing = {"spectrum": [None] * M, "kappatune": [None] * M, "plop": [None] * M, "eva": {"ratios": [None] * M}}
    picks = peer_picks(make_scorer(fake(peers=nothing)), parse_budget("30%"))
    assert [p.peer for p in picks if p.reason == NOT_MEASURED] == ["spectrum", "kappatune", "plop", "eva"]


def test_a_probe_older_than_a_peer_keeps_the_others() -> None:
    whole = fake().info["peers"]
    scores = module_scores(fake(peers={name: whole[name] for name in ("spectrum", "eva")}))
    assert set(scores) == {"spectrum", "eva", "gradient-norm", "fisher"}
    assert set(module_scores(make_probe(n=24, layers=3, peers={}))) == {"gradient-norm", "fisher"}


@pytest.mark.parametrize(
    "garbled",
    [
        [],
        {"spectrum": 3},
        {"spectrum": ["high"] * M},
        {"spectrum": [1.0] * (M - 1)},
        {"spectrum": [1.0] * M, "kappatune": [1.0] * M, "plop": [1.0] * M, "eva": {"ratios": [[0.5], [0.5, 0.2]] * (M // 2)}},
    ],
)
def test_garbled_peers_are_named(garbled: Any) -> None:
    with pytest.raises(BadInput, match=r"probe.json: peers\."):
        module_scores(make_probe(n=24, layers=3, peers=garbled))


# --- commands ----------------------------------------------------------------------------------------------------


def test_compare_and_recommend_show_the_peers(own_folders: Path, tiny_model: TinyModel) -> None:
    model, data = tiny_model("bert", "classification"), write_data(own_folders, "classification")
    common = [model, "--data", data, "--samples", 24, "--device", "cpu"]
    ran = advisor("probe", *common, "--out", own_folders / "probe")
    assert ran.code == 0, ran.err
    stored = json.loads((own_folders / "probe" / "probe.json").read_text())
    m = len(stored["targets"])
    assert [len(stored["peers"][peer]) for peer in ("spectrum", "kappatune", "plop")] == [m] * 3
    assert len(stored["peers"]["eva"]["ratios"]) == m
    ran = advisor("compare", own_folders / "probe", "--budget", "40%", "--json")
    assert ran.code == 0, ran.err
    shown = json.loads(ran.out)
    entries = {entry["name"]: entry for entry in shown["selections"]}
    assert shown["without_pick"] == {}
    assert [e["name"] for e in shown["selections"]][-len(PEERS) :] == list(PEERS)
    ceiling = 0.4 * sum(8 * (t["in_features"] + t["out_features"]) for t in stored["targets"])
    for entry in shown["selections"]:
        assert 0 < entry["params"] <= ceiling
        assert set(entry["peers"]) == set(PEERS) - {"random"}
        assert all(isinstance(v, float) for v in entry["peers"].values())
    liked = {name: entry["peers"]["kappatune"] for name, entry in entries.items()}
    assert liked["kappatune"] > max(liked[name] for name in ("attention", "eva", "random") if name in liked)
    assert sum(entries["eva"]["rank_pattern"].values()) > 0
    size = {t["name"]: t["in_features"] + t["out_features"] for t in stored["targets"]}
    ranks = {n: entries["eva"]["rank_pattern"].get(n, 8) for n in entries["eva"]["targets"]}
    assert entries["eva"]["params"] == sum(size[n] * r for n, r in ranks.items())
    role = {t["name"]: t["role"] for t in stored["targets"]}
    ran = advisor("compare", own_folders / "probe", "--budget", "60%", "--granularity", "role", "--json")
    whole = {e["name"]: e["targets"] for e in json.loads(ran.out)["selections"] if e["name"] in PEERS}
    assert set(whole) >= {"gradient-norm", "plop"}
    for peer in set(whole) - {"eva"}:
        roles = {role[name] for name in whole[peer]}
        assert whole[peer] == [name for name in role if role[name] in roles], peer
    draws = {
        tuple(entry["targets"])
        for seed in range(4)
        for entry in json.loads(advisor("compare", own_folders / "probe", "--seed", seed, "--json").out)["selections"]
        if entry["name"] == "random"
    }
    assert len(draws) > 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "140")  # where no name wraps
        text = advisor("compare", own_folders / "probe", "--budget", "40%").out
    assert "What other methods would pick at the budget of 40%" in text
    assert [peer for peer in PEERS if peer not in text] == []
    ran = advisor("compare", own_folders / "probe", "--budget", "0.01MB")
    assert ran.code == 3
    ran = advisor("recommend", *common, "--budget", "55%", "--granularity", "layer", "--out", own_folders / "r", "--json")
    assert ran.code == 0, ran.err
    recommended = json.loads(ran.out)
    assert list(recommended["peers"]) == list(PEERS)
    layers = {t["name"]: t["layer"] for t in stored["targets"]}
    for peer, entry in recommended["peers"].items():
        chosen = {layers[n] for n in entry["targets"]}
        assert {n for n in layers if layers[n] in chosen} == set(entry["targets"]), peer
        assert {"predicted", "relative", "params"} <= set(entry)
        assert entry["same_as"] in (None, "the pick", *PEERS, *(e["name"] for e in recommended["equal_budget"][1:]))
    same = {tuple(recommended["pick"]["targets"])} & {tuple(e["targets"]) for e in recommended["peers"].values()}
    assert bool(same) == any(e["same_as"] == "the pick" for e in recommended["peers"].values())
    report = (own_folders / "r" / "report.md").read_text()
    assert "What other methods would pick" in report
    assert "| eva" in report


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("rank", [4, 6])
def test_eva_gives_the_ranks_that_peft_gives(encoded: Encoded, name: str, rank: int) -> None:
    """At a budget of as many modules as there are, our rank budget is PEFT's: rank × modules."""
    prepared, rows = encoded(name, "classification")
    loaded = prepared.loaded
    measured = measure_peers(loaded, rows, Session())
    batch = collate(rows, loaded)
    batch.pop("labels")
    names = [t.name for t in loaded.targets]
    config = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, init_lora_weights="eva", target_modules=names)
    states = get_eva_state_dict(loaded.model, [batch], config, show_progress_bar=False)
    wanted = {n: len(states[n]) for n in names}
    assert len(set(wanted.values())) > 2
    probe = fake(loaded.targets, peers=measured)
    scorer = make_scorer(probe, settings=LoraSettings(rank, 2 * rank))
    eva = by_peer(peer_picks(scorer, parse_budget(f"{len(names)}modules")))["eva"].candidate
    assert eva is not None
    mine = {n: eva.module_settings(n).rank if n in eva.selection.targets else 0 for n in names}
    assert sum(mine.values()) == sum(wanted.values()) == rank * len(names)
    shared: dict[tuple[float, ...], list[str]] = {}  # projections with one input have equal directions, in any order
    for n, ratios in zip(names, measured["eva"]["ratios"], strict=True):
        shared.setdefault(tuple(ratios), []).append(n)
    assert len(shared) < len(names)
    for group in shared.values():
        assert sorted(mine[n] for n in group) == sorted(wanted[n] for n in group)


def test_peft_takes_eva_s_pick(encoded: Encoded) -> None:
    """Parameters of a model wrapped with the pick's ``rank_pattern`` are those that were counted."""
    prepared, rows = encoded("bert", "classification")
    loaded = prepared.loaded
    scorer = make_scorer(fake(loaded.targets, peers=measure_peers(loaded, rows, Session())))
    pick = by_peer(peer_picks(scorer, parse_budget("40%")))["eva"]
    assert pick.candidate is not None
    assert pick.score is not None
    shown = plain(pick.entry(scorer))
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=shown["targets"],
        rank_pattern={f"^{n.replace('.', chr(92) + '.')}$": r for n, r in shown["rank_pattern"].items()},
    )
    wrapped = get_peft_model(loaded.model, config)
    assert sum(p.numel() for n, p in wrapped.named_parameters() if "lora_" in n) == shown["params"]
    assert target_sets(loaded.targets, loaded.qv_roles())
