"""Odd inputs from a seed: data files, model folders, probes, rows, selections, options, configs, profiles.

Each generator takes a random generator, the shared ``Ground`` and an empty folder; it writes there what it makes up and
returns the arguments of one ``advisor`` command.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

SMALL = ("--samples", "8", "--max-length", "8", "--device", "cpu")
CELLS: tuple[Any, ...] = (
    *(
        "red cat",
        "",
        " ",
        "0",
        "1",
        "-1",
        "1e308",
        "nan",
        "NaN",
        "true",
        "null",
        "é漢😀",
        "\x1b[31m",
        "a\nb",
        "\u202ex\u200b",
        "[bold]",
    ),
    *(
        '"',
        "'",
        ",",
        "\t",
        "\ud800",
        "x" * 5000,
        "9" * 400,
        0,
        1,
        -1,
        2**70,
        10**500,
        0.5,
        1e308,
        -1e308,
        float("nan"),
        float("inf"),
    ),
    *(True, False, None, [], {}, [1, 2], ["a"], {"a": 1}, [{"role": "user", "content": "x"}], [[]], b"\xff"),
)
WORDS = ("red", "blue", "cat", "dog", "tree", "house", "ran", "slept", "happy", "sad")
COLUMNS = (
    *("text", "label", "sentence1", "sentence2", "prompt", "completion", "messages", "conversations", "instruction", "output"),
    *(
        "tokens",
        "ner_tags",
        "chosen",
        "rejected",
        "image",
        "score",
        "id",
        "toxic",
        "obscene",
        "a\nb",
        "",
        "\u202e",
        "tools",
        "question",
    ),
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "latin-1", "utf-16-le", "shift_jis")
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 3, 7, 10**6, 10**9, 10**18, 2**63, 10**40, -(10**9), 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "relu", "\x1b[31m", "../..", "a" * 3000, [], [1, 2], ["a"], {}, {"a": 1}, [[[]]], [None]),
)


@dataclass(frozen=True)
class Ground:
    """What inputs are changed from: sound model folders by kind, a data file, a probe, a recommendation."""

    models: dict[str, Path]
    data: Path
    chats: Path
    probe: Path
    recommendation: Path


Make = Callable[[Random, Ground, Path], list[str]]


def _words(random: Random) -> str:
    return " ".join(
        random.choice(["red", "blue", "cat", "dog", "tree", "house", "ran", "slept", "happy", "sad"])
        for _ in range(random.randint(1, 9))
    )


def _json_text(value: Any) -> str:
    return json.dumps(value, default=lambda v: v.decode("latin-1"))


def _turns(random: Random) -> list[Any]:
    """A conversation, mostly a sound one."""
    turns: list[Any] = []
    for i in range(random.randint(0, 4)):
        turn: dict[str, Any] = {"role": ("user", "assistant")[i % 2], "content": _words(random)}
        if random.random() < 0.2:
            turn["role"] = random.choice(["system", "tool", "human", "gpt", "", None, 3, "\x1b"])
        if random.random() < 0.2:
            turn["content"] = random.choice([None, "", [{"type": "text", "text": "x"}], [{"type": "image"}], [], 3, {"a": 1}])
        if random.random() < 0.1:
            turn["tool_calls"] = [{"function": {"name": "f", "arguments": "{}"}}]
        turns.append(turn if random.random() < 0.95 else random.choice([None, "x", [], 3]))
    return turns


def rows(random: Random) -> list[dict[str, Any]]:
    """Rows of a few columns, a share of the cells odd."""
    names = random.sample(COLUMNS, random.randint(1, 4))
    if random.random() < 0.8:
        names = random.choice(
            [
                ["text", "label"],
                ["messages"],
                ["prompt", "completion"],
                ["text", "toxic", "obscene"],
                ["sentence1", "sentence2", "score"],
            ]
        )
    odd = random.choice([0, 0, 0, 0.01, 0.1, 1])
    labels = random.choice(
        [(0, 1), ("a", "b", "c"), (0.5, 1.5, 2.25), (1e308, -1e308, 0.5), (True, False), (3,), tuple(range(60))]
    )
    made = []
    for _ in range(random.choice([0, 1, 19, 30, 30, 40, 40, 60, 60, 60])):
        row: dict[str, Any] = {}
        for name in names:
            kind = (
                "chat"
                if name in ("messages", "conversations")
                else "label"
                if name in ("label", "score", "toxic", "obscene")
                else "text"
            )
            row[name] = _turns(random) if kind == "chat" else random.choice(labels) if kind == "label" else _words(random)
            if random.random() < odd:
                row[name] = random.choice(CELLS)
        if random.random() < odd / 4 and row:
            row.pop(random.choice(list(row)))
        made.append(row)
    return made


def data_file(random: Random, folder: Path) -> Path:
    """A file or folder of rows in any form, damaged now and then."""
    kind = random.choice(["jsonl", "jsonl", "json", "csv", "tsv", "txt", "parquet", "folder", "odd"])
    found, encoding = rows(random), random.choice(ENCODINGS) if random.random() < 0.4 else "utf-8"
    if kind == "odd":
        return _odd_place(random, folder)
    place = folder / f"data.{kind}" if kind != "folder" else folder / "train.jsonl"
    if kind == "parquet":
        content = _parquet(random, found)
    elif kind in ("csv", "tsv"):
        content = _delimited(random, found, "," if kind == "csv" else "\t").encode(encoding, "replace")
    elif kind == "json":
        content = _json_text(_document(random, found)).encode(encoding, "replace")
    elif kind == "txt":
        content = "\n".join(str(random.choice(CELLS)) for _ in range(30)).encode(encoding, "replace")
    else:
        content = "".join(_json_text(row) + "\n" for row in found).encode(encoding, "replace")
    if random.random() < 0.2:
        content = damaged(random, content)
    if random.random() < 0.1:
        place, content = place.with_name(place.name + ".gz"), gzip.compress(content)
        content = damaged(random, content) if random.random() < 0.5 else content
    place.write_bytes(content)
    return folder if kind == "folder" else place


def _odd_place(random: Random, folder: Path) -> Path:
    place = folder / random.choice(["data.jsonl", "train", "data.csv", "data.parquet", "x\x1b[31m.jsonl", "data.xlsx"])
    kind = random.choice(["fifo", "zero", "folder", "nothing", "empty", "link"])
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "zero":
        place.symlink_to("/dev/zero")
    elif kind == "folder":
        place.mkdir()
        if random.random() < 0.5:
            os.mkfifo(place / "train.jsonl")
    elif kind == "empty":
        place.write_bytes(b"")
    elif kind == "link":
        place.symlink_to(place)
    return place


def _document(random: Random, found: list[dict[str, Any]]) -> Any:
    """Rows as pandas and others lay them out in one JSON document."""
    names = list(found[0]) if found else ["text"]
    columns = {name: [row.get(name) for row in found] for name in names}
    return random.choice(
        [
            found,
            columns,
            {name: {str(i): value for i, value in enumerate(values)} for name, values in columns.items()},
            {str(i): row for i, row in enumerate(found)},
            {"columns": names, "index": list(range(len(found))), "data": [[row.get(name) for name in names] for row in found]},
            {"data": found, "version": 1},
            {"data": {"train": found}},
            random.choice(CELLS),
            [[row] for row in found],
            {name: values[: random.randint(0, len(values))] for name, values in columns.items()},
        ]
    )


def _delimited(random: Random, found: list[dict[str, Any]], delimiter: str) -> str:
    stream = io.StringIO()
    writer = csv.writer(
        stream, delimiter=random.choice([delimiter, delimiter, ";"]), quoting=random.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
    )
    if found and random.random() < 0.8:
        writer.writerow(list(found[0]))
    for row in found:
        writer.writerow([str(value) for value in row.values()])
    return stream.getvalue()


def _parquet(random: Random, found: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    stream = pa.BufferOutputStream()
    count = max(len(found), 3)
    odd = {
        "bytes": pa.array([b"a\xff"] * count, pa.binary()).view(pa.utf8()),
        "far": pa.array([2**62] * count, pa.int64()).view(pa.timestamp(random.choice(["us", "ns"]))),
        "days": pa.array([2**30] * count, pa.int32()).view(pa.date32()),
        "text": pa.array([f"red {i}" for i in range(count)]),
        "label": pa.array([i % 3 for i in range(count)]),
        "nested": pa.array([[{"a": i}] for i in range(count)]),
        "empty": pa.nulls(count),
    }
    names = ["text", "label", *random.sample(list(odd), 1)] if random.random() < 0.7 else random.sample(list(odd), 3)
    parquet.write_table(
        pa.table([odd[name] for name in names], names=names if random.random() < 0.9 else ["text"] * len(names)), stream
    )
    return stream.getvalue().to_pybytes()


def damaged(random: Random, content: bytes) -> bytes:
    """Cut off, with flipped or foreign bytes, or doubled."""
    at = random.randrange(len(content) + 1)
    kind = random.choice(["cut", "flip", "insert", "double", "nul"])
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        return content[:at] + bytes(b ^ (1 << random.randrange(8)) for b in content[at : at + 1]) + content[at + 1 :]
    if kind == "double":
        return content + content[at:]
    foreign = b"\0" if kind == "nul" else random.choice([b"\xff\xfe", b"[" * 3000, b"{", b'"', b"\r", "\u2028".encode(), b"NaN"])
    return content[:at] + foreign + content[at:]


def changed_json(random: Random, content: Any, times: int = 2) -> Any:
    """A few fields, at any depth, replaced, removed or added."""
    content = json.loads(json.dumps(content))
    if random.random() < 0.03:
        return random.choice(VALUES)
    for _ in range(random.randint(1, times)):
        at = content
        while isinstance(at, dict | list) and at:
            key = random.choice(list(at)) if isinstance(at, dict) else random.randrange(len(at))
            inner = at[key]
            if isinstance(inner, dict | list) and inner and random.random() < 0.6:
                at = inner
                continue
            if isinstance(at, dict) and random.random() < 0.2:
                del at[key]
            else:
                at[key] = random.choice(VALUES)
            break
    return content


def changed_tensors(random: Random, content: bytes) -> bytes:
    """A safetensors file with tensors renamed, of another type or shape, NaN, zero, or a damaged header."""
    size = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    names = [name for name in header if name != "__metadata__"]
    name, kind = (
        random.choice(names),
        random.choice(["rename", "drop", "dtype", "shape", "nan", "zero", "all zero", "bytes", "offset"]),
    )
    first, last = header[name]["data_offsets"]
    if kind == "rename":
        header[random.choice(["x", name + "_", "\x1b[31m", name.replace("0", "7")])] = header.pop(name)
    elif kind == "drop":
        del header[name]
    elif kind == "dtype":
        header[name]["dtype"] = random.choice(["I32", "F16", "BF16", "BOOL", "F8_E4M3", "X"])
    elif kind == "shape":
        header[name]["shape"] = random.choice([header[name]["shape"][::-1], [1], [2**40], [-1], [], "x"])
    elif kind == "nan":
        body[first:last] = struct.pack("<f", float(random.choice(["nan", "inf"]))) * ((last - first) // 4)
    elif kind in ("zero", "all zero"):
        place = slice(first, last) if kind == "zero" else slice(0, len(body))
        body[place] = bytes(len(body[place]))
    elif kind == "offset":
        header[name]["data_offsets"] = [first, last + random.choice([-4, 4, 2**40])]
    text = json.dumps(header).encode()
    made = struct.pack("<Q", len(text)) + text + bytes(body)
    return damaged(random, made) if kind == "bytes" else made


def of_data(random: Random, ground: Ground, folder: Path) -> list[str]:
    place = data_file(random, folder)
    options: list[str] = []
    if random.random() < 0.3:
        options += ["--task", random.choice(["classification", "regression", "causal-lm", "seq2seq"])]
    if random.random() < 0.2:
        options += ["--label-column", random.choice(COLUMNS)]
    if random.random() < 0.2:
        options += ["--text-column", random.choice(COLUMNS)]
    return ["probe", str(ground.models["llama"]), "--data", str(place), *options, *SMALL, "--out", str(folder / "out")]


def of_model(random: Random, ground: Ground, folder: Path) -> list[str]:
    model = folder / "model"
    shutil.copytree(ground.models[random.choice(list(ground.models))], model)
    kind = random.choice(["config", "config", "config", "weights", "weights", "tokenizer", "tokenizer", "template", "files"])
    if kind == "config":
        file = model / "config.json"
        file.write_text(json.dumps(changed_json(random, json.loads(file.read_text()))))
    elif kind == "weights":
        file = model / "model.safetensors"
        file.write_bytes(changed_tensors(random, file.read_bytes()))
    elif kind == "tokenizer":
        file = model / random.choice([f.name for f in model.glob("*token*.json")])
        changed = json.dumps(changed_json(random, json.loads(file.read_text()), 4)).encode()
        file.write_bytes(changed if random.random() < 0.8 else damaged(random, file.read_bytes()))
    elif kind == "template":
        template = random.choice(
            [
                "{% for",
                "{{ 1 / 0 }}",
                "{{ x.y.z }}",
                "{% for i in range(10**9) %}a{% endfor %}",
                "{{ messages[99].content }}",
                "x",
                "",
                "{{ raise_exception('no') }}",
            ]
        )
        (model / "chat_template.jinja").write_text(template)
    else:
        _odd_files(random, model)
    data = ground.chats if kind == "template" or random.random() < 0.2 else ground.data
    return ["probe", str(model), "--data", str(data), *SMALL, "--out", str(folder / "out")]


def _odd_files(random: Random, model: Path) -> None:
    file = random.choice(sorted(model.iterdir()))
    kind = random.choice(["missing", "fifo", "folder", "empty", "zero", "adapter", "garbage"])
    if kind == "adapter":
        (model / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        return
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "zero":
        file.symlink_to("/dev/zero")
    elif kind in ("empty", "garbage"):
        file.write_bytes(b"" if kind == "empty" else random.randbytes(200))


def of_probe(random: Random, ground: Ground, folder: Path) -> list[str]:
    probe = folder / "probe"
    shutil.copytree(ground.probe, probe)
    file = random.choice(sorted(f for f in probe.rglob("*") if f.is_file()))
    content = file.read_bytes()
    if file.suffix == ".json" and random.random() < 0.8:
        content = json.dumps(changed_json(random, json.loads(content), 3)).encode()
    else:
        content = changed_tensors(random, content) if file.suffix == ".safetensors" else damaged(random, content)
    file.write_bytes(content)
    return random.choice(
        [["compare", str(probe)], ["explain", str(probe)], ["recommend", str(probe), "--out", str(folder / "out")]]
    )


def of_recommendation(random: Random, ground: Ground, folder: Path) -> list[str]:
    place = folder / "recommendation"
    shutil.copytree(ground.recommendation, place)
    file = place / "recommendation.json"
    content = json.dumps(changed_json(random, json.loads(file.read_text()), 3)).encode()
    file.write_bytes(content if random.random() < 0.8 else damaged(random, content))
    return ["export", str(place), "--format", "peft,axolotl,llama-factory,unsloth,trl", "--out", str(folder / "out")]


def of_selections(random: Random, ground: Ground, folder: Path) -> list[str]:
    names = [t["name"] for t in json.loads((ground.probe / "probe.json").read_text())["targets"]]
    content: Any = [{"name": "a", "targets": random.sample(names, 2)}, {"name": "b\x1b[31m", "targets": names}]
    text = json.dumps(changed_json(random, content, 3)).encode()
    file = folder / "selections.json"
    file.write_bytes(text if random.random() < 0.7 else damaged(random, text))
    if random.random() < 0.1:
        file.write_text("[" * random.choice([100, 100_000]))
    return [random.choice(["score", "explain"]), str(ground.probe), "--selections", str(file)]


def of_options(random: Random, ground: Ground, folder: Path) -> list[str]:
    numbers = [
        "-1",
        "0",
        "1",
        "8",
        "9" * 31,
        "9" * 400,
        "nan",
        "inf",
        "-inf",
        "1e308",
        "0.5",
        "x",
        "",
        "\x1b[31m",
        "2M",
        "25%",
        "1e-320",
    ]
    command = random.choice(["compare", "explain", "recommend", "probe"])
    shared = ["--rank", "--alpha", "--train-rows", "--epochs", "--lr", "--batch-size", "--sigma", "--seed", "--kernel"]
    own = {
        "compare": [*shared, "--budget", "--granularity"],
        "explain": [*shared, "--budget"],
        "recommend": [*shared, "--budget", "--granularity", "--strategy", "--format"],
        "probe": [
            "--samples",
            "--max-length",
            "--seed",
            "--head",
            "--method",
            "--device",
            "--dtype",
            "--task",
            "--metric",
            "--no-such",
        ],
    }[command]
    given = [part for option in random.sample(own, random.randint(1, 2)) for part in (option, random.choice(numbers))]
    if command == "probe":
        return ["probe", str(ground.models["llama"]), "--data", str(ground.data), *SMALL, *given, "--out", str(folder / "out")]
    return [command, str(ground.probe), *given, *(["--out", str(folder / "out")] if command == "recommend" else [])]


def of_adapter(random: Random, ground: Ground, folder: Path) -> list[str]:
    content: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": random.choice(["CAUSAL_LM", "SEQ_CLS"]),
        "r": 8,
        "lora_alpha": 16,
        "target_modules": random.choice([["q_proj", "v_proj"], "all-linear", r".*q_proj", ["no"], "(", []]),
        "modules_to_save": random.choice([None, ["score"], ["no"], "x"]),
        "rank_pattern": random.choice([{}, {"q_proj": 4}, {"(": 4}, {"q_proj": -1}, {"q_proj": "x"}]),
        "layers_to_transform": random.choice([None, 0, [0, 1], [99], -1]),
        "exclude_modules": random.choice([None, ["q_proj"], "("]),
    }
    keys = {
        "base_model": "x",
        "adapter": "lora",
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_target_modules": ["q_proj"],
        "lora_dropout": 0.0,
    }
    axolotl = random.random() < 0.3
    text = json.dumps(changed_json(random, keys if axolotl else content)).encode()
    file = folder / ("config.yml" if axolotl else "adapter_config.json")
    file.write_bytes(text if random.random() < 0.85 else damaged(random, text))
    model = ground.models[random.choice(list(ground.models))]
    return ["verify", str(file), "--model", str(model), *(["--task", "causal-lm"] if random.random() < 0.3 else [])]


def of_profile(random: Random, ground: Ground, folder: Path) -> list[str]:
    import yaml

    content = {
        "family": "x",
        "model_types": ["llama"],
        "roles": {"self_attn.q_proj": "attention/query"},
        "qv": ["query"],
        "never": [],
    }
    file = folder / "profile.yaml"
    text = yaml.safe_dump(changed_json(random, content, 3)).encode()
    file.write_bytes(text if random.random() < 0.7 else damaged(random, text))
    if random.random() < 0.05:
        levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9)]
        file.write_text("\n".join(["l0: &l0 [x]", *levels]))
    return ["profiles", "check", str(file), "--model", str(ground.models["llama"])]


KINDS: dict[str, tuple[Make, int]] = {  # how many of 100 inputs are of it
    "data": (of_data, 45),
    "model": (of_model, 15),
    "probe": (of_probe, 8),
    "recommendation": (of_recommendation, 4),
    "selections": (of_selections, 7),
    "options": (of_options, 6),
    "adapter": (of_adapter, 9),
    "profile": (of_profile, 6),
}
