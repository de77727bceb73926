"""Data of the second exam, written as JSONL from checkouts of four public repositories and the project's own data folder.

    python benchmarks/exam_data.py CHECKOUTS OUT

``CHECKOUTS`` holds ``sentiment_dataset`` (AcademiaSinicaNLPLab, commit 23c7242), ``tweeteval`` (cardiffnlp, 4fbd22c),
``dataset-sts`` (brmson, e1d3375) and ``SVAMP`` (arkilpatel, 689d7cc). Up to 3,000 rows a data set, drawn by seed.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

Row = dict[str, str | float]
SHARED = Path(__file__).resolve().parents[2] / "shared"
MOST = 3000
STANCES = ("abortion", "atheism", "climate", "feminist", "hillary")


def labelled_first(path: Path, names: tuple[str, str]) -> Iterator[Row]:
    """Lines of a label, a space and the text."""
    for line in path.read_text(encoding="latin-1").splitlines():
        label, _, text = line.partition(" ")
        yield {"text": text.strip(), "label": names[int(label)]}


def tweets(folder: Path, names: tuple[str, ...]) -> Iterator[Row]:
    """Texts and labels in files of their own, as TweetEval has them."""
    for split in ("train", "val", "test"):
        texts = (folder / f"{split}_text.txt").read_text(encoding="utf-8").split("\n")
        labels = (folder / f"{split}_labels.txt").read_text(encoding="utf-8").split("\n")
        for text, label in zip(texts, labels, strict=False):
            if label.strip():
                yield {"text": text.strip(), "label": names[int(label)]}


def sick(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            yield {"sentence1": row["sentence_A"], "sentence2": row["sentence_B"], "score": float(row["relatedness_score"])}


def svamp(path: Path) -> Iterator[Row]:
    for row in json.loads(path.read_text(encoding="utf-8")):
        body = row["Body"].strip()
        stop = "" if body.endswith((".", "?", "!", ",")) else "."
        yield {"prompt": f"{body}{stop} {row['Question'].strip()}", "completion": f"{row['Equation']} = {row['Answer']:g}"}


def mawps(folder: Path) -> Iterator[Row]:
    for name in ("train.csv", "dev.csv"):
        with (folder / name).open(encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                yield {"prompt": row["Question"], "completion": row["Equation"]}


def imdb(folder: Path) -> Iterator[Row]:
    for name in ("train.jsonl", "test.jsonl"):
        with (folder / name).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    sentiment, tweet = options.checkouts / "sentiment_dataset" / "data", options.checkouts / "tweeteval" / "datasets"
    sets = {
        "subj": labelled_first(sentiment / "subj.all", ("subjective", "objective")),
        "mpqa": labelled_first(sentiment / "mpqa.all", ("negative", "positive")),
        "tweet_emotion": tweets(tweet / "emotion", ("anger", "joy", "optimism", "sadness")),
        "tweet_hate": tweets(tweet / "hate", ("not-hate", "hate")),
        "tweet_stance": (row for s in STANCES for row in tweets(tweet / "stance" / s, ("none", "against", "favor"))),
        "sick": sick(options.checkouts / "dataset-sts" / "data" / "sts" / "sick2014" / "SICK_train.txt"),
        "svamp": svamp(options.checkouts / "SVAMP" / "SVAMP.json"),
        "mawps": mawps(options.checkouts / "SVAMP" / "data" / "cv_mawps" / "fold0"),
        "imdb": imdb(SHARED / "data" / "imdb"),
    }
    for name, rows in sets.items():
        distinct = list(dict.fromkeys(json.dumps(row, ensure_ascii=False) for row in rows))
        order = np.random.default_rng(0).permutation(len(distinct))[:MOST]
        path = options.out / name / "train.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(distinct[i] + "\n" for i in order), encoding="utf-8")
        print(f"{name}: {len(order)} rows")


if __name__ == "__main__":
    main()
