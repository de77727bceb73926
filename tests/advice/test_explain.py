"""``advisor explain``: every number against a direct computation, the JSON, the text at 80 columns, the command."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from fakes import bert_targets, candidate, make_probe, make_scorer, with_blocks
from rich.console import Console

from advisor.advice.budget import parse_budget
from advisor.advice.explain import Explanation, explain, explanations_json
from advisor.core.candidate import Candidate
from advisor.core.errors import BadInput
from advisor.core.probe import Probe
from advisor.core.selections import all_linear
from advisor.core.targets import LoraSettings, Selection
from advisor.prediction.payload import scores_json
from advisor.prediction.scorer import Scorer
from advisor.report.explanation import blocks, change, common_prefix, number, show
from advisor.report.text_plots import COLUMNS, ROWS, bar, spectrum_lines
from advisor.theory.bounds import DOES_NOT_APPLY
from advisor.theory.linearity import Linearity

TASKS = ("classification", "regression", "causal-lm")
SETTINGS = LoraSettings()
Array = np.ndarray[Any, Any]


# --- an independent computation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Direct:
    """A probe's blocks scaled by hand at rank r and alpha of each module; adapted: bool [M]."""

    parts: Array
    head: Array
    gradients: Array
    adapted: Array
    sigma: float
    z: Array

    @classmethod
    def of(cls, probe: Probe, chosen: Candidate, kind: str = "adam") -> Direct:
        parts, gradients, base = [], [], []
        adapted = np.array([t.name in chosen.selection.targets for t in probe.targets])
        for t, w, g, inside in zip(probe.targets, probe.weight_blocks, probe.gradient_blocks, adapted, strict=True):
            own = chosen.module_settings(t.name) if inside else SETTINGS
            for settings, found in ((own, parts), (SETTINGS, base)):
                c = settings.alpha**2 / (3 * t.in_features * settings.rank)
                scaled = c * g.astype(float)
                norm = np.sqrt(scaled.sum())
                found.append(c * w.astype(float) * (np.sqrt(settings.rank * t.out_features) / norm if kind == "adam" else 1))
                if found is parts:
                    gradients.append(scaled)
        n = probe.samples
        head = np.zeros((n, n))
        if probe.head is not None:
            factor = np.sqrt(probe.head.fresh_gradient_params) / probe.head.fresh_gradient_norm if kind == "adam" else 1.0
            head = factor * probe.head.weight.astype(float)
        sigma = 0.01 * sum(np.trace(part) for part in base) / n
        return cls(np.array(parts), head, np.array(gradients), adapted, sigma, probe.z)

    def kernel(self, with_head: bool) -> Array:
        return self.parts[self.adapted].sum(0) + (self.head if with_head else 0)

    def v(self, kernel: Array, z: Array | None = None) -> float:
        z = self.z if z is None else z
        return float(self.sigma * np.sum(z * np.linalg.solve(kernel + self.sigma * np.eye(len(z)), z)))


def make(task: str = "classification", n: int = 24, layers: int = 2, **options: Any) -> tuple[Probe, Scorer]:
    probe = make_probe(task, n=n, layers=layers, **options)
    return probe, make_scorer(probe)


def mixed(probe: Probe) -> Candidate:
    """Four modules, one at rank 2 and one at alpha 40."""
    plain = candidate(probe, [1, 4, 7, 10], name="mixed")
    names = plain.selection.targets
    return replace(plain, ranks={names[0]: 2}, alphas={names[2]: 40.0})


def explained(scorer: Scorer, *chosen: Candidate, **options: Any) -> list[Explanation]:
    return explain(scorer, chosen, **options)


