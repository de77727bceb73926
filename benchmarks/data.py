"""What is inferred from every file of ``../shared/data``, what bad files are told, and what a short probe makes of each.

    python benchmarks/data.py [--write] [--probe] [--samples 32] [--only sst2]

``--probe`` probes each file (MiniLM; language models: tinytalk3m) and keeps the verdicts in ``results/data.json``;
``--write`` puts the tables between the markers of ``docs/data.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from advisor.core.errors import AdvisorError, BadInput
from advisor.core.events import Event, Session, Warn
from advisor.core.recipe import LANGUAGE_TASKS
from advisor.data.dataset import Dataset, load_dataset
from advisor.models.prepare import Source, read_data

HERE = Path(__file__).resolve().parent
PAGE, RESULTS = HERE.parent / "docs" / "data.md", HERE / "results" / "data.json"
SHARED = HERE.parents[1] / "shared"
BEGIN, END = "<!-- made by benchmarks/data.py -->", "<!-- end -->"
INFERRED = ("The task is", "The text is", "The label is", "There are", "The metric is")  # stand in columns of their own
MAX_LENGTH = 64
BAD_FILES = {
    "empty.jsonl": "",
    "one_class.jsonl": '{"text": "a", "label": 1}\n{"text": "b", "label": 1}\n',
    "columns.csv": "phrase,remark\nsome words,other words\nmore words,still others\n",
    "broken.jsonl": '{"text": "a", "label": 0}\n{"text": "b" "label": 1}\n',
    "ragged.csv": "text,label\na,0\nb,c,1\n",
    "huge_row.jsonl": '{"text": "' + "x" * 2**24 + '", "label": 0}\n',
    "labels.csv": "text,label\na,1\nb,0\nc,x\nd,1\n",
    "many_names.jsonl": "".join(f'{{"text": "t {i}", "label": "name {i}"}}\n' for i in range(30)),
    "multi_label.jsonl": '{"text": "a", "label": [0, 1]}\n{"text": "b", "label": [1]}\n',
    "ner.jsonl": '{"text": "a b", "entities": [{"start": 0, "end": 1}]}\n',
    "squad.jsonl": '{"title": "t", "paragraphs": []}\n',
    "dpo.jsonl": '{"prompt": "a", "response_a": "b", "response_b": "c"}\n',
    "sheet.xlsx": "PK",
    "binary.csv": "text,label\na\0b,1\n",
}


def files(only: str) -> list[Path]:
    names = [path for path in sorted((SHARED / "data").rglob("*")) if path.suffix in (".jsonl", ".csv", ".tsv", ".txt")]
    return [path for path in names if path.parent != SHARED / "data" and only in str(path)]


def cells(name: str, dataset: Dataset) -> list[str]:
    schema = dataset.schema
    notes = " ".join(note for note in dataset.notes if not note.startswith(INFERRED))
    classes = str(len(schema.class_names) or "–")
    texts = ", ".join(schema.text_columns)
    return [name, str(len(dataset.examples)), schema.task, texts, schema.label_column or "–", classes, schema.metric, notes]


def inferred(paths: list[Path]) -> list[list[str]]:
    rows = []
    for path in paths:
        name = str(path.relative_to(SHARED / "data"))
        try:
            rows.append(cells(name, load_dataset(str(path))))
        except BadInput as error:
            rows.append([name, *["–"] * 6, str(error)])
    return rows


def folders() -> list[list[str]]:
    """What a folder is split into, and what is warned of."""
    rows = []
    for folder in sorted({path.parent for path in files("") if path.stem == "train"}):
        events: list[Event] = []
        train, evaluation = read_data(Source("", str(folder)), Session(events.append))
        warnings = " ".join(event.text for event in events if isinstance(event, Warn))
        own = evaluation.source != train.source
        taken = Path(evaluation.source).name if own else "split off"
        rows.append([folder.name, str(len(train.examples)), taken, str(len(evaluation.examples)), warnings])
    return rows


def told() -> list[list[str]]:
    """What each bad file is told; the folder it lies in left out."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, content in BAD_FILES.items():
            path = Path(folder) / name
            path.write_text(content, encoding="utf-8")
            try:
                message = f"read, with {len(load_dataset(str(path)).examples)} rows"
            except BadInput as error:
                message = str(error).replace(f"{folder}/", "")
            rows.append([name, message])
    return rows


