"""The peers' scores of every selection in the rows, for ``benchmarks/validity.py``.

A probe of each model on its data, as far as they are here, into the work folder (``MODEL on DATA, N rows`` in it, where the probe
that ``benchmarks/sweep.py`` made does as well); scores into ``results/peer_scores.json``. Groups
that have scores, or too few selections to be ranked, are left alone.

    python benchmarks/peers.py [--work build/peers]
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from linearity import source_of
from validity import PEERS, RANKED, SHIPPED, read, read_exam

from advisor.advice.peer_picks import selection_scores
from advisor.core.events import Session
from advisor.core.targets import LoraSettings
from advisor.models.prepare import prepare
from advisor.prediction.groups import grouped
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/peers"))
    options = parser.parse_args()
    result: dict[str, Any] = json.loads(PEERS.read_text(encoding="utf-8")) if PEERS.exists() else {}
    for group in grouped([*read(SHIPPED), *read_exam()]):
        if group.name in result or len(group.selections) < RANKED:
            continue
        source = source_of(group)
        if source is None:
            print(f"{group.name}: model or data not here, left out")
            continue
        provenance = group.rows[0].provenance
        rows = provenance["train_rows"]
        folder = options.work / f"{provenance['model']} on {provenance['data']}, {rows} rows".replace("/", "-")
        prepared = prepare(source, Session(), train_limit=rows, eval_limit=0)
        probe = run_probe(prepared, ProbeSettings(linearity=False), folder, Session())
        masks = {row.selection: row.mask for row in group.rows}
        table = np.array([[float(c) for c in masks[name]] for name in group.selections])
        scores = selection_scores(probe, table, LoraSettings(**group.rows[0].settings))
        result[group.name] = {
            peer: dict(zip(group.selections, map(float, values), strict=True))
            for peer, values in scores.items()
            if all(math.isfinite(v) for v in values)
        }
        print(group.name, sorted(result[group.name]), flush=True)
        PEERS.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
