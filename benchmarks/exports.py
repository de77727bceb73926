"""What each format can say: ``python benchmarks/exports.py`` renders small plans and rewrites the table of docs/exports.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from advisor.export import FORMATS
from advisor.export.plan import Plan
from advisor.store import write_text
from advisor.targets import LoraSettings, Selection, Target

DOCS = Path(__file__).parents[1] / "docs" / "exports.md"
START, END = "<!-- table by benchmarks/exports.py -->", "<!-- end of the table -->"


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
        "families besides unsloth's": replace(base, model_type="gpt2"),
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


def main() -> None:
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(START)
    write_text(DOCS, f"{before}{START}\n{table()}{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