def probe(path: Path, samples: int) -> str:
    """The first sentences of what would be recommended from a probe of a few rows, or the error."""
    from advisor.advice.budget import parse_budget
    from advisor.advice.recommend import recommend
    from advisor.core.recipe import default_recipe
    from advisor.core.targets import LoraSettings
    from advisor.data.demo import demo_model_folder
    from advisor.prediction.calibration_rows import load_rows
    from advisor.prediction.predictor import Predictor
    from advisor.prediction.scorer import Scorer
    from advisor.probe_cache import prepare_for_probe
    from advisor.probing.run import run_probe
    from advisor.probing.settings import ProbeSettings
    from advisor.report.verdict import verdict

    session = Session()
    try:
        is_language = load_dataset(str(path)).schema.task in LANGUAGE_TASKS
        model = str(SHARED / "models" / "tinytalk3m" if is_language else demo_model_folder())
        prepared = prepare_for_probe(Source(model, str(path), max_length=MAX_LENGTH, device="cpu"), session, samples)
        with tempfile.TemporaryDirectory() as folder:
            found = run_probe(prepared, ProbeSettings(samples=samples, linearity=False), Path(folder), session)
        predictor = Predictor().fit(load_rows(), found.task)
        scorer = Scorer(found, LoraSettings(), default_recipe(found.task), predictor)
        return " ".join(verdict(scorer, recommend(scorer, parse_budget("25%"), session), None)[:2])
    except AdvisorError as error:
        return f"Error: {error}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def page(verdicts: dict[str, str], samples: int) -> str:
    header = ["file", "rows", "task", "text", "label", "classes", "metric", "what else is said"]
    parts = [
        f"Every file of `shared/data`, without a single option:\n\n{table(header, inferred(files('')))}",
        f"Folders as `--data`:\n\n{table(['folder', 'training rows', 'evaluation', 'rows', 'warning'], folders())}",
        f"Files that cannot be used, and what they are told:\n\n{table(['file', 'the error'], told())}",
    ]
    if verdicts:
        rows = [[name, text] for name, text in verdicts.items()]
        parts.append(
            f"A probe of {samples} rows of each, cut to {MAX_LENGTH} tokens (MiniLM; tinytalk3m for language models), and the\n"
            f"head of what is recommended from it for a default recipe. So few rows only show that each file goes through:\n\n"
            f"{table(['file', 'verdict'], rows)}"
        )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--probe", action="store_true")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--only", default="", help="files with this in their path")
    options = parser.parse_args()
    stored: dict[str, Any] = {"samples": 0, "verdicts": {}}
    if RESULTS.exists():
        stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    if options.probe:
        verdicts = dict(stored["verdicts"]) if stored["samples"] == options.samples else {}
        for path in files(options.only):
            name, start = str(path.relative_to(SHARED / "data")), time.monotonic()
            verdicts[name] = probe(path, options.samples)
            print(f"{name} ({time.monotonic() - start:.0f} s): {verdicts[name]}", flush=True)
            stored = {"samples": options.samples, "verdicts": dict(sorted(verdicts.items()))}
            RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
        PAGE.write_text(f"{before}\n\n{page(stored['verdicts'], stored['samples'])}\n\n{after}", encoding="utf-8")
    elif not options.probe:
        for row in (*inferred(files(options.only)), *folders(), *told()):
            print(" · ".join(row))


if __name__ == "__main__":
    main()
