"""Every model family from discovery to a training step, on tiny random models: the table of ``docs/models.md``.

python benchmarks/families.py            # what was found, as a table
python benchmarks/families.py --write    # the same, into docs/models.md
python benchmarks/families.py --write t5 vit    # of these alone; the other lines of the page stay as they were run
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import oracle
import torch
import vision_language
import yaml
from architectures import DECODERS, ENCODER_DECODERS, FAMILIES, HYBRIDS, WRITERS, build
from peft import LoraConfig, get_peft_model

from advisor.advice.budget import parse_budget
from advisor.core.choices import OBJECTIVE
from advisor.core.events import Note, Session
from advisor.core.probe import Probe
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings, Target
from advisor.core.tasks import AGAINST_BASE, EMBEDDING, KTO, outputs_of
from advisor.export.peft import YAML_FILE
from advisor.models.adaptable import NEVER_ADAPTED
from advisor.models.embedding import batches_of, contrast_losses
from advisor.models.encode import collate
from advisor.models.forward import logits_of
from advisor.models.head_input import head_linears
from advisor.models.load import LoadedModel, load_model
from advisor.models.prepare import Prepared, Source, prepare
from advisor.models.tables import output_table
from advisor.probing.outputs import Outputs, forward_outputs
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.workflow import Question, export_formats, measure_pick, recommend_folder

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- families: made by benchmarks/families.py -->", "<!-- end -->"
SEEING = vision_language.FAMILIES
ALL: dict[str, Any] = {**FAMILIES, **HYBRIDS, **SEEING}
FUSED = {"qkv": "query, key, value", "gate_up": "gate, up", "experts.gate_up": "gate, up"}
READERS = ("token-classification", "question-answering", "embedding")
BESIDE = {  # further tasks that some families are tried on
    **dict.fromkeys(("bert", "roberta", "distilbert", "modernbert"), READERS),
    **dict.fromkeys(("llama", "gpt2"), (*READERS, "preference", "kto")),
    "olmoe": ("preference", "kto"),
}
SETTINGS = LoraSettings(rank=4, alpha=8)
TOLERANCE = 1e-5
STEP = 0.01  # share of the loss that one step would take away, were the loss linear
STEP_ROWS = 8


@dataclass(frozen=True)
class Found:
    """One family on one kind of task.

    Attributes:
        model_type: of its config.
        targets: what can be adapted. never: names of modules that never are. notes: what the advisor said.
        error: worst relative Frobenius error of a block (W and G of each module, that of the head's linear modules) against
            float64 autograd.
        chosen: modules of the recommendation. applied: those that PEFT adapts with the exported YAML.
        loss_before, loss_after: of a batch, around one step of gradient descent on what that YAML trains.
    """

    model_type: str
    targets: tuple[Target, ...]
    never: tuple[str, ...]
    notes: tuple[str, ...]
    error: float
    chosen: tuple[str, ...]
    applied: tuple[str, ...]
    loss_before: float
    loss_after: float


def kinds_of(name: str) -> tuple[str, ...]:
    """The tasks that a family is tried on."""
    beside = BESIDE.get(name, ())
    if name in SEEING:
        return ("turns",) if SEEING[name].mark else ("columns",)
    if name in WRITERS or name in HYBRIDS:
        return ("causal-lm", *beside)
    if FAMILIES[name].processor:
        return ("images",)
    if name in ENCODER_DECODERS:
        return ("seq2seq",)
    return ("causal-lm", "binary", *beside) if name in DECODERS else ("binary", *beside)


def examine(model: Path, kind: str, folder: Path, dtype: str = "float32", adapt: str = "language") -> Found:
    """Discover, probe, recommend, export, apply and train one step; files go into ``folder``.

    Args:
        adapt: which parts of a model of images and text.
        dtype: of the model that is probed. Recurrences round so much in float32 that they are checked in float64.
    """
    notes: list[str] = []
    session = Session(lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    path, rows = oracle.write_rows(folder, kind)
    task = oracle.TASKS.get(kind, "classification")
    prepared = prepare(
        Source(str(model), str(path), eval_data=str(path), task=task, device="cpu", dtype=dtype, adapt=adapt), session
    )
    loaded = prepared.loaded
    settings = ProbeSettings(method="materialise", micro_batch=5, linearity=False)
    probe = run_probe(prepared, settings, folder / "probe", session)
    written = recommend_folder(
        probe,
        Question(SETTINGS, TrainingRecipe(), parse_budget("50%"), strategy=OBJECTIVE),
        session,
        folder / "advice",
        linearity_of=measure_pick(prepared, settings, SETTINGS, session),
    )
    export_formats(folder / "advice", ["peft"], folder / "peft")
    arguments = yaml.safe_load((folder / "peft" / YAML_FILE).read_text(encoding="utf-8"))
    return Found(
        loaded.model.config.model_type,
        loaded.targets,
        never_adapted(loaded),
        tuple(notes),
        worst_error(prepared, probe, rows, kind),
        tuple(written.json["pick"]["targets"]),
        *one_step(prepared, arguments),
    )


def never_adapted(loaded: LoadedModel) -> tuple[str, ...]:
    """Names of modules that no selection may hold: the head or the output embeddings, and what no family adapts."""
    modules = dict(loaded.model.named_modules())
    held = {part for t in loaded.targets for part in t.name.split(".")}  # a stack of experts is adapted, single experts are not
    parts = dict.fromkeys(part for name in modules for part in name.split(".") if part in NEVER_ADAPTED and part not in held)
    output = output_table(loaded.model)
    return tuple(dict.fromkeys([*parts, *loaded.head, *(name for name, m in modules.items() if m is output)]))


def worst_error(prepared: Prepared, probe: Probe, rows: Sequence[dict[str, Any]], kind: str) -> float:
    """Of all blocks, by :func:`oracle.looped_reference`."""
    loaded = prepared.loaded
    linears = tuple(f"{name}." for name in head_linears(loaded))  # ModernBERT's head also has a norm, which is not probed
    head = [n for n, _ in loaded.model.named_parameters() if linears and n.startswith(linears)]
    weights = [t.name if t.experts else f"{t.name}.weight" for t in loaded.targets]
    texts = oracle.tokenised(loaded.processor or loaded.tokenizer or loaded.image_processor, rows, kind)
    if loaded.embedder is not None:
        wanted = oracle.contrasted_reference(
            loaded.model, weights, texts, batches_of(len(texts), seed=0), loaded.embedder.pooling
        )
    else:
        wanted = oracle.looped_reference(loaded.model, [*weights, *head], texts, *oracle.scalars_of(kind))
    errors = [oracle.relative(b, wanted.weight_block([w])) for b, w in zip(probe.weight_blocks, weights, strict=True)]
    errors += [oracle.relative(b, wanted.gradient_block([w])) for b, w in zip(probe.gradient_blocks, weights, strict=True)]
    if probe.head is not None:
        errors.append(oracle.relative(probe.head.weight, wanted.weight_block(head)))
    return float(max(errors))


def one_step(prepared: Prepared, arguments: Mapping[str, Any]) -> tuple[tuple[str, ...], float, float]:
    """Load the model anew, let PEFT apply ``arguments``, and go one step: modules adapted, loss before and after."""
    task = prepared.loaded.task
    loaded = load_model(
        prepared.loaded.name, task, num_labels=outputs_of(task, len(prepared.train.schema.class_names)), device="cpu"
    )
    torch.manual_seed(0)
    model: Any = get_peft_model(loaded.model, LoraConfig(**arguments)).eval()
    batch = collate(prepared.train_rows[:STEP_ROWS], loaded)
    labels = batch.pop("labels")
    outputs = Outputs(task, len(prepared.train.schema.class_names))

    def loss() -> torch.Tensor:
        logits = logits_of(loaded, model(**batch), batch)
        if task == EMBEDDING:
            return contrast_losses(logits.view(*labels.shape, -1)).mean()
        values, _, losses = forward_outputs(outputs, logits, labels)
        if task in AGAINST_BASE:  # with KTO's baseline of the start, 0
            return (torch.sigmoid if task == KTO else torch.nn.functional.softplus)(start - values).mean()
        return losses.mean()

    if task in AGAINST_BASE:
        with torch.no_grad():
            start = forward_outputs(outputs, logits_of(loaded, model(**batch), batch), labels)[0]  # of the reference
    before = loss()
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(before, trained)
    rate = STEP * float(before.detach()) / sum(float(g.square().sum()) for g in gradients)
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter -= rate * gradient
        after = loss()
    applied = (*model.base_model.targeted_module_names, *model.base_model.targeted_parameter_names)
    return applied, float(before.detach()), float(after)


def made(name: str, folder: Path, kind: str) -> Path:
    """A tiny random model of a family for a kind of task."""
    if name in SEEING:
        return Path(vision_language.build(name, folder))
    return Path(build(name, folder, task=oracle.TASKS.get(kind, "classification")))


def line(name: str, found: Sequence[Found]) -> list[str]:
    """A family's line of the table, from its tasks."""
    first = found[0]
    roles = Counter(t.role for t in first.targets)
    fused = "; ".join(f"{FUSED[role]} in one" for role in roles if role in FUSED)
    never = dict.fromkeys(part for each in found for part in each.never)
    exact = max(each.error for each in found)
    applied = all(set(each.chosen) == set(each.applied) for each in found)
    lowered = all(each.loss_after < each.loss_before for each in found)
    return [
        ALL[name].title,
        f"`{first.model_type}`",
        ", ".join(kinds_of(name)).replace("binary", "classification").replace("images", "classification of images")
        if name not in SEEING
        else "causal-lm with images",
        " / ".join(str(len(each.targets)) for each in found) if name in SEEING else str(len(first.targets)),
        ", ".join(roles),
        fused or "–",
        ", ".join(f"`{part}`" for part in never),
        f"{exact:.0e}" if exact <= TOLERANCE else f"**{exact:.0e}**",
        "yes" if applied else "**no**",
        "yes" if lowered else "**no**",
    ]


COLUMNS = (
    "family",
    "model_type",
    "tried on",
    "modules",
    "roles",
    "fused projections",
    "never adapted",
    "worst block error",
    "PEFT adapts exactly the pick",
    "one step lowers the loss",
)


def table(names: Sequence[str], before: str = "") -> str:
    """Every family of ``tests/architectures.py``, the named ones run now, the others as on the page ``before``."""
    kept = {row.split("|")[1].strip(): row for row in before.partition(BEGIN)[2].partition(END)[0].splitlines() if "|" in row}
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    for name in ALL:
        if name not in names:
            lines.append([cell.strip() for cell in kept[ALL[name].title].strip("|").split("|")])
            continue
        found = []
        for kind in kinds_of(name):
            for adapt in ("language", "all") if name in SEEING else ("language",):
                with tempfile.TemporaryDirectory() as folder:
                    model = made(name, Path(folder) / "model", kind)
                    found.append(examine(model, kind, Path(folder), "float64" if name in HYBRIDS else "float32", adapt))
        lines.append(line(name, found))
        print(" | ".join(lines[-1]), flush=True)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(text: str, made: str) -> str:
    """``text`` with the table ``made`` between the markers.

    Raises:
        ValueError: it has none.
    """
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"no {BEGIN}")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def families_on(text: str) -> list[tuple[str, ...]]:
    """Family and model type of each line of the page's table."""
    rows = text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    return [tuple(cell.strip() for cell in row.split("|")[1:3]) for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(ALL)}")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    options = parser.parse_args()
    if unknown := set(options.names) - set(ALL):  # not by `choices`, which refuse an empty list
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    before = PAGE.read_text(encoding="utf-8")
    found = table(options.names or list(ALL), before)
    if options.write:
        PAGE.write_text(page(before, found), encoding="utf-8")
