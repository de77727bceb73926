"""Loss curves of both examples: ``python benchmarks/loss_curves.py LANGUAGE_MODEL``.

Writes results/examples.json and docs/examples.png. Both train on rows of the demo, topics of standard-library docstrings:
examples/trainer.py MiniLM as a classifier, examples/sft.py the given language model on naming the topic.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from advisor.core.store import write_json
from advisor.probe_cache import demo_inputs

ROOT = Path(__file__).parents[1]
RESULTS, PLOT = ROOT / "benchmarks" / "results" / "examples.json", ROOT / "docs" / "examples.png"


ROWS = 240  # of the demo's 1,200: a curve, not a record


def demo_rows(demo: str, folder: Path) -> tuple[str, str]:
    """Two files: the demo's first rows as they are, and as prompt and completion."""
    rows = [json.loads(line) for line in Path(demo).read_text(encoding="utf-8").splitlines()[:ROWS]]
    asked = [{"prompt": f"{row['text']} Topic:", "completion": f" {row['label']}"} for row in rows]
    for name, content in (("texts", rows), ("asked", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return str(folder / "texts.jsonl"), str(folder / "asked.jsonl")


def curve(log: list[dict[str, float]], key: str) -> list[tuple[int, float]]:
    """(step, value) of one number of the trainer's log."""
    return [(int(entry["step"]), float(entry[key])) for entry in log if key in entry]


def plot(found: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, (name, run) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        axes.plot(*zip(*run["loss"], strict=True), color="black", label="training")
        axes.plot(*zip(*run["eval_loss"], strict=True), "o--", color="tab:blue", label="evaluation")
        axes.set(title=f"{name}: {run['model']}", xlabel="step", ylabel="loss", ylim=(0, None))
        axes.legend(frameon=False)
    return figure


def main(language_model: str) -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    minilm, demo = demo_inputs()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        texts, asked = demo_rows(demo, Path(folder))
        runs = (("trainer", "MiniLM", minilm, texts), ("sft", Path(language_model).name, language_model, asked))
        for name, label, model, data in runs:
            log = import_module(name).main(model, data, f"{folder}/{name}")
            found[name] = {"model": label, "loss": curve(log, "loss"), "eval_loss": curve(log, "eval_loss")}
    write_json(RESULTS, found)
    plot(found).savefig(PLOT, dpi=110, facecolor="white")
    for name, run in found.items():
        print(
            f"{name}: training loss {run['loss'][0][1]:.3f} → {run['loss'][-1][1]:.3f}, "
            f"evaluation {run['eval_loss'][0][1]:.3f} → {run['eval_loss'][-1][1]:.3f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
