"""How much selections disturb rows to keep: from a probe's blocks to scores, tables, JSON, and a ceiling on the pick."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import candidate, make_probe, make_scorer

from advisor.advice import recommend as module
from advisor.advice.budget import parse_budget
from advisor.advice.gentle import TRADE_OFFS
from advisor.advice.peer_picks import peer_picks
from advisor.advice.recommend import Recommendation, recommend
from advisor.core.errors import BadInput, BudgetTooSmall
from advisor.core.events import Session
from advisor.core.probe import PROJECTIONS, DriftBlocks, KeepBlocks, Probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings
from advisor.prediction.payload import plain, score_json
from advisor.prediction.scorer import Scorer
from advisor.report.tables import DISTURBS, answer_table, peer_table, report_markdown, tables
from advisor.report.verdict import kept, surprising_rows, verdict
from advisor.report.words import NOT_KNOWN
from advisor.theory.kernels import lora_constant

KEPT = 9


def probe_with_rows_to_keep(seed: int = 0) -> Probe:
    probe = make_probe("causal-lm", n=24, layers=2, seed=seed)
    rng = np.random.default_rng(seed)
    m, n = len(probe.targets), probe.samples
    sizes = np.sqrt(np.einsum("mii->m", probe.gradient_blocks) / n)[:, None, None] * np.exp(rng.normal(size=(m, 1, 1)))
    cross = {name: (sizes * rng.normal(size=(m, KEPT, n))).astype(np.float32) for name in ("loss", "score")}
    energies = (sizes[..., 0] * rng.uniform(1, 2, (m, KEPT))).astype(np.float32)
    return replace(
        probe, keep=KeepBlocks(**cross, energies=energies, losses=np.ones(KEPT), tokens=rng.integers(1, 9, KEPT) * 1.0)
    )


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return make_scorer(probe_with_rows_to_keep(), recipe=TrainingRecipe(train_rows=96, epochs=1, lr=3e-4))


def classifier_with_rows_to_keep(classes: int = 2, task: str = "classification") -> Probe:
    probe = make_probe(task, classes, n=24, layers=2)
    rng = np.random.default_rng(7)
    m, n = len(probe.targets), probe.samples
    cross = rng.normal(size=(m, PROJECTIONS * KEPT, n)).astype(np.float32)
    return replace(probe, keep=DriftBlocks(cross, rng.uniform(1, 2, cross.shape[:2]).astype(np.float32)))


def run(scorer: Scorer, **options: Any) -> Recommendation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STABILITY_DRAWS", 2)
        return recommend(scorer, parse_budget("60%"), Session(), **options)


def test_disturbance_is_the_closed_form_of_one_row_after_the_other(scorer: Scorer) -> None:
    """Weights moved by hand: modules, training rows and reference rows one by one, pulls from a plain loop."""
    probe, settings, recipe = scorer.probe, scorer.settings, scorer.recipe
    keep, n = probe.keep, probe.samples
    assert keep is not None
    chosen = [0, 3, 7]
    scaled = []
    for m in chosen:
        block = lora_constant(probe.targets[m], settings) * probe.gradient_blocks[m].astype(np.float64)
        mean, each = block.sum() / n**2, np.trace(block) / n
        size = n * np.sqrt(mean + (each - mean) / recipe.batch_size)
        scaled.append(np.sqrt(settings.rank * probe.targets[m].out_features) / size)
    kernel = sum(
        s * lora_constant(probe.targets[m], settings) * probe.gradient_blocks[m].astype(np.float64)
        for m, s in zip(chosen, scaled, strict=True)
    )
    left, pulled = probe.losses.copy(), np.zeros(n)
    for step in scorer.view.schedule.steps:
        share = np.clip(left / probe.losses, 0, 1)
        pulled += step * share / 0.4
        left -= step * kernel @ share
    kl = loss = 0.0
    for r in range(KEPT):
        moved = {"loss": 0.0, "score": 0.0}
        for m, s in zip(chosen, scaled, strict=True):
            constant = lora_constant(probe.targets[m], settings)
            for name in moved:
                moved[name] -= float(s * constant * getattr(keep, name)[m, r].astype(np.float64) @ pulled)
            way = scorer.view.schedule.steps.sum() / 0.4
            kl += 0.5 * way**2 * constant * keep.tokens[r] * keep.energies[m, r] / KEPT
        kl += 0.5 * keep.tokens[r] * moved["score"] ** 2 / KEPT
        loss += moved["loss"] / KEPT
    found = scorer.score([candidate(probe, chosen)])[0].disturbs
    assert found is not None
    assert found.kl == pytest.approx(kl)
    assert found.loss == pytest.approx(loss + kl)


@pytest.mark.parametrize(("task", "classes"), [("classification", 2), ("classification", 3), ("regression", 0)])
def test_drift_is_the_closed_form_of_one_row_after_the_other(task: str, classes: int) -> None:
    """Outputs and weights moved by hand, in the run's own kernels: pulls are slopes along d, moves their sums."""
    probe = classifier_with_rows_to_keep(classes, task)
    scorer = make_scorer(probe, recipe=TrainingRecipe(train_rows=96, epochs=1, lr=3e-4))
    keep, view, settings, chosen = probe.keep, scorer.view, scorer.settings, [0, 3, 7]
    assert isinstance(keep, DriftBlocks)
    kernel = sum(view.recipe.blocks[m] for m in chosen)
    f, pulled = np.zeros_like(probe.y), np.zeros(probe.samples)
    if classes == 3:
        p0 = np.exp(probe.f0) / np.exp(probe.f0).sum(1, keepdims=True)
        d = p0 - (probe.y > 0)
    else:
        d = np.ones_like(probe.y)
    for step, growth in zip(view.schedule.steps, view.schedule.growth, strict=True):
        if task == "regression":
            slopes = f - probe.y
        elif classes == 2:
            slopes = -probe.y / (1 + np.exp(probe.y * f))
        else:
            slopes = np.exp(f) / np.exp(f).sum(1, keepdims=True) - (probe.y > 0)
        pulled += step * (slopes * d).sum(1) / (d**2).sum(1) / 0.4
        f = f - step * (growth * kernel + view.recipe.head) @ slopes
    drift = 0.0
    for r in range(PROJECTIONS * KEPT):
        constants = {m: lora_constant(probe.targets[m], settings) for m in chosen}
        moved = sum(constants[m] * view.scales[m] * float(keep.cross[m, r].astype(np.float64) @ pulled) for m in chosen)
        way = view.schedule.steps.sum() / 0.4
        random = sum(way**2 * constants[m] * float(keep.energies[m, r]) for m in chosen)
        drift += (moved**2 + random) / (PROJECTIONS * KEPT)
    found = scorer.score([candidate(probe, chosen)])[0].disturbs
    assert found is not None
    assert (found.kl, found.loss) == (None, None)
    assert found.drift == found.size == pytest.approx(drift)


