"""Data of the exams after the first, and what the predictor learns from beside the project's own data folder.

    python benchmarks/public_data.py CHECKOUTS OUT

``CHECKOUTS`` holds public repositories by name (owner, commit): ``sentiment_dataset`` (AcademiaSinicaNLPLab, 23c7242),
``tweeteval`` (cardiffnlp, 4fbd22c), ``dataset-sts`` (brmson, e1d3375), ``SVAMP`` (arkilpatel, 689d7cc), ``tldr`` (tldr-pages,
08e345f), ``SCAN`` (brendenlake, c4b756c), ``text2sql-data`` (jkkummerfeld, 5050bad), ``zero_shot_cot`` (kojima-takeshi188,
5ef330f), ``CharCnn_Keras`` (mhjabreel, 555590d), ``scibert`` (allenai, 06793f7), ``hate-speech-and-offensive-language``
(t-davidson, cb50f7e), ``joke-dataset`` (taivop, 6339655), ``e2e-dataset`` (tuetschek, ab0d967), ``COGS`` (najoungkim, 165a7b6),
``nlu-asdiv-dataset`` (chaochun, 883f90a), ``jfleg`` (keisks, ee06ff8), ``amazon-multilingual-counterfactual-dataset``
(amazon-research, 3cc7de4), ``StackOverflow`` (jacoxu, 7c207f5), ``ase15-django-dataset`` (odashi, c37fa28), ``clickbait``
(bhargaviparanjape, 203d979), ``BBC-Dataset-News-Classification`` (suraj-deshmukh, e337a35), ``AttentiveFP`` (OpenDrugAI,
dda6708), ``rxn_yields`` (rxn4chemistry, d9e6b87), ``deep-regex`` (nicholaslocascio, 096490d), ``asset`` (facebookresearch,
9d65904), ``protoqa-data`` (iesl, c6c5696), ``Medical-Abstracts-TC-Corpus`` (sebischair, 70a2d91), ``DMS_opt`` (dahjan, eec710e),
``creak`` (yasumasaonoe, 5e892b2), ``empathic_reactions`` (wwbp, 3ddbf6b), ``HINT3`` (hellohaptik, 99965c8),
``unhealthy-conversations`` (conversationai, 55934d0), ``cmudict`` (cmusphinx, 0f8072f), ``eng`` (unimorph, 66e0e9e),
``sequential_sentence_classification`` (allenai, cf5ad6c), ``Subtask-A`` (Semeval2019Task9, 3cd21f0), ``CLEAR-Corpus``
(scrosseye, dbf1cf0), ``LC-QuAD`` (AskNowQA, 9b8c16a) and ``AAAI-21-SDU-shared-task-2-AD`` (amirveyseh, b919742). Up to 3,000
rows a data set, drawn by seed.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

Row = dict[str, str | float]
SHARED = Path(__file__).resolve().parents[2] / "shared"
MOST = 3000
STANCES = ("abortion", "atheism", "climate", "feminist", "hillary")
NEWS = ("world", "sports", "business", "science")
SOLUBILITY = "measured log solubility in mols per litre"
YIELDS = "Suzuki-Miyaura/random_splits/random_split_0.tsv"
HATE = ("hate", "offensive", "neither")
DISEASES = ("tumour", "digestion", "nerves", "heart", "general")
TONES = ("antagonize", "condescending", "dismissive", "generalisation", "hostile", "sarcastic")
FORMS = {"V;PST": "past", "V;V.PTCP;PRS": "participle", "V;PRS;NOM(3,SG)": "third person"}
SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
ANTIBODY = ("AVYYCSR", "YWGQGTLVTVSS")  # what stands before and behind the varied stretch of trastuzumab's heavy chain


def labelled_first(path: Path, names: tuple[str, str]) -> Iterator[Row]:
    """Lines of a label, a space and the text."""
    for line in path.read_text(encoding="latin-1").splitlines():
        label, _, text = line.partition(" ")
        yield {"text": text.strip(), "label": names[int(label)]}


def tweets(folder: Path, names: tuple[str, ...], splits: tuple[str, ...] = ("train", "val", "test")) -> Iterator[Row]:
    """Texts and labels in files of their own, as TweetEval has them."""
    for split in splits:
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


def json_lines(*paths: Path) -> Iterator[dict[str, object]]:
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def command_pages(folder: Path) -> Iterator[Row]:
    """What a command does, and the command, from pages of examples."""
    for path in sorted(folder.rglob("*.md")):
        found = re.findall(r"^- (.+?):?\n\n`(.+)`$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for what, command in found:
            what = re.sub(r"\[(\w+)\]", r"\1", what)
            yield {"prompt": f"{path.stem}: {what}", "completion": re.sub(r"\{\{(.*?)\}\}", r"\1", command)}


def scan(path: Path) -> Iterator[Row]:
    for line in path.read_text(encoding="utf-8").splitlines():
        command, _, actions = line.removeprefix("IN: ").partition(" OUT: ")
        yield {"prompt": command, "completion": " ".join(word.removeprefix("I_").lower() for word in actions.split())}


def queries(path: Path) -> Iterator[Row]:
    """Questions and SQL without their variables filled in."""
    packed = path.read_bytes()
    for group in json.loads(bz2.decompress(packed) if path.suffix == ".bz2" else packed):
        for sentence in group["sentences"]:
            yield {"prompt": sentence["text"], "completion": re.sub(r"alias(\d)", r"\1", group["sql"][0])}


def choices(path: Path) -> Iterator[Row]:
    for row in json_lines(path):
        question = row["question"]
        assert isinstance(question, dict)
        answers = {choice["label"]: choice["text"] for choice in question["choices"]}
        offered = ", ".join(answers.values())
        yield {"prompt": f"{question['stem']} ({offered})", "completion": answers[row["answerKey"]]}


def news(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for label, title, text in csv.reader(lines):
            yield {"text": f"{title}. {text}", "label": NEWS[int(label) - 1]}


def hateful(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            yield {"text": row["tweet"].strip(), "label": HATE[int(row["class"])]}


def text_and_label(folder: Path) -> Iterator[Row]:
    for row in json_lines(*sorted(folder.glob("*.txt"))):
        yield {"text": str(row["text"]), "label": str(row["label"])}


def jokes(path: Path) -> Iterator[Row]:
    for row in json.loads(path.read_text(encoding="utf-8")):
        if row["rating"] > 0:  # 0: not rated
            yield {"text": row["body"].strip(), "score": row["rating"]}


def restaurants(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            yield {"prompt": row["mr"], "completion": row["ref"]}


def logical_forms(*paths: Path) -> Iterator[Row]:
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            sentence, form, _ = line.split("\t")
            yield {"prompt": sentence, "completion": form}


def word_problems(path: Path) -> Iterator[Row]:
    for problem in ElementTree.parse(path).iter("Problem"):
        body, question, formula = (problem.findtext(name, "").strip() for name in ("Body", "Question", "Formula"))
        yield {"prompt": f"{body} {question}", "completion": formula}


def corrections(folder: Path) -> Iterator[Row]:
    for split in ("dev", "test"):
        source, fluent = ((folder / split / f"{split}.{end}").read_text(encoding="utf-8").splitlines() for end in ("src", "ref0"))
        for before, after in zip(source, fluent, strict=True):
            yield {"prompt": before.strip(), "completion": after.strip()}


def numbered(texts: Path, labels: Path) -> Iterator[Row]:
    """Texts and numbers of their classes in files of their own, one a line."""
    lines = (path.read_text(encoding="utf-8").split("\n") for path in (texts, labels))
    for text, label in zip(*lines, strict=True):
        if label.strip():
            yield {"text": text.strip(), "label": f"topic {label.strip()}"}


def counterfactual(folder: Path) -> Iterator[Row]:
    for split in ("train", "valid", "test"):
        with (folder / f"EN_{split}.tsv").open(encoding="utf-8") as lines:
            for row in csv.DictReader(lines, delimiter="\t"):
                label = ("as it was", "counterfactual")[int(row["is_counterfactual"])]
                yield {"text": row["sentence"].strip(' "'), "label": label}


def answering(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            yield {"text": row["qtext"], "text2": row["atext"], "label": ("no", "yes")[int(row["label"])]}


def described_code(folder: Path) -> Iterator[Row]:
    what, code = ((folder / f"all.{end}").read_text(encoding="utf-8").splitlines() for end in ("anno", "code"))
    for prompt, completion in zip(what, code, strict=True):
        yield {"prompt": prompt.strip(), "completion": completion.strip()}


def letters(path: Path) -> Iterator[Row]:
    for row in json.loads(path.read_text(encoding="utf-8"))["examples"]:
        yield {"prompt": row["question"], "completion": row["answer"]}


def headlines(folder: Path) -> Iterator[Row]:
    for label, name in (("clickbait", "clickbait_data"), ("news", "non_clickbait_data")):
        with gzip.open(folder / f"{name}.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    yield {"text": line.strip(), "label": label}


def by_folder(folder: Path) -> Iterator[Row]:
    """Texts in files of their own, in a folder for each label."""
    for path in sorted(folder.glob("*/*.txt")):
        yield {"text": path.read_text(encoding="latin-1").strip(), "label": path.parent.name}


def molecules(path: Path, read: str, says: str, names: tuple[str, str] | None = None) -> Iterator[Row]:
    """Molecules as SMILES and a property of each, from two columns of a table; names of classes where it is one."""
    with path.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ","):
            if (value := row[says]) and names is None:
                yield {"text": row[read].strip(), "score": float(value)}
            elif value and names is not None:
                yield {"text": row[read].strip(), "label": names[round(float(value))]}


def scored_answers(path: Path) -> Iterator[tuple[str, str]]:
    """Questions and right answers of a BIG-bench task."""
    for row in json.loads(path.read_text(encoding="utf-8"))["examples"]:
        yield row["input"].strip(), max(row["target_scores"], key=row["target_scores"].get)


def table(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def antibodies(folder: Path) -> Iterator[Row]:
    """Variants of one antibody, those that bind their target and those that do not in files of their own."""
    for name, label in (("Pos", "binds"), ("Neg", "does not")):
        for row in table(folder / f"mHER_H3_Ag{name}.csv"):
            yield {"text": row["AASeq"].join(ANTIBODY), "label": label}


def side_by_side(before: Path, after: Path) -> Iterator[Row]:
    """Prompts and answers, a line each in files of their own."""
    for prompt, completion in zip(*(path.read_text(encoding="utf-8").splitlines() for path in (before, after)), strict=False):
        yield {"prompt": prompt.strip(), "completion": completion.strip()}


def most_said(path: Path) -> Iterator[Row]:
    """Questions asked of a hundred people, and what most of them said."""
    for row in json_lines(path):
        if said := row["answers"]["raw"]:  # type: ignore[index]
            yield {"prompt": row["question"]["original"].strip(), "completion": max(said, key=said.get)}  # type: ignore[index]


def tones(folder: Path) -> Iterator[Row]:
    """Comments that carry an unhealthy tone, and the first as many that do not."""
    rows = [row for split in ("val", "test") for row in table(folder / f"{split}.csv")]
    unhealthy = [row["comment"] for row in rows if any(row[tone] == "1" for tone in TONES)]
    healthy = [row["comment"] for row in rows if all(row[tone] == "0" for tone in TONES)]
    for label, comments in (("unhealthy", unhealthy), ("healthy", healthy[: len(unhealthy)])):
        for comment in comments:
            yield {"text": comment, "label": label}


def pronunciations(path: Path) -> Iterator[Row]:
    """Words and the sounds they are made of, the usual one of those that are said in several ways."""
    for line in path.read_text(encoding="utf-8").splitlines():
        word, _, sounds = line.partition(" ")
        if word.isalpha():
            yield {"prompt": word, "completion": sounds.partition(" #")[0]}


def inflections(path: Path) -> Iterator[Row]:
    """Verbs, and one of three of their forms."""
    for line in path.read_text(encoding="utf-8").splitlines():
        verb, form, tag = line.split("\t")
        if tag in FORMS and verb.isalpha():
            yield {"prompt": f"{verb}, {FORMS[tag]}", "completion": form}


def roles(folder: Path) -> Iterator[Row]:
    """Sentences of abstracts and what each is there for; the few that are there for something else are left out."""
    for abstract in json_lines(*sorted(folder.glob("*.jsonl"))):
        for sentence, label in zip(abstract["sentences"], abstract["labels"], strict=True):  # type: ignore[call-overload]
            if label != "other":
                yield {"text": sentence, "label": label}


def suggestions(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for _, sentence, label in csv.reader(lines):
            yield {"text": sentence.strip(' "'), "label": ("none", "suggestion")[int(label)]}


def excerpts(path: Path) -> Iterator[Row]:
    """Excerpts of books and how easy teachers found them, from columns O and S of a workbook's first sheet."""
    with zipfile.ZipFile(path) as book:
        strings, sheet = (ElementTree.fromstring(book.read(f"xl/{n}.xml")) for n in ("sharedStrings", "worksheets/sheet1"))
    texts = ["".join(part.text or "" for part in string.iter(f"{SHEET}t")) for string in strings]
    for row in list(sheet.iter(f"{SHEET}row"))[1:]:
        cells = {re.sub(r"\d", "", cell.get("r", "")): cell.findtext(f"{SHEET}v", "") for cell in row}
        yield {"text": texts[int(cells["O"])].strip(), "score": float(cells["S"])}


