"""What each format can say, and that it does: ``python benchmarks/exports.py`` rewrites the tables of docs/exports.md.

The first table renders small plans. The second wraps tiny models of every family without weights, with what each file's
tool hands to PEFT (``tests/exporting.py``, written from the tools' rules apart from the advisor's own readers), and compares
modules, ranks and scales with what was chosen: every other module, half of these at a rank of their own.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from advisor.core.store import write_text
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.export import FORMATS
from advisor.export.plan import Plan

DOCS = Path(__file__).parents[1] / "docs" / "exports.md"
START, END = "<!-- table by benchmarks/exports.py -->", "<!-- end of the table -->"
PROOF_START, PROOF_END = "<!-- proof by benchmarks/exports.py -->", "<!-- end of the proof -->"


def plans() -> dict[str, Plan]:
    """One plan a feature, all on modules of the names that Llama has."""
    names = tuple(f"model.layers.{layer}.self_attn.{role}_proj" for layer in range(2) for role in "qv")
    targets = tuple(Target(n, i // 2, n.rsplit(".", 1)[-1], "attention", 64, 64) for i, n in enumerate(names))
    base = Plan(Selection("some", names[1:]), LoraSettings(4, 8), targets, "causal-lm", (), "model", "llama")
    own = {names[1]: 8}
    outer = replace(targets[0], name=f"draft.{names[1]}")
    classifier = replace(base, task="classification", outputs=2)
    return {
        "modules of any layers": base,
        "rsLoRA": replace(base, settings=LoraSettings(4, 8, rslora=True)),
        "a rank for each module": replace(base, ranks=own, alphas={names[1]: 16.0}),
        "alpha that is no whole number": replace(base, settings=LoraSettings(4, 2.5)),
        "a name that ends another's": replace(base, targets=(outer, *targets)),
        "families besides Llama's": replace(base, model_type="gpt_neox"),
        "whole roles of these": replace(base, model_type="gpt_neox", selection=Selection("some", names)),
        "Llama classifier (head `score`)": replace(classifier, model_type="llama", head=("score",)),
        "other classifiers": replace(classifier, model_type="bert", head=("classifier",)),
    }


def table() -> str:
    """Markdown: a row per file of each format, a column per feature."""
    features = plans()
    lines = ["| file | " + " | ".join(features) + " |", "|---" * (len(features) + 1) + "|"]
    rendered = {feature: {name: target.render(plan) for name, target in FORMATS.items()} for feature, plan in features.items()}
    for name in FORMATS:
        for file in next(iter(rendered.values()))[name].files:
            cells = [found[name].files[file].fidelity for found in rendered.values()]
            lines.append(f"| {name}: `{file}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def proof() -> str:
    """Markdown: a row per file of each format, a column per family: modules that get LoRA as chosen, of those chosen."""
    sys.path.insert(0, str(DOCS.parents[1] / "tests"))
    import exporting

    cells: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in exporting.CONFIGS:
            made = exporting.make(name, Path(folder) / name)
            chosen = [target.name for target in made.targets][1::2]
            ranks, settings = {n: 8 for n in chosen[::2]}, LoraSettings(4, 8)
            plan = made.plan(chosen, settings, ranks=ranks, alphas={n: 16.0 for n in ranks})
            for label, target in FORMATS.items():
                for file_name, file in target.render(plan).files.items():
                    row = cells.setdefault(f"{label}: `{file_name}`", [])
                    row.append("–" if file.fidelity == "impossible" else _equal(exporting, made, plan, file_name, file.text))
    heads = "| file | " + " | ".join(exporting.CONFIGS) + " |"
    lines = [heads, "|---" * (len(exporting.CONFIGS) + 1) + "|"]
    return "\n".join([*lines, *(f"| {file} | " + " | ".join(row) + " |" for file, row in cells.items())]) + "\n"


def _equal(exporting: Any, made: Any, plan: Plan, file_name: str, text: str) -> str:
    found = exporting.trained(made.model, exporting.tool_arguments(file_name, text))
    own = {n: (plan.module_settings(n).rank, plan.module_settings(n).scale) for n in plan.names}
    modules = f"{len(set(found) & set(own))}/{len(own)}" + (f" +{len(set(found) - set(own))}" if set(found) - set(own) else "")
    return modules if found == own else f"{modules}, one rank"


def rewritten(page: str) -> str:
    """The page with both tables as they are now."""
    for start, end, text in ((START, END, table()), (PROOF_START, PROOF_END, proof())):
        before, _, rest = page.partition(start)
        page = f"{before}{start}\n{text}{end}{rest.partition(end)[2]}"
    return page


def main() -> None:
    write_text(DOCS, rewritten(DOCS.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