def test_cap_is_that_of_the_linearised_part(scorer: Scorer) -> None:
    """Without random steps nothing that is predicted exceeds it, whatever the module; it grows with what is adapted."""
    for probe in (scorer.probe, classifier_with_rows_to_keep()):
        assert probe.keep is not None
        own = make_scorer(replace(probe, keep=replace(probe.keep, energies=0 * probe.keep.energies)), recipe=scorer.recipe)
        for score in own.score([candidate(probe, [m]) for m in range(4)] + [candidate(probe, range(len(probe.targets)))]):
            assert score.disturbs is not None
            size = score.disturbs.kl if score.disturbs.drift is None else score.disturbs.drift
            assert 0 < size <= score.disturbs.cap * (1 + 1e-9)


def test_nothing_adapted_disturbs_nothing_and_faster_training_more(scorer: Scorer) -> None:
    nothing, some = scorer.disturbances([candidate(scorer.probe, []), candidate(scorer.probe, [1, 2])])
    assert (nothing.kl, nothing.loss) == (0.0, 0.0)
    faster = scorer.at(replace(scorer.recipe, lr=2 * scorer.recipe.lr)).disturbances([candidate(scorer.probe, [1, 2])])[0]
    assert faster.kl > some.kl > 0


@pytest.mark.parametrize(("without", "times"), [("energies", 4), ("score", 2)])
def test_rank_that_keeps_the_scale_follows_the_block(scorer: Scorer, without: str, times: int) -> None:
    """At twice the rank and the same alpha/rank a step along the gradients moves the outputs twice as far. Of random steps the
    squares double."""
    keep = scorer.probe.keep
    assert keep is not None
    probe = replace(scorer.probe, keep=replace(keep, **{without: 0 * getattr(keep, without)}))
    slow = scorer.on(probe).at(replace(scorer.recipe, lr=1e-8))  # no loss falls, so that all pulls are the same
    low, high = slow.disturbances([candidate(probe, [4]), candidate(probe, [4], LoraSettings().at_rank(16))])
    assert high.kl == pytest.approx(times * low.kl, rel=1e-4)