# --- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["adam", "lora-expected"])
def test_module_rows_are_the_direct_computation(task: str, kind: str) -> None:
    probe = make_probe(task, n=24, layers=2)
    scorer = make_scorer(probe, kernel=kind)
    direct = Direct.of(probe, mixed(probe), kind)
    (found,) = explained(scorer, mixed(probe))
    assert scorer.sigma == pytest.approx(direct.sigma)
    assert [row.target for row in found.modules] == list(probe.targets)
    assert [row.adapted for row in found.modules] == direct.adapted.tolist()
    has_head = probe.head is not None
    traces, energies = (np.array([np.trace(b) for b in each]) for each in (direct.parts, direct.gradients))
    for m, row in enumerate(found.modules):
        assert row.share == pytest.approx(traces[m] / traces.sum())
        assert row.energy == pytest.approx(energies[m] / energies.sum())
        if has_head:
            assert row.share_with_head == pytest.approx(traces[m] / (traces.sum() + np.trace(direct.head)))
        else:
            assert row.share_with_head is None
        off = direct.gradients[m][~np.eye(24, dtype=bool)].mean()
        assert row.agreement == pytest.approx(off / np.diag(direct.gradients[m]).mean(), rel=1e-4, abs=1e-9)
        effects = {has_head: row.effect, **({False: row.effect_without_head} if has_head else {})}
        assert (row.effect_without_head is not None) == has_head
        for head, effect in effects.items():
            assert effect is not None
            kernel, part = direct.kernel(head), direct.parts[m]
            after = kernel - part if row.adapted else kernel + part
            assert effect.ratio == pytest.approx(direct.v(after) / direct.v(kernel), rel=1e-5)  # blocks are float32
            eta = np.linalg.eigvals(np.linalg.solve(kernel + direct.sigma * np.eye(24), part)).real.max()
            assert effect.eta == pytest.approx(eta, rel=1e-6)
            assert effect.limit == pytest.approx(1 / (1 - eta) if row.adapted else 1 / (1 + eta), rel=1e-4)
    if has_head:
        assert found.head_ratio == pytest.approx(np.trace(direct.head) / traces.sum())
    else:
        assert found.head_ratio is None


@pytest.mark.parametrize("seed", range(4))
def test_bound_b_lies_on_the_right_side_of_the_exact_change(seed: int) -> None:
    probe, scorer = make(seed=seed)
    for found in explained(scorer, mixed(probe), candidate(probe, []), candidate(probe, range(12))):
        for row in found.modules:
            for effect in (row.effect, row.effect_without_head):
                assert effect is not None
                assert effect.ratio is not None
                assert effect.limit is not None
                low, high = (1, effect.limit) if row.adapted else (effect.limit, 1)
                assert low * (1 - 1e-9) <= effect.ratio <= high * (1 + 1e-9)
    shares = [row.share for row in found.modules]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("task", TASKS)
def test_figures_are_the_direct_computation(task: str) -> None:
    probe, scorer = make(task)
    chosen = mixed(probe)
    direct, paper = Direct.of(probe, chosen), Direct.of(probe, chosen, "lora-expected")
    everything = Direct.of(probe, Candidate(all_linear(probe.targets), SETTINGS))
    (found,) = explained(scorer, chosen)
    assert [f.head for f in found.figures] == ([True, False] if probe.head is not None else [False])
    assert found.target_energy == pytest.approx(np.sum(probe.z**2))
    for figures in found.figures:
        kernel, eye = direct.kernel(figures.head), np.eye(24)
        values = np.linalg.eigvalsh(kernel)[::-1]
        np.testing.assert_allclose(figures.values, values, rtol=1e-8, atol=1e-10)
        of_all = np.linalg.eigvalsh(everything.kernel(figures.head))[::-1]
        np.testing.assert_allclose(figures.all_linear, of_all, rtol=1e-8, atol=1e-10)
        assert figures.trace == pytest.approx(np.trace(kernel))
        assert figures.condition == pytest.approx(np.linalg.cond(kernel + direct.sigma * eye))
        assert figures.paper_condition == pytest.approx(np.linalg.cond(paper.kernel(figures.head) + 1e-4 * eye), rel=1e-3)
        p = values[values > 1e-12] / values.sum()
        assert figures.effective_rank == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-6)
        residual = np.linalg.solve(kernel + direct.sigma * eye, probe.z)
        assert figures.risk == pytest.approx(direct.sigma**2 * np.sum(residual**2))
        assert figures.objective == pytest.approx(direct.v(kernel))
        assert figures.leave_one_out == pytest.approx(best_leave_one_out(kernel, probe.z))
        if task == "causal-lm":
            assert figures.alignment is figures.paper_risk is figures.paper_objective is None
            continue
        h = eye - 1 / 24
        centred, target = h @ kernel @ h, h @ probe.y @ probe.y.T @ h
        size = np.linalg.norm(centred) * np.linalg.norm(target)
        assert figures.alignment == pytest.approx(np.sum(centred * target) / size)
        residual = np.linalg.solve(kernel + direct.sigma * eye, probe.y)
        assert figures.paper_risk == pytest.approx(direct.sigma**2 * np.sum(residual**2))
        assert figures.paper_objective == pytest.approx(direct.v(kernel, probe.y))


