"""What a probe will cost, from the model's file headers and a look at the data: nothing is loaded (no torch).

The probe itself says it exactly once model and tokenizer are there; this is for deciding before. How long it takes is not
said: no simple count predicted that within a factor of ten on busy CPUs; the first batch shows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advisor.core.recipe import BY_ODDS, HEADLESS
from advisor.core.tasks import COMPARED, SEVERAL_TEXTS, TASKS
from advisor.probing.settings import HEAD_ROWS, ProbeSettings, probe_samples

CHARACTERS_PER_TOKEN = 4.5  # English prose with large vocabularies
QUICK_TO_READ = 2_000_000  # bytes of a tokenizer's file; reading a larger one would hold up whatever else the program does
BEGINNING = 2000  # characters of a text that are counted in tokens
NOT_ADAPTED = ("embed", "wte", "wpe", "lm_head", "pooler", "shared.weight", "relative_attention_bias")
EXACT_CLASSES, PROJECTIONS = 8, 16  # as advisor.probing.outputs
PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k")  # what configs call the experts of a token


@dataclass(frozen=True)
class ProbeCost:
    """An estimate.

    Attributes:
        rows, tokens: that are probed. backward: backward passes a row, beside one forward pass. flops: of the passes,
            those of the head's rows included. disk_bytes: while it runs, if the method is exact.
    """

    rows: int
    tokens: int
    backward: int
    flops: float
    disk_bytes: float


def estimate_probe(
    model: Path,
    task: str,
    classes: int,
    rows: int,
    texts: Sequence[Sequence[str]],
    samples: int | None = None,
    max_length: int | None = None,
) -> ProbeCost | None:
    """The cost of probing a local model folder; None where it has no safetensors to look at, or the rows no characters.

    Args:
        rows: that there are to train on. texts: those of some of them (images have none). samples: rows to probe, None:
            max(128, 4 · classes).
    """
    shapes = _matrices(model)
    if not shapes or not any(map(any, texts)):
        return None
    longest = (max_length or TASKS[task].max_length) * (2 if task in SEVERAL_TEXTS else 1)
    characters = _characters_per_token(model, texts)
    per_row = float(np.mean([min(2 + sum(map(len, row)) / characters, longest) for row in texts]))
    head_rows, rows = min(HEAD_ROWS, rows), min(probe_samples(ProbeSettings(samples=samples), classes), rows)
    outputs = 1 if classes <= 2 or task in BY_ODDS else classes - 1 if classes <= EXACT_CLASSES else PROJECTIONS
    backward = outputs + (0 if task in ("regression", *COMPARED) or (classes == 2 and task not in BY_ODDS) else 1)
    size, tokens = sum(a * b for a, b in shapes), rows * per_row
    head = 2.0 * size * per_row * head_rows if task not in HEADLESS else 0.0
    widths = sum(a + backward * b for a, b in shapes)
    return ProbeCost(rows, round(tokens), backward, 2.0 * size * tokens * (1 + backward) + head, 4.0 * tokens * widths)


def _characters_per_token(model: Path, texts: Sequence[Sequence[str]]) -> float:
    """Of these texts, by the model's own tokenizer where there is one that is quick to read."""
    file = model / "tokenizer.json"
    beginnings = [text[:BEGINNING] for row in texts for text in row]
    try:
        if file.stat().st_size > QUICK_TO_READ:
            return CHARACTERS_PER_TOKEN
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokens = sum(len(found) for found in tokenizer.encode_batch(beginnings, add_special_tokens=False))
    except Exception:  # no such file, or of no kind that tokenizers knows, which raises nothing else: loading it will say so
        return CHARACTERS_PER_TOKEN
    return sum(map(len, beginnings)) / tokens if tokens else CHARACTERS_PER_TOKEN


def _active_experts(model: Path) -> int:
    """How many experts a token goes through, by the config; 1 where it does not say."""
    try:
        fields = json.loads((model / "config.json").read_text(encoding="utf-8"))
        return int(next((fields[key] for key in PER_TOKEN if fields.get(key)), 1))
    except (OSError, ValueError, TypeError, AttributeError):
        return 1  # loading it will say what is wrong


def _matrices(model: Path) -> list[tuple[int, int]]:
    """Shapes of the weight matrices that a token goes through, by the files' headers, without embeddings and heads."""
    found, active = [], _active_experts(model)
    for path in sorted(model.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, 100_000_000)))
            for name, fields in header.items():
                if name == "__metadata__" or any(part in name for part in NOT_ADAPTED):
                    continue
                *stack, rows, columns = [0, 0, *fields["shape"]][-3:]
                expert = re.search(r"\.experts\.(\d+)\.", name)
                if len(fields["shape"]) == 2 and (expert is None or int(expert[1]) < active):
                    found.append((int(columns), int(rows)))
                elif len(fields["shape"]) == 3 and ".experts." in name:
                    found += [(int(columns), int(rows))] * min(active, int(stack[0]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return []  # not a safetensors file: loading it will say so
    return found