def sparql(*paths: Path) -> Iterator[Row]:
    """Questions and short queries of DBpedia, addresses cut to the first letter of their kind and the name."""
    for path in paths:
        for row in json.loads(path.read_text(encoding="utf-8")):
            query = re.sub(r"<http://dbpedia\.org/(\w)\w*/([^>]*)>", r"\1:\2", " ".join(row["sparql_query"].split()))
            if len(query) <= 90:
                yield {"prompt": row["corrected_question"].strip(), "completion": query}


def acronyms(path: Path) -> Iterator[Row]:
    """Acronyms in a sentence of up to 25 words that does not say it, and what they stand for there."""
    for row in json.loads(path.read_text(encoding="utf-8")):
        sentence = " ".join(row["tokens"])
        if len(row["tokens"]) <= 25 and row["expansion"] not in sentence.lower():
            yield {"prompt": f"{row['tokens'][row['acronym']]}: {sentence}", "completion": row["expansion"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    at = options.checkouts
    sentiment, tweet, imdb = at / "sentiment_dataset" / "data", at / "tweeteval" / "datasets", SHARED / "data" / "imdb"
    science, asked = at / "scibert" / "data" / "text_classification", at / "zero_shot_cot" / "dataset"
    chemistry, claims = at / "AttentiveFP" / "data", at / "creak" / "data" / "creak" / "train.json"
    letters_at = at / "empathic_reactions" / "data" / "responses" / "data" / "messages.csv"
    sets = {
        # the second exam, now development data
        "subj": labelled_first(sentiment / "subj.all", ("subjective", "objective")),
        "mpqa": labelled_first(sentiment / "mpqa.all", ("negative", "positive")),
        "tweet_emotion": tweets(tweet / "emotion", ("anger", "joy", "optimism", "sadness")),
        "tweet_hate": tweets(tweet / "hate", ("not-hate", "hate")),
        "tweet_stance": (row for s in STANCES for row in tweets(tweet / "stance" / s, ("none", "against", "favor"))),
        "sick": sick(at / "dataset-sts" / "data" / "sts" / "sick2014" / "SICK_train.txt"),
        "svamp": svamp(at / "SVAMP" / "SVAMP.json"),
        "mawps": mawps(at / "SVAMP" / "data" / "cv_mawps" / "fold0"),
        "imdb": json_lines(imdb / "train.jsonl", imdb / "test.jsonl"),
        # development data of language models
        "tldr": command_pages(at / "tldr" / "pages"),
        "scan": scan(at / "SCAN" / "simple_split" / "tasks_train_simple.txt"),
        "scholar": queries(at / "text2sql-data" / "data" / "scholar.json"),
        "csqa": choices(asked / "CommonsenseQA" / "train_rand_split.jsonl"),
        # the third exam, now development data
        "ag_news": news(at / "CharCnn_Keras" / "data" / "ag_news_csv" / "test.csv"),
        "paper_field": text_and_label(science / "mag"),
        "sciie": text_and_label(science / "sciie-relation-extraction"),
        "offensive": hateful(at / "hate-speech-and-offensive-language" / "data" / "labeled_data.csv"),
        "joke_rating": jokes(at / "joke-dataset" / "stupidstuff.json"),
        "e2e": restaurants(at / "e2e-dataset" / "devset.csv"),
        "cogs": logical_forms(at / "COGS" / "data" / "dev.tsv", at / "COGS" / "data" / "test.tsv"),
        "asdiv": word_problems(at / "nlu-asdiv-dataset" / "dataset" / "ASDiv.xml"),
        "jfleg": corrections(at / "jfleg"),
        # the fourth exam, now development data
        "counterfactual": counterfactual(at / "amazon-multilingual-counterfactual-dataset" / "data"),
        "question_topic": numbered(*(at / "StackOverflow" / "rawText" / f"{n}_StackOverflow.txt" for n in ("title", "label"))),
        "tweet_emoji": tweets(tweet / "emoji", tuple(f"emoji {i}" for i in range(20))),
        "citation_intent": text_and_label(science / "citation_intent"),
        "answering": answering(at / "dataset-sts" / "data" / "anssel" / "wang" / "train.csv"),
        "django": described_code(at / "ase15-django-dataset" / "django"),
        "advising": queries(at / "text2sql-data" / "data" / "advising.json"),
        "last_letters": letters(asked / "last_letters" / "last_letters.json"),
        # the fifth exam
        "clickbait": headlines(at / "clickbait" / "dataset"),
        "news_topic": by_folder(at / "BBC-Dataset-News-Classification" / "dataset" / "data_files"),
        "tweet_sentiment": tweets(tweet / "sentiment", ("negative", "neutral", "positive"), ("val", "test")),
        "strategy": ({"text": q, "label": a} for q, a in scored_answers(asked / "StrategyQA" / "task.json")),
        "wikisql": queries(at / "text2sql-data" / "data" / "wikisql.json.bz2"),
        "atis_sql": queries(at / "text2sql-data" / "data" / "atis.json"),
        "swapped_objects": (
            {"prompt": q, "completion": a} for q, a in scored_answers(asked / "Bigbench_object_tracking" / "task.json")
        ),
        "coin_flip": letters(asked / "coin_flip" / "coin_flip.json"),
        # the sixth exam, of molecules and reactions
        "bbbp": molecules(chemistry / "BBBP.csv", "smiles", "BBBP", ("kept out", "passes")),
        "bace": molecules(chemistry / "bace.csv", "mol", "Class", ("no", "inhibits")),
        "tox21_mmp": molecules(chemistry / "tox21.csv", "smiles", "SR-MMP", ("harmless", "toxic")),
        "solubility": molecules(chemistry / "delaney-processed.csv", "smiles", SOLUBILITY),
        "lipophilicity": molecules(chemistry / "Lipophilicity.csv", "smiles", "exp"),
        "solar_cells": molecules(chemistry / "cep-processed.csv", "smiles", "PCE"),
        "reaction_yield": molecules(at / "rxn_yields" / "data" / YIELDS, "rxn", "y"),
        # the seventh exam
        "regex": side_by_side(*(at / "deep-regex" / "datasets" / "NL-RX-Turk" / f"{n}.txt" for n in ("src", "targ"))),
        "simplify": side_by_side(*(at / "asset" / "dataset" / f"asset.valid.{n}" for n in ("orig", "simp.0"))),
        "survey": most_said(at / "protoqa-data" / "data" / "dev" / "dev.scraped.jsonl"),
        "dates": ({"prompt": q, "completion": a} for q, a in scored_answers(asked / "Bigbench_Date" / "task.json")),
        "why": ({"prompt": row["sentence"], "completion": row["explanation"]} for row in json_lines(claims)),
        "claims": ({"text": row["sentence"], "label": row["label"]} for row in json_lines(claims)),
        "empathy": ({"text": row["essay"], "score": float(row["empathy"])} for row in table(letters_at)),
        "shop_intent": (
            {"text": row["sentence"], "label": row["label"]}
            for split in ("train", "test")
            for row in table(at / "HINT3" / "dataset" / "v2" / split / f"curekart_{split}.csv")
        ),
        "disease": (
            {"text": row["medical_abstract"], "label": DISEASES[int(row["condition_label"]) - 1]}
            for row in table(at / "Medical-Abstracts-TC-Corpus" / "medical_tc_test.csv")
        ),
        "antibody": antibodies(at / "DMS_opt" / "data"),
        # the ninth exam, with disease
        "tone": tones(at / "unhealthy-conversations" / "corpus"),
        "pronounce": pronunciations(at / "cmudict" / "cmudict.dict"),
        "inflect": inflections(at / "eng" / "eng.args"),
        # the tenth exam
        "role": roles(at / "sequential_sentence_classification" / "data" / "CSAbstruct"),
        "suggestion": suggestions(at / "Subtask-A" / "V1.4_Training.csv"),
        "readability": excerpts(at / "CLEAR-Corpus" / "CLEAR_corpus_final.xlsx"),
        "sparql": sparql(*(at / "LC-QuAD" / f"{split}-data.json" for split in ("train", "test"))),
        "acronym": acronyms(at / "AAAI-21-SDU-shared-task-2-AD" / "dataset" / "dev.json"),
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