def best_leave_one_out(kernel: Array, z: Array) -> float:
    """By fitting n times at each of six ridges."""
    n, errors = len(z), []
    for ridge in (1e-3, 1e-2, 1e-1, 1, 10, 100):
        error = 0.0
        for i in range(n):
            keep = np.arange(n) != i
            inner = kernel[np.ix_(keep, keep)] + ridge * np.trace(kernel) / n * np.eye(n - 1)
            error += np.sum((z[i] - kernel[i, keep] @ np.linalg.solve(inner, z[keep])) ** 2) / n
        errors.append(error)
    return float(min(errors))


@pytest.mark.parametrize("budget", ["3modules", "4modules", "50%", "700"])
def test_the_budget_bound_holds_for_every_set_that_fits(budget: str) -> None:
    probe, scorer = make(layers=1)
    chosen = candidate(probe, [2])
    direct = Direct.of(probe, chosen)
    (found,) = explained(scorer, chosen, budget=parse_budget(budget))
    total, own = sum(t.lora_params(8) for t in probe.targets), probe.targets[2].lora_params(8)
    rest = [m for m in range(6) if m != 2]
    for bound in [b for b in found.score.bounds if b.added == "budget"]:
        assert bound.low is not None
        assert (bound.id, bound.high, bound.sigma, bound.kernel) == ("B", 1, scorer.sigma, "adam")
        kernel = direct.kernel(bound.head)
        least = 1.0
        for many in range(6):
            for added in combinations(rest, many):
                params = own + sum(probe.targets[m].lora_params(8) for m in added)
                fits = {"3modules": many <= 2, "4modules": many <= 3, "50%": params <= total // 2, "700": params <= 700}[budget]
                if fits:
                    least = min(least, direct.v(kernel + direct.parts[list(added)].sum(0)) / direct.v(kernel))
        assert bound.low <= least * (1 + 1e-9)
        of_all = next(b for b in found.score.bounds if (b.id, b.added, b.head) == ("B", "rest", bound.head))
        assert of_all.low is not None
        assert bound.low >= of_all.low
        etas = [row.effect if bound.head else row.effect_without_head for row in found.modules]
        if budget == "3modules":
            largest = sorted((e.eta for m, e in enumerate(etas) if m != 2 and e), reverse=True)[:2]
            assert bound.low == pytest.approx(max(of_all.low, 1 / (1 + sum(largest))))
    assert [b.head for b in found.score.bounds if b.added == "budget"] == [True, False]


def test_a_selection_above_the_budget_and_a_budget_of_memory() -> None:
    probe, scorer = make(layers=1)
    (found,) = explained(scorer, candidate(probe, [0, 1, 2]), budget=parse_budget("2modules"))
    above = [b for b in found.score.bounds if b.added == "budget"]
    assert [(b.status, b.low, b.high) for b in above] == [(DOES_NOT_APPLY, None, None)] * 2
    assert "2modules" in str(above[0].reason)
    with pytest.raises(BadInput, match="24GB"):
        explain(scorer, [], parse_budget("24GB"))


def test_without_a_budget_the_bounds_are_the_scores() -> None:
    probe, scorer = make()
    chosen = [mixed(probe), candidate(probe, [0])]
    for found, score in zip(explain(scorer, chosen), scorer.score(chosen), strict=True):
        assert found.score == score


def test_what_is_not_there_is_none() -> None:
    """A zero residual target, a module without gradient, a kernel of zeros."""
    probe, _ = make("causal-lm")
    gradients = probe.gradient_blocks.copy()
    gradients[3] = 0
    probe = replace(with_blocks(probe, gradient_blocks=gradients), z=np.zeros_like(probe.z))
    scorer = make_scorer(probe)
    (found,) = explained(scorer, candidate(probe, []))
    assert found.modules[3].agreement is None
    assert found.modules[3].share == found.modules[3].energy == 0
    assert {row.effect.ratio for row in found.modules} == {None}
    assert found.figures[0].effective_rank == 0
    assert found.figures[0].condition == 1
    check_json(explanations_json([found], scorer))
    assert text(scorer, found)


def test_a_ceiling_that_does_not_exist_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.advice.explain.relative_sizes", lambda spectrum, parts, sigma: np.ones(len(parts)))
    probe, scorer = make()
    (found,) = explained(scorer, candidate(probe, [0]))
    assert found.modules[0].effect.limit is None
    assert found.modules[1].effect.limit == 0.5
    assert "no limit" in text(scorer, found)


# --- linearity -----------------------------------------------------------------------------------------------------


def linearity(targets: tuple[str, ...], **fields: Any) -> Linearity:
    found = Linearity("stored", targets, 32, 0.5, 3.0, 2.0, 1.5, (0.25, 1.0), (0.02, 0.3), 0.25, 4.0, 6.0)
    return replace(found, **fields)


def test_linearity_is_the_probes_or_the_one_measured() -> None:
    plain = make_probe(n=24, layers=2)
    chosen = candidate(plain, [0, 1])
    stored = linearity(chosen.selection.targets)
    probe = replace(plain, info={**plain.info, "linearity": [stored.as_dict()]})
    scorer = make_scorer(probe)
    other = candidate(probe, [2], name="other")
    first, second = explained(scorer, chosen, other)
    assert (first.linearity, second.linearity) == (stored, None)
    assert "not measured (give --model)" in text(scorer, second)
    assert "Thm 2" not in {b.id for b in second.score.bounds}
    shown = text(scorer, first)
    assert "rough model here" in shown
    assert "rank 8, alpha 16" in shown
    assert "25% of the step" in shown
    assert "30.0%" in shown

    new = linearity(chosen.selection.targets, gaps=(0.01, 0.05), gradient_lipschitz=40.0)
    smaller = replace(chosen, settings=LoraSettings(4, 8))
    first, second = explained(scorer, smaller, other, measured=[new, linearity(other.selection.targets)])
    assert first.linearity == new
    assert "rank 4, alpha 8" in text(scorer, first)
    bound = next(b for b in first.score.bounds if b.id == "Thm 2")
    assert bound.high == pytest.approx(2.0)  # to the ball's edge
    four = next(b for b in first.score.bounds if b.id == "Thm 4")
    assert four.high != next(b for b in explained(scorer, chosen)[0].score.bounds if b.id == "Thm 4").high
    assert "Thm 2" in {b.id for b in second.score.bounds}
    assert explanations_json([first], scorer)["selections"][0]["linearity"] == new.as_dict()


# --- JSON ----------------------------------------------------------------------------------------------------------


def check_json(shown: dict[str, Any]) -> None:
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


@pytest.mark.parametrize("task", TASKS)
def test_json_holds_the_scores_and_everything_shown(task: str) -> None:
    probe, scorer = make(task)
    chosen = [mixed(probe), candidate(probe, [], name="none"), candidate(probe, range(12), name="all")]
    found = explain(scorer, chosen)
    shown = explanations_json(found, scorer)
    check_json(shown)
    plain = scores_json(scorer.score(chosen), scorer)
    assert {key: shown[key] for key in plain if key != "selections"} == {k: v for k, v in plain.items() if k != "selections"}
    assert [s["name"] for s in shown["selections"]] == ["mixed", "none", "all"]
    assert set(shown) == set(plain)
    for entry, score, explanation in zip(shown["selections"], plain["selections"], found, strict=True):
        assert {key: entry[key] for key in score} == score
        extra = {"targets", "modules", "head_ratio", "spectrum", "paper", "linearity"}
        assert set(entry) == set(score) | extra
        assert entry["targets"] == [m["name"] for m in entry["modules"] if m["adapted"]]
        assert [m["name"] for m in entry["modules"]] == [t.name for t in probe.targets]
        assert entry["linearity"] is None
        assert (entry["spectrum"]["sigma"], entry["spectrum"]["kernel"]) == (scorer.sigma, "adam")
        assert (entry["paper"]["condition_sigma"], entry["paper"]["condition_kernel"]) == (1e-4, "lora-expected")
        for place in (entry["spectrum"], entry["paper"], *entry["modules"]):
            assert (place["with_head"] is None) == (probe.head is None)
            assert place["without_head"] is not None
        figures = explanation.figures[-1]
        without = entry["spectrum"]["without_head"]
        assert without["eigenvalues"] == figures.values.tolist()
        assert (without["largest"], without["smallest"]) == (max(figures.values), min(figures.values))
        assert entry["paper"]["without_head"]["condition"] == figures.paper_condition
        if probe.head is not None:
            assert entry["spectrum"]["with_head"]["objective"] == explanation.figures[0].objective
        for module, row in zip(entry["modules"], explanation.modules, strict=True):
            assert (module["layer"], module["role"]) == (row.target.layer, row.target.role)
            assert ("−" in module["change"]) == row.adapted
            without = row.effect_without_head or row.effect
            assert module["without_head"] == asdict(without)
            assert module["with_head"] == (asdict(row.effect) if row.effect_without_head else None)


# --- text ----------------------------------------------------------------------------------------------------------


def text(scorer: Scorer, *found: Explanation, width: int = 80) -> str:
    out = io.StringIO()
    show(blocks(found, scorer), Console(file=out, width=width, highlight=False))
    return out.getvalue()


@pytest.mark.parametrize("task", TASKS)
def test_text_at_80_columns_holds_every_chosen_name_and_no_odd_number(task: str) -> None:
    probe, scorer = make(task, layers=3)
    chosen = [mixed(probe), candidate(probe, [], name="none"), candidate(probe, range(18), name="every module there is")]
    found = explain(scorer, chosen, parse_budget("30%"))
    shown = text(scorer, *found)
    assert max(map(len, shown.splitlines())) <= 80
    assert "\x1b" not in shown
    assert "nan" not in shown.lower().replace("name", "")
    assert "None" not in shown
    for part, explanation in zip(shown.split("═══ ")[1:], found, strict=True):
        assert part.startswith(explanation.score.name)
        assert common_prefix([t.name for t in probe.targets]) in part
        for name in explanation.candidate.selection.targets:
            assert name.removeprefix("encoder.layer.") in part
        trained = probe.head is not None or explanation.candidate.selection.targets
        linear = "not measured (give --model)" if trained else "nothing is trained"
        for word in ("Share of the kernel by layer", "Eigenvalues of K", "Spectrum of K", "Bounds", f"Linearity: {linear}"):
            assert word in part
        assert ("Adapted modules" in part) == bool(explanation.candidate.selection.targets)
        assert ("Left out" in part) == (len(explanation.candidate.selection.targets) < 18)
        complete = len(explanation.candidate.selection.targets) == 18
        assert ("Nothing is left out" in part) == complete
        assert ("V(K+S)/V(K)" in part) != complete
        assert ("with head" in part) == (probe.head is not None)
    assert ("the head" in shown.lower()) == (probe.head is not None)
    assert "does not apply" in shown
    assert "K is singular" in " ".join(shown.split())
    wide = text(scorer, *found, width=120)
    assert max(map(len, wide.splitlines())) <= 120


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    targets = tuple(replace(t, name=f"[red]m{i}[/red].[bold]x") for i, t in enumerate(bert_targets(1)))
    probe = replace(make_probe(n=24, layers=1), targets=targets)
    probe = replace(probe, info={**probe.info, "footprint": {**probe.info["footprint"], "targets": [t.name for t in targets]}})
    scorer = make_scorer(probe)
    shown = text(scorer, *explained(scorer, candidate(probe, [0, 2], name="[link=x]mine[/link]")))
    for name in ("[link=x]mine[/link]", "[red]m0[/red].[bold]x", "[red]m5[/red].[bold]x"):
        assert name in shown


def test_long_tables_are_cut_and_say_so_and_are_sorted() -> None:
    probe, scorer = make(layers=8)
    (found,) = explained(scorer, candidate(probe, range(30)))
    shown = text(scorer, found)
    assert "… and 10 more" in shown
    assert "… and 8 more" in shown
    table = shown[shown.index("Adapted modules") : shown.index("… and 10 more")].splitlines()[4:24]
    shares = [float(line.split("%")[0].split()[-1]) for line in table]
    assert len(shares) == 20
    assert shares == sorted(shares, reverse=True)
    of_rest = float(shown[shown.index("… and 10 more") :].split("%")[0].split()[-1])
    adapted = 100 * sum(row.share for row in found.modules if row.adapted)
    assert sum(shares) + of_rest == pytest.approx(adapted, abs=1.5)


def test_every_module_of_many_layers_is_counted_in_the_layer_plot() -> None:
    probe, scorer = make(n=12, layers=30)
    outside = replace(probe.targets[-1], layer=None)
    probe = replace(probe, targets=(*probe.targets[:-1], outside))
    scorer = make_scorer(probe)
    (found,) = explained(scorer, candidate(probe, [0, 100, 179]))
    shown = text(scorer, found)
    part = shown[shown.index("Share of the kernel by layer") : shown.index("Eigenvalues of K")].splitlines()[1:-1]
    assert len(part) == 16  # 30 layers in pairs, and what is in none
    assert part[0].split()[0] == "0–1"
    assert part[-1].split()[0] == "other"
    numbers = [[float(word.rstrip("%")) for word in line.split() if word.endswith("%")] for line in part]
    assert sum(whole for _, whole in numbers) == pytest.approx(100, abs=1)
    adapted = 100 * sum(row.share for row in found.modules if row.adapted)
    assert sum(own for own, _ in numbers) == pytest.approx(adapted, abs=1)


@pytest.mark.parametrize(
    ("share", "drawn"),
    [(0, ""), (1, "████"), (2, "████"), (0.5, "██"), (1 / 32, "▏"), (1e-9, "▏"), (0.28, "█▏"), (31 / 32, "███▉")],
)
def test_bars(share: float, drawn: str) -> None:
    assert bar(share, 4) == drawn.ljust(4)


def test_words_for_numbers() -> None:
    assert [change(x) for x in (1.034, 0.5, 25.0, None)] == ["+3.4%", "-50.0%", "×25", "–"]
    assert change(None, "no limit") == "no limit"
    assert [number(x) for x in (None, 0, 0.0125, 1.77e-4, 5641, 1)] == ["–", "0", "0.0125", "1.8e-04", "5.64k", "1"]
    assert common_prefix(["a.b.0.q", "a.b.1.q"]) == "a.b."
    assert common_prefix(["a.b.q"]) == "a.b."
    assert common_prefix(["q", "a.q"]) == common_prefix(["a.b", "ab.b"]) == ""


def test_the_spectrum_plot_puts_values_where_they_belong() -> None:
    values = 10.0 ** np.linspace(3, 0, 128)
    lines = spectrum_lines([(values, "●"), (values * 10, "○")], 2.0)
    assert max(map(len, lines)) <= 72
    assert len(lines) == ROWS + 2
    rows = [line[11:].ljust(COLUMNS) for line in lines[:ROWS]]
    marks = [[row.index(mark) if mark in row else None for row in rows] for mark in "●○"]
    assert rows[0][0] == "○"  # the largest, at the top left
    for starts in marks:  # downwards is rightwards
        seen = [s for s in starts if s is not None]
        assert seen == sorted(seen)
    assert lines[0].split("┤")[0].strip() == "10k"
    ridge = next(i for i, row in enumerate(rows) if "┄" in row)
    step = 4 / 9  # decades a row, from 10⁴ to 10⁰
    assert ridge == round((4 - np.log10(2)) / step)
    assert lines[-1].split() == ["1", "64", "128"]


def test_the_spectrum_plot_of_odd_spectra() -> None:
    ones, zeros = np.ones(12), np.zeros(12)
    assert spectrum_lines([(zeros, "●")], 1.0) == ["  All eigenvalues are zero: nothing is trained."]
    assert "12 of ●" in "\n".join(spectrum_lines([(zeros, "●"), (ones, "○")], 1.0))
    both = "\n".join(spectrum_lines([(ones, "●"), (ones, "○")], 1.0))
    assert both.count("◐") == 12
    assert "●" not in both
    assert "┄" not in "\n".join(spectrum_lines([(ones, "●")], 2.0))
    assert spectrum_lines([(ones, "●")], 1e-20)  # σ far below everything
    tail = np.array([1.0, *[1e-9] * 11])
    assert "11 of ●" in "\n".join(spectrum_lines([(tail, "●")], 1e-3))


def test_a_selection_without_a_name_of_its_own_is_still_explained() -> None:
    probe, scorer = make()
    (found,) = explained(scorer, Candidate(Selection("", (probe.targets[0].name,)), SETTINGS))
    assert text(scorer, found)