def test_a_ceiling_is_kept(scorer: Scorer) -> None:
    free = run(scorer)
    assert free.picked.disturbs is not None
    assert free.max_forgetting is None
    rises = sorted(found.loss for found in scorer.disturbances([free.pool[i] for i in free.finalists]))
    ceiling = (rises[0] + min(free.picked.disturbs.loss, rises[-1])) / 2
    assert rises[0] < ceiling < free.picked.disturbs.loss
    gentle = run(scorer, max_forgetting=ceiling)
    assert max(found.loss for found in scorer.disturbances([gentle.pool[i] for i in gentle.finalists])) <= ceiling
    assert gentle.picked.disturbs is not None
    assert gentle.picked.disturbs.loss <= ceiling
    assert run(scorer, max_forgetting=1e9).picked == free.picked
    with pytest.raises(BudgetTooSmall, match=r"by at most -1e\+09; the least is"):
        run(scorer, max_forgetting=-1e9)


def test_every_table_and_the_json_say_it(scorer: Scorer) -> None:
    found = run(scorer, max_forgetting=1e9)
    shown = [*tables(scorer, found)[:2], answer_table(scorer, found, 5)]
    assert all(table.columns[-1] == DISTURBS for table in shown)
    assert found.picked.disturbs is not None
    low, high = found.picked.disturbs.loss_interval
    assert low <= found.picked.disturbs.loss <= high
    assert (
        shown[0].rows[0][-1]
        == f"{found.picked.disturbs.loss:+.2g} ({low:+.2g} to {high:+.2g}), KL {found.picked.disturbs.kl:.2g}"
    )
    entry = score_json(found.picked, scorer)
    fields = ("kl", "loss", "cap", "loss_interval", "kl_interval")
    assert entry["disturbs"] == plain({key: getattr(found.picked.disturbs, key) for key in fields})
    sentence = kept(found)[0]
    assert sentence in verdict(scorer, found, None)
    assert "at most +1e+09 was allowed" in sentence
    assert f"`{DISTURBS}`" in report_markdown(scorer, [], [], "")


def test_rows_that_surprise_the_model_are_said_to_be_little_to_keep(scorer: Scorer) -> None:
    assert scorer.probe.keep is not None
    loss = float(scorer.probe.keep.losses.mean())

    def said(**keep: Any) -> list[str]:
        return surprising_rows(scorer.on(replace(scorer.probe, info={**scorer.probe.info, **keep})))

    assert said() == said(keep={"data": "k", "rows": 3}) == said(keep={"data": "k", "rows": 3, "expected": loss / 1.9}) == []
    (sentence,) = said(keep={"data": "k", "rows": 3, "expected": loss / 2.1})
    assert f"{loss:.1f} nats per token, and {loss / 2.1:.1f} on answers that it draws itself." in sentence
    less = scorer.on(replace(scorer.probe, info={**scorer.probe.info, "keep": {"expected": loss / 2.1}}))
    found = run(less)
    assert sentence in verdict(less, found, None)
    (known,), (guessed,) = (each.disturbances([found.picked.candidate]) for each in (scorer, less))
    assert guessed.loss == pytest.approx(known.loss - known.kl)  # to first order alone
    assert (guessed.kl, guessed.kl_interval, guessed.loss_interval) == (known.kl, known.kl_interval, None)
    assert f"{guessed.loss:+.2g}, KL {guessed.kl:.2g}" in tables(less, found)[0].rows[0][-1]


