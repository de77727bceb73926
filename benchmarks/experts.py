"""Does adapting experts pay as predicted? Real LoRA runs of a small mixture of experts, trained here from scratch.

The mixture is Mixtral's architecture in small (4 layers, 4 experts, 2 a token, width 64), trained for a few minutes on the
chats of ``../shared/data/tiny_chat`` with the tokenizer of ``../shared/models/stories260K``. Then it is fine-tuned on other
data with many selections: usual target sets, stacks of experts alone, and random selections of three sizes. Printed are rank
correlations with the validation losses, means over seeds: of the prediction, of the number of LoRA parameters, of the gradient
norm, and of a second seed. Everything goes to the work folder; run again to resume.

    python benchmarks/experts.py WORK [--data nl2bash] [--seeds 2]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

from advisor.advice.peer_picks import GRADIENT_NORM, candidate_scores
from advisor.core.candidate import Candidate
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.selections import HEAD_ONLY, distinct, structured_random, target_sets
from advisor.core.store import write_json
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.models.prepare import Source, prepare
from advisor.prediction.calibration_rows import load_rows
from advisor.prediction.predictor import Predictor
from advisor.prediction.scorer import Scorer
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.training.runner import PlannedRun
from advisor.training.runs import calibrate

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "experts.json"
SHARED = HERE.parents[1] / "shared"
LAYERS, WIDTH, INNER, EXPERTS = 4, 64, 128, 4
STEPS, BATCH, WINDOW, RATE, AUXILIARY = 800, 8, 128, 3e-3, 0.02  # of the mixture's own training
SETTINGS = LoraSettings(rank=4, alpha=8)
RECIPE = TrainingRecipe(train_rows=192, epochs=2, lr=5e-3, batch_size=16)
MAX_LENGTH = 64
EVAL_ROWS = 96
SHARES, DRAWS = (0.09, 0.18, 0.36), 4  # sizes of the random selections, of all LoRA parameters, and how many of each


def make_mixture(folder: Path) -> Path:
    """Train the mixture into ``folder``, unless it is there."""
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models" / "stories260K")
    rows = [json.loads(line) for line in (SHARED / "data" / "tiny_chat" / "train.jsonl").read_text("utf-8").splitlines()]
    texts = ["\n".join(f"{turn['role']}: {turn['content']}" for turn in row["messages"]) for row in rows]
    ids = torch.cat([torch.tensor([*tokenizer(text)["input_ids"], tokenizer.eos_token_id]) for text in texts])
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=EXPERTS,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        output_router_logits=True,
        router_aux_loss_coef=AUXILIARY,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model: Any = MixtralForCausalLM(config)
    model.set_experts_implementation("eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    losses = []
    for step in range(STEPS):
        starts = torch.randint(0, len(ids) - WINDOW, (BATCH,))
        batch = torch.stack([ids[start : start + WINDOW] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if step % 100 == 99:
            print(f"step {step + 1}: loss {np.mean(losses[-100:]):.3f}", flush=True)
    model.config.output_router_logits = False  # else a fine-tune would train the routers' balance too
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def selections(targets: Sequence[Target], qv_roles: Sequence[str]) -> list[Selection]:
    """Nothing, the usual target sets, the experts by kind and layer, and random selections of three sizes."""
    stacks = [t for t in targets if t.experts]
    others = [t for t in targets if not t.experts]
    layers = sorted({t.layer for t in stacks if t.layer is not None})
    named = [
        Selection("experts", tuple(t.name for t in stacks)),
        Selection("all but experts", tuple(t.name for t in others)),
        *(Selection(role, tuple(t.name for t in stacks if t.role == role)) for role in dict.fromkeys(t.role for t in stacks)),
        *(Selection(f"experts of layer {k}", tuple(t.name for t in stacks if t.layer == k)) for k in layers),
    ]
    rng, total = np.random.default_rng(0), sum(t.lora_params(SETTINGS.rank) for t in targets)
    drawn = [
        structured_random(targets, int(share * total), SETTINGS.rank, rng, f"random {share:.0%} #{draw}")
        for share in SHARES
        for draw in range(DRAWS)
    ]
    return distinct([Selection(HEAD_ONLY, ()), *target_sets(targets, qv_roles), *named, *drawn])


def measure(model: Path, data: str, work: Path, seeds: int) -> dict[str, Any]:
    """Every selection's parameters, scores before any run, and losses by seed."""
    source = Source(str(model), str(SHARED / "data" / data / "train.jsonl"), max_length=MAX_LENGTH, device="cpu")
    prepared = prepare(source, Session(), train_limit=RECIPE.train_rows, eval_limit=0)
    probe = run_probe(prepared, ProbeSettings(), work / f"probe-{data}", Session())
    scorer = Scorer(probe, SETTINGS, RECIPE, Predictor().fit(load_rows(), probe.task))
    chosen = selections(probe.targets, prepared.loaded.qv_roles())
    planned = [PlannedRun(selection, SETTINGS, seed) for seed in range(seeds) for selection in chosen]
    rows = calibrate(source, planned, RECIPE, work / data, Session(), eval_rows=EVAL_ROWS, made_of=prepared.made_of)
    losses = {row["key"]: row["result"]["val_loss"] for row in rows}
    candidates = [Candidate(selection, SETTINGS) for selection in chosen]
    deviations = scorer.predict(candidates).deviation
    norms = candidate_scores(scorer, candidates)[GRADIENT_NORM]
    found = []
    for index, selection in enumerate(chosen):
        runs = [losses.get(PlannedRun(selection, SETTINGS, seed).key) for seed in range(seeds)]
        if None in runs:
            continue  # it failed, which calibrate has kept
        cost = scorer.cost(candidates[index])
        found.append(
            {
                "name": selection.name,
                "params": cost.params,
                "stacks": sum(t.experts > 0 for t in probe.targets if t.name in set(selection.targets)),
                "predicted": float(deviations[index]),
                "gradient_norm": None if np.isnan(norms[index]) else float(norms[index]),
                "losses": runs,
            }
        )
    return {"data": data, "recipe": RECIPE.__dict__, "selections": found, "spearman": correlations(found)}


