"""Real LoRA runs of many small groups: the rows that the predictor learns from and is judged by.

A group is a model on a data set with one number of rows and one learning rate. Most get one seed of head-only, all-linear, q,v
and random selections of one size; a few get 24 selections by two seeds at three rates; each gets a pilot run by a seed of its
own. Resumable: finished runs are kept in the work folder, and a group whose rows file exists is left alone. Rows of
development data go to ``profiles/predictors`` and are shipped, so the figures of docs/validity.md are to be made anew; those at
rates too high for all modules, which ``benchmarks/rates.py`` reads, to ``benchmarks/rows/rates``; rows of exam data to
``benchmarks/rows/exam``.

    python benchmarks/sweep.py WORK --models FOLDER --public FOLDER [--groups TEXT …] [--exam]

``FOLDER/e5`` is made by ``../shared/models/make_e5.py``, the other models there by ``benchmarks/pretrained.py``, the public data
by ``benchmarks/public_data.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from validity import HIGH_RATES, HIGHEST_RATE, PILOT_SEED, PILOTS, SHIPPED

from advisor.core.errors import AdvisorError
from advisor.core.events import Session
from advisor.core.recipe import recipe_for
from advisor.core.selections import ALL_LINEAR, HEAD_ONLY, QV, all_linear, distinct, structured_random, target_sets
from advisor.core.store import write_json, write_text
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.data.demo import demo_model_folder
from advisor.models.prepare import Source, prepare
from advisor.prediction.learn import rows_from_runs
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from advisor.training.runner import PlannedRun
from advisor.training.runs import calibrate

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
EVALUATION = {name: "validation" for name in ("sst2", "cola", "mrpc", "rte", "stsb")} | {
    name: "test" for name in ("trec", "gsm8k", "banking77")
}
MODEL_LENGTHS = {"tiny": 128, "stories": 128, "rxnbert": 96, "smollm2": 96}  # tokens; 64 of others
LENGTHS = {"reaction_yield": 224}
SHARE = 0.18  # of all LoRA parameters, the size of the random selections
SHARES = (0.07, SHARE, 0.36)  # of groups with three sizes
EVAL_ROWS = 300


@dataclass(frozen=True)
class Group:
    """What to run: ``picks`` random selections of each of ``shares`` beside head-only, all-linear and q,v, by ``seeds`` seeds.

    ``draw``: seed of the random selections. Groups of one model with the same one have the same selections.
    """

    model: str
    data: str
    rows: int
    lr: float
    picks: int = 4
    seeds: int = 1
    shares: tuple[float, ...] = (SHARE,)
    draw: int = 7

    @property
    def name(self) -> str:
        count = len(self.shares) * self.picks
        size = "" if (count, self.seeds) == (4, 1) else f"-{count}x{self.seeds}"
        return f"{self.model}-{self.data}-{self.rows}-{self.lr:g}{size}"


WRITTEN = ["nl2bash", "bbh_short", "gsm8k", "tiny_chat"]
OLD = ("sst2", "cola", "mrpc", "rte", "trec", "stsb")  # have rows at 512 rows, 1e-3
SHORT = ("snips", "scicite", "emobank_valence", "trec", "atis", "tweet_irony", "clinc150", "movie_review", "codah_endings")
E5 = ("snips", "scicite", "emobank_valence", "trec", "sst2", "tweet_irony")
SMALL = [
    *[Group("minilm", d, 256, 2e-3) for d in SHORT],
    *[Group(m, d, 512, 1e-3) for d in WRITTEN for m in ("stories", "tiny") if (m, d) != ("tiny", "tiny_chat")],
    *[Group("minilm", d, 256, 5e-3) for d in SHORT],
    *[Group("minilm", d, 256, 2e-2) for d in ("snips", "trec", "scicite", "emobank_valence")],  # too high a rate
    *[Group("stories", d, 512, lr) for lr in (3e-3, 1e-2, 3e-2) for d in WRITTEN],
    *[Group("minilm", d, 256, 1e-3) for d in SHORT if d != "atis"],  # in RATES
    *[Group("e5", d, 256, lr) for d in E5 for lr in (1e-3, 3e-3)],
    *[Group("minilm", d, 256, 2e-3) for d in OLD],
    *[Group("tiny", d, 256, 3e-3) for d in WRITTEN],
    *[Group("minilm", d, 768, 1e-3) for d in SHORT],
]
RATES = [
    Group(m, d, rows, lr, picks=21, seeds=2)
    for m, d, rows, rates in (
        ("stories", "nl2bash", 384, (3e-4, 1e-3, 3e-3, 1e-2)),
        ("minilm", "trec", 384, (1e-3, 3e-3, 1e-2)),
        ("stories", "bbh_short", 384, (3e-4, 1e-3, 3e-3, 1e-2)),
        ("minilm", "atis", 256, (1e-3, 3e-3, 1e-2)),
    )
    for lr in rates
]
FIRST_EXAM = [
    *[Group("minilm", d, 512, 2e-3, picks=6) for d in ("sms_spam", "comments_java", "chemprot", "hwu64", "lexical_complexity")],
    *[Group("tiny", "text2sql_geo", 512, 1e-3, picks=6), Group("stories", "text2sql_geo", 512, 1e-3, picks=6)],
    *[Group("e5", d, 384, 1e-3, picks=6) for d in ("comments_java", "sms_spam")],
]
SECOND_EXAM = [
    *[Group("minilm", d, 512, 2e-3, picks=6, seeds=2) for d in ("subj", "tweet_emotion", "sick", "mpqa", "tweet_hate")],
    *[Group("stories", "svamp", 512, 1e-3, picks=6, seeds=2), Group("tiny", "mawps", 512, 1e-3, picks=6, seeds=2)],
    *[Group("minilm", d, 512, 1e-3, picks=6, seeds=2) for d in ("tweet_stance", "sick")],
    *[Group("minilm", "imdb", 512, 2e-3, picks=6), *[Group("e5", d, 384, 1e-3, picks=6) for d in ("tweet_emotion", "subj")]],
]
LANGUAGE = [
    *[Group("stories", d, 320, 1e-3, picks=6, seeds=2) for d in ("tldr", "scan", "scholar", "csqa", "mawps")],
    *[Group("tiny", d, 320, 1e-3, picks=6) for d in ("tldr", "scan", "scholar")],
    *[Group("stories", d, 320, 3e-3, picks=6) for d in ("tldr", "scan", "csqa", "svamp")],
]
THIRD_EXAM = [
    Group("minilm", "offensive", 512, 2e-3, picks=6, seeds=2),
    Group("minilm", "paper_field", 512, 1e-3, picks=6, seeds=2),
    *[Group("minilm", d, 512, 2e-3, picks=6) for d in ("sciie", "ag_news", "joke_rating")],
    Group("e5", "paper_field", 384, 1e-3, picks=6),
    *[Group("stories", d, 512, 1e-3, picks=6, seeds=2) for d in ("e2e", "cogs")],
    *[Group("tiny", d, 512, 1e-3, picks=6) for d in ("asdiv", "jfleg")],
]
FOURTH_EXAM = [
    *[Group("minilm", d, 512, 2e-3, picks=6, seeds=2) for d in ("counterfactual", "citation_intent")],
    *[Group("stories", d, 512, 1e-3, picks=6, seeds=2) for d in ("django", "advising")],
    *[Group("tiny", d, 320, 1e-3, picks=6) for d in ("django", "last_letters")],
    Group("minilm", "question_topic", 512, 2e-3, picks=12, seeds=2, shares=SHARES),
    *[Group("minilm", d, 512, 1e-3, picks=6) for d in ("answering", "tweet_emoji")],
    *[Group("e5", d, 384, 1e-3, picks=6) for d in ("counterfactual", "question_topic")],
]
FIFTH_EXAM = [
    *[Group("stories", d, 512, 1e-3, picks=6, seeds=2) for d in ("wikisql", "atis_sql")],
    Group("stories", "swapped_objects", 320, 3e-3, picks=6),
    Group("minilm", "clickbait", 512, 2e-3, picks=6, seeds=2),
    Group("minilm", "news_topic", 512, 1e-3, picks=6, seeds=2),
    *[Group("tiny", d, 320, 1e-3, picks=6) for d in ("wikisql", "coin_flip")],
    Group("minilm", "tweet_sentiment", 512, 2e-3, picks=12, shares=SHARES),
    Group("minilm", "strategy", 512, 1e-3, picks=6),
    Group("e5", "news_topic", 384, 1e-3, picks=6),
]
SIXTH_EXAM = [
    *[Group("rxnbert", d, 512, 2e-3, picks=6, seeds=2) for d in ("bbbp", "solubility")],
    *[Group("rxnbert", d, 512, 1e-3, picks=6) for d in ("bace", "solar_cells")],
    *[Group("rxnbert", d, 512, 2e-3, picks=6) for d in ("tox21_mmp", "lipophilicity", "reaction_yield")],
]
SEVENTH_EXAM = [
    *[Group("smollm2", d, 256, 1e-3, picks=6) for d in ("regex", "survey", "dates")],
    *[Group("mpnet", d, 384, 1e-3, picks=6) for d in ("claims", "shop_intent")],
    *[Group("antiberty", "antibody", 512, lr, picks=6) for lr in (1e-3, 3e-3)],
]
EIGHTH_EXAM = [
    Group("smollm2", "simplify", 256, 1e-3, picks=6),
    Group("mpnet", "empathy", 384, 1e-3, picks=6),
    Group("minilm", "empathy", 512, 2e-3, picks=6),
    *[Group(m, d, 320, 1e-3, picks=6) for m in ("stories", "tiny") for d in ("simplify", "why")],
]
NINTH_EXAM = [
    *[Group("minilm", d, 512, 2e-3, picks=6) for d in ("tone", "disease")],
    *[Group(m, d, 320, 1e-3, picks=6) for d in ("pronounce", "inflect") for m in ("stories", "tiny")],
    Group("smollm2", "pronounce", 256, 1e-3, picks=6),
    Group("e5", "tone", 384, 1e-3, picks=6),
]
EXAM = [
    *[Group(m, "sparql", 320, 1e-3, picks=6, draw=i) for i, m in enumerate(("stories", "tiny"), 20)],
    *[Group(m, "acronym", 320, 1e-3, picks=6, draw=i) for i, m in enumerate(("stories", "tiny"), 22)],
    *[Group("minilm", d, 512, 2e-3, picks=6, draw=i) for i, d in enumerate(("role", "suggestion"), 24)],
    Group("e5", "role", 384, 1e-3, picks=6, draw=26),
    Group("minilm", "readability", 512, 1e-3, picks=6, draw=27),
]
DEVELOPMENT = [
    *SMALL,
    *RATES,
    *FIRST_EXAM,
    *SECOND_EXAM,
    *LANGUAGE,
    *THIRD_EXAM,
    *FOURTH_EXAM,
    *FIFTH_EXAM,
    *SIXTH_EXAM,
    *SEVENTH_EXAM,
    *EIGHTH_EXAM,
    *NINTH_EXAM,
]


def selections_of(group: Group, targets: tuple[Target, ...], qv_roles: tuple[str, ...]) -> list[Selection]:
    """Head-only, all-linear, q,v, then random selections of the group's shares of the parameters."""
    usual = [s for s in target_sets(targets, qv_roles) if s.name in (ALL_LINEAR, QV)]
    rng = np.random.default_rng(group.draw)
    rank = LoraSettings().rank
    found = [Selection(HEAD_ONLY, ()), *usual]
    for share in group.shares:
        budget = int(share * sum(t.lora_params(rank) for t in targets))
        wanted = len(found) + group.picks
        for draw in range(20 * wanted):  # small models have few distinct selections
            if len(found) == wanted:
                break
            found = distinct([*found, structured_random(targets, budget, rank, rng, f"random {share:.0%} #{draw}")])
    return found