def test_what_is_larger_than_any_real_run_is_not_known(scorer: Scorer) -> None:
    wild = scorer.at(replace(scorer.recipe, lr=1.0))
    found = run(wild)
    assert found.picked.disturbs is not None
    assert not found.picked.disturbs.is_known
    assert tables(wild, found)[0].rows[0][-1] == NOT_KNOWN
    (sentence,) = kept(found)
    assert "so far that what becomes of them is not known" in sentence
    assert run(scorer).picked.disturbs.is_known
    assert found.trade_off is None
    with pytest.raises(BudgetTooSmall, match="so large that it is known of none"):
        run(wild, max_forgetting=1e9)


def test_a_classifiers_drift_stands_where_a_language_models_loss_does() -> None:
    scorer = make_scorer(classifier_with_rows_to_keep(), recipe=TrainingRecipe(train_rows=96, epochs=1, lr=3e-4))
    found = run(scorer)
    assert found.trade_off is None
    drift = found.picked.disturbs
    assert drift is not None
    assert drift.drift is not None
    shown = [*tables(scorer, found), answer_table(scorer, found, 5)]
    assert shown[0].rows[0][-1] == f"{100 * drift.drift:.2g}%"
    assert all(table.columns[-1] == DISTURBS for table in [*shown[:2], shown[-1]])
    assert score_json(found.picked, scorer)["disturbs"] == {"drift": drift.drift, "cap": drift.cap}
    sentence = kept(found)[0]
    assert f"{drift.drift:.2g} of its variance" in sentence
    assert "Of the linearised model, and of it only, it is certain" in sentence
    assert "as a share of its variance" in report_markdown(scorer, [], [], "")
    with pytest.raises(BadInput, match="predicted drift ranked real runs too unevenly"):
        run(scorer, max_forgetting=1.0)


def test_trade_off_is_the_front_of_what_fits() -> None:
    """By its definition: of each that is shown nothing that fits is better in both; ends are the gentlest and the best."""
    probe = probe_with_rows_to_keep()
    scorer = make_scorer(probe, recipe=TrainingRecipe(train_rows=96, epochs=1, lr=3e-4))
    found = run(scorer)
    assert found.trade_off is not None
    fitting = [c for c in found.pool if found.budget.allows(scorer.cost(c), len(c.selection.targets), probe.targets, 8)]
    sizes = np.array([d.size for d in scorer.disturbances(fitting)])
    losses = scorer.predict(fitting).deviation
    front = [(s.disturbs.size, scorer.predict([s.candidate]).deviation[0]) for s in found.trade_off if s.disturbs is not None]
    assert 1 < len(front) <= TRADE_OFFS
    assert front == sorted(front, key=lambda pair: -pair[1])
    assert front[0][0] == pytest.approx(sizes.min())
    assert front[-1][1] == pytest.approx(losses.min())
    for size, loss in front:
        assert not ((sizes < size * (1 - 1e-9)) & (losses < loss - 1e-9)).any()
    titles = [table.title for table in tables(scorer, found)]
    assert sum(title.startswith("Task against rows to keep") for title in titles) == 1


def test_what_other_methods_pick_disturbs_too() -> None:
    probe = classifier_with_rows_to_keep()
    scorer = make_scorer(probe)
    picks = peer_picks(scorer, parse_budget("60%"))
    table = peer_table(picks, parse_budget("60%"), "accuracy")
    made = [pick for pick in picks if pick.score is not None]
    alone = scorer.disturbances([pick.candidate for pick in made if pick.candidate is not None])
    assert table.columns[-1] == DISTURBS
    assert [row[-1] for row in table.rows] == [f"{100 * found.size:.2g}%" for found in alone]
    assert {pick.peer for pick in made} >= {"gradient-norm", "random"}  # a real probe has the others too


def test_without_rows_to_keep_nothing_is_said() -> None:
    scorer = make_scorer(make_probe("causal-lm", n=24, layers=2))
    found = run(scorer)
    assert found.picked.disturbs is None
    assert not kept(found)
    assert found.trade_off is None
    with pytest.raises(BadInput, match="needs rows to keep"):
        run(scorer, max_forgetting=1.0)
    assert all(DISTURBS not in table.columns for table in [*tables(scorer, found), answer_table(scorer, found, 5)])
    assert "disturbs" not in score_json(found.picked, scorer)
    assert DISTURBS not in report_markdown(scorer, [], [], "")