def correlations(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlations with the mean validation loss, higher is better; of all selections that adapt something, and of the
    random ones of each size by themselves."""
    adapted = [entry for entry in found if entry["params"]]
    groups = {"all": adapted}
    groups |= {f"random {s:.0%}": [e for e in adapted if e["name"].startswith(f"random {s:.0%} ")] for s in SHARES}
    figures = {}
    for name, group in groups.items():
        loss = np.array([np.mean(entry["losses"]) for entry in group])
        seeds = np.array([entry["losses"] for entry in group])
        figures[name] = {
            "selections": len(group),
            "prediction": rank_correlation([e["predicted"] for e in group], loss),
            "parameters": rank_correlation([-e["params"] for e in group], loss),
            "gradient_norm": rank_correlation([-e["gradient_norm"] for e in group], loss),
            "second_seed": rank_correlation(seeds[:, 1], seeds[:, 0]) if seeds.shape[1] > 1 else None,
        }
    return figures


def rank_correlation(scores: Sequence[float] | np.ndarray, losses: np.ndarray) -> float | None:
    """Spearman's; None where all scores are equal."""
    return float(spearmanr(scores, losses).statistic) if len(set(scores)) > 1 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", nargs="+", default=["nl2bash"])
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = make_mixture(options.work / "mixture")
    found = []
    for data in options.data:
        found.append(measure(model, data, options.work, options.seeds))
        for name, figures in found[-1]["spearman"].items():
            print(data, name, figures, flush=True)
        for entry in sorted(found[-1]["selections"], key=lambda e: float(np.mean(e["losses"]))):
            print(f"{np.mean(entry['losses']):.3f} {entry['predicted']:+.3f} {entry['params']:6d} {entry['name']}")
    write_json(RESULTS, {"groups": found})


if __name__ == "__main__":
    main()