def source_of(group: Group, made: Path, public: Path) -> Source:
    models = {
        "minilm": demo_model_folder(),
        **{name: made / name for name in ("e5", "rxnbert", "smollm2", "mpnet", "antiberty")},
        "tiny": SHARED / "models" / "tinytalk3m",
        "stories": SHARED / "models" / "stories260K",
    }
    train = next(path for folder in (public, SHARED / "data") for path in (folder / group.data).glob("train.*"))
    evaluation = EVALUATION.get(group.data)
    return Source(
        str(models[group.model]),
        str(train),
        None if evaluation is None else str(train.with_stem(evaluation)),
        max_length=LENGTHS.get(group.data, MODEL_LENGTHS.get(group.model, 64)),
        device="cpu",
    )


def run(group: Group, work: Path, made: Path, public: Path, rows_file: Path, workers: int) -> int:
    """The group's missing runs, its probe, and its rows; returns how many rows there are."""
    source, session = source_of(group, made, public), Session()
    prepared = prepare(source, session, train_limit=group.rows, eval_limit=0)
    loaded, settings = prepared.loaded, LoraSettings()
    selections = selections_of(group, loaded.targets, loaded.qv_roles())
    planned = [PlannedRun(selection, settings, seed) for seed in range(group.seeds) for selection in selections]
    pilot = PlannedRun(all_linear(loaded.targets), settings, PILOT_SEED, measured=(*selections[1:], Selection("none", ())))
    recipe = recipe_for(loaded.task, group.rows, None, group.lr, None)
    options: dict[str, Any] = {"eval_rows": EVAL_ROWS, "made_of": prepared.made_of, "workers": workers}
    *runs, piloted = calibrate(source, [*planned, pilot], recipe, work / group.name, session, **options)
    probe = run_probe(prepared, ProbeSettings(), work / group.name / "probe", session)
    rows = rows_from_runs([*runs, piloted], probe)  # the pilot is a second seed of all modules
    rows_file.parent.mkdir(exist_ok=True)
    write_text(rows_file, "".join(row.as_json() + "\n" for row in rows))
    result = piloted["result"]
    if "switched" not in result:  # it failed, as at rates that are too high
        return len(rows)
    pilots = json.loads(PILOTS.read_text(encoding="utf-8"))
    pilots[rows[0].group] = {
        "seed": PILOT_SEED,
        "loss": result["val_loss"],
        "metric": result["metric"],
        "run_s": round(result["wall_s"], 1),
        "switched": dict(zip([s.name for s in pilot.measured], result["switched"], strict=True)),
        "switched_s": round(result["switched_s"], 1),
    }
    write_json(PILOTS, pilots)
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of finished runs and probes")
    parser.add_argument("--models", type=Path, required=True, help="folder of e5 and of what pretrained.py made")
    parser.add_argument("--public", type=Path, required=True, help="folder that public_data.py wrote")
    parser.add_argument("--groups", nargs="*", default=[""], help="parts of group names; all by default")
    parser.add_argument("--exam", action="store_true", help="the groups of exam data instead of the development data's")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for group in EXAM if options.exam else DEVELOPMENT:
        usual = HERE / "rows" / "exam" if options.exam else SHIPPED
        rows_file = (HIGH_RATES if group.lr > HIGHEST_RATE else usual) / f"{group.name}.jsonl"
        if rows_file.exists() or not any(part in group.name for part in options.groups):
            continue
        start = time.monotonic()
        try:
            count = run(group, options.work, options.models, options.public, rows_file, options.workers)
            print(f"{time.strftime('%H:%M')} {group.name}: {count} rows, {time.monotonic() - start:.0f} s", flush=True)
        except AdvisorError as error:
            print(f"{group.name}: {error}", flush=True)


if __name__ == "__main__":
    main()
