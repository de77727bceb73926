"""Odd inputs from a seed: data files, model folders, probes, rows, selections, options, configs, profiles.

Each generator takes a random generator, the shared ``Ground`` and an empty folder; it writes there what it makes up and
returns the arguments of one ``advisor`` command.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from campaign.damage import changed_json, changed_tensors, damaged, odd_file, resealed
from campaign.data_inputs import COLUMNS, data_file

SMALL = ("--samples", "8", "--max-length", "8", "--device", "cpu")


@dataclass(frozen=True)
class Ground:
    """What inputs are changed from: sound model folders by kind, a data file, a probe, a recommendation."""

    models: dict[str, Path]
    data: Path
    chats: Path
    probe: Path
    recommendation: Path
    rows: tuple[str, ...] = ()  # calibration rows, a JSON line each


Make = Callable[[Random, Ground, Path], list[str]]


def of_data(random: Random, ground: Ground, folder: Path) -> list[str]:
    place = data_file(random, folder)
    options: list[str] = []
    if random.random() < 0.3:
        options += ["--task", random.choice(["classification", "regression", "causal-lm", "seq2seq"])]
    if random.random() < 0.2:
        options += ["--label-column", random.choice(COLUMNS)]
    if random.random() < 0.2:
        options += ["--text-column", random.choice(COLUMNS)]
    if random.random() < 0.2:
        options += ["--eval-data", str(place)]
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
    elif random.random() < 0.2:
        (model / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    else:
        odd_file(random, random.choice(sorted(model.iterdir())))
    data = ground.chats if kind == "template" or random.random() < 0.2 else ground.data
    return ["probe", str(model), "--data", str(data), *SMALL, "--out", str(folder / "out")]


def of_probe(random: Random, ground: Ground, folder: Path) -> list[str]:
    probe = folder / "probe"
    shutil.copytree(ground.probe, probe)
    _change_own(random, random.choice(sorted(f for f in probe.rglob("*") if f.is_file())))
    return random.choice(
        [
            ["compare", str(probe)],
            ["explain", str(probe)],
            ["explain", str(probe), "--json"],
            ["recommend", str(probe), "--budget", random.choice(["50%", "3modules"]), "--out", str(folder / "out")],
        ]
    )


def _change_own(random: Random, file: Path) -> None:
    """Change a file that the advisor wrote; mostly so that its checksum is right again."""
    content = file.read_bytes()
    kind = random.random()
    if kind < 0.1:
        odd_file(random, file)
    elif file.suffix == ".json" and kind < 0.85:
        changed = changed_json(random, json.loads(content), 3)
        file.write_text(json.dumps(resealed(changed) if random.random() < 0.8 else changed))
    elif file.suffix == ".safetensors":
        file.write_bytes(changed_tensors(random, content))
        info = file.with_name("probe.json")
        if random.random() < 0.8:
            told = json.loads(info.read_text())
            told["files"] = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
            info.write_text(json.dumps(resealed(told)))
    else:
        file.write_bytes(damaged(random, content))


def of_recommendation(random: Random, ground: Ground, folder: Path) -> list[str]:
    place = folder / "recommendation"
    shutil.copytree(ground.recommendation, place)
    files = sorted(f for f in place.rglob("*") if f.is_file())
    _change_own(random, place / "recommendation.json" if random.random() < 0.7 else random.choice(files))
    formats = random.choice(["peft,axolotl,llama-factory,unsloth,trl", "peft", "unsloth"])
    return ["export", str(place), "--format", formats, *random.choice([[], ["--out", str(folder / "out")]])]


def of_rows(random: Random, ground: Ground, folder: Path) -> list[str]:
    """The user's own calibration rows, beside which every command that predicts must work."""
    from advisor.prediction.calibration_rows import user_rows_folder

    own = user_rows_folder()
    own.mkdir(parents=True)
    lines = []
    for line in random.sample(ground.rows, 3):
        changed = changed_json(random, json.loads(line), 3)
        lines.append(json.dumps(resealed(changed) if random.random() < 0.8 else changed).encode())
    file = own / random.choice(["mine.jsonl", "a\x1b[31m.jsonl"])
    text = b"\n".join(lines) + b"\n"
    file.write_bytes(text if random.random() < 0.8 else damaged(random, text))
    if random.random() < 0.1:
        odd_file(random, file)
    return random.choice([["compare", str(ground.probe)], ["recommend", str(ground.probe), "--out", str(folder / "out")]])


def of_selections(random: Random, ground: Ground, folder: Path) -> list[str]:
    names = [t["name"] for t in json.loads((ground.probe / "probe.json").read_text())["targets"]]
    content: Any = [{"name": random.choice(["a", "b\x1b[31m", "[red]x", "x" * 90]), "targets": random.sample(names, 2)}]
    content.append({"name": "all", "targets": names})
    if random.random() < 0.7:
        content = changed_json(random, content, 2)
    text = json.dumps(content).encode()
    file = folder / "selections.json"
    file.write_bytes(text if random.random() < 0.8 else damaged(random, text))
    if random.random() < 0.05:
        file.write_text("[" * random.choice([100, 100_000]))
    elif random.random() < 0.05:
        odd_file(random, file)
    return [random.choice(["score", "explain"]), str(ground.probe), "--selections", str(file)]


ODD = (
    *(
        "-1",
        "0",
        "9" * 31,
        "9" * 400,
        "nan",
        "inf",
        "-inf",
        "1e308",
        "1e-320",
        "x",
        "",
        " ",
        "\x1b[31m",
        "\udc80",
        "../..",
        "a\nb",
    ),
    *("25%", "-5%", "0%", "101%", "1e400%", "2M", "99999999M", "3modules", "0modules", "auto", "١٢"),
)
SANE = ("1", "2", "8", "0.5", "16", "100", "50%", "1M", "role", "auto", "uniform", "cpu")
SLOW = {
    "--ray",
    "--confirm",
    "--confirm-rows",
    "--workers",
    "--load-in-4bit",
    "--load-in-8bit",
    "--demo",
    "--tui",
    "--help",
    "--version",
}


def of_options(random: Random, ground: Ground, folder: Path) -> list[str]:
    """Any option of any command, at odd and at sane values."""
    from typer.main import get_command

    from advisor.cli.app import app

    out = ["--out", str(folder / "out")]
    model, data = str(ground.models["llama"]), ["--data", str(ground.data)]
    base = {
        "probe": ["probe", model, *data, *SMALL, *out],
        "compare": ["compare", str(ground.probe)],
        "explain": ["explain", str(ground.probe)],
        "recommend": ["recommend", str(ground.probe), *out],
        "export": ["export", str(ground.recommendation), *out],
        "verify": ["verify", str(ground.recommendation / "lora.yaml"), "--model", model],
        "calibrate": ["calibrate", model, *data, "--runs", "0", *out],  # refused as it is: runs take long
    }
    name = random.choice(list(base))
    options = [o for o in get_command(app).commands[name].params if o.param_type_name == "option"]  # type: ignore[attr-defined]
    options = [o for o in options if not SLOW.intersection(o.opts)]
    given = []
    for option in random.sample(options, min(len(options), random.randint(1, 3))):
        given.append(random.choice(option.opts))
        if not option.is_flag:
            given.append(random.choice(ODD if random.random() < 0.5 else (*SANE, *_choices(option))))
    return [*base[name], *given]


def _choices(option: Any) -> list[str]:
    """Words that the help gives: choices and the default."""
    words = re.findall(r"[\w.-]+", option.help or "")
    return [*words[-6:], *([str(option.default)] if option.default is not None else [])]


def of_adapter(random: Random, ground: Ground, folder: Path) -> list[str]:
    """A config of any tool, or a trained adapter, for `verify`."""
    kind = random.choice(
        ["peft", "peft", "adapter", "adapter", "axolotl", "llama-factory", "trl", "unsloth", "script", "exported"]
    )
    model = ground.models["llama" if kind == "adapter" else random.choice(list(ground.models))]
    task = ["--task", random.choice(["causal-lm", "classification"])] if random.random() < 0.3 else []
    if kind == "adapter":
        _adapter(random, folder)
        return ["verify", str(folder), "--model", str(model), *task]
    if kind == "exported":
        found = sorted(f for f in ground.recommendation.iterdir() if f.suffix in (".yaml", ".py"))
        file = folder / random.choice(found).name
        file.write_bytes(damaged(random, (ground.recommendation / file.name).read_bytes()))
        return ["verify", str(file), "--model", str(model), *task]
    if kind == "script":
        return ["verify", str(_script(random, folder)), "--model", str(model), *task]
    content = changed_json(random, _config(random, kind), 2) if random.random() < 0.8 else _config(random, kind)
    name = "adapter_config.json" if kind == "peft" else random.choice(["config.yml", "config.yaml", "config.json"])
    file = folder / name
    text = json.dumps(content).encode()  # which is YAML too
    file.write_bytes(text if random.random() < 0.9 else damaged(random, text))
    if random.random() < 0.05:
        odd_file(random, file)
    return ["verify", str(file), "--model", str(model), *task]


def _config(random: Random, kind: str) -> dict[str, Any]:
    modules = random.choice([["q_proj", "v_proj"], ["query"], ["no"], [], ["q_proj "], ["model.layers.0.self_attn.q_proj"]])
    if kind == "axolotl":
        return {
            "base_model": "x",
            "adapter": random.choice(["lora", "qlora", None]),
            "lora_r": 8,
            "lora_alpha": 16,
            "lora_target_modules": random.choice([modules, "q_proj|v_proj", None]),
            "lora_target_linear": random.choice([None, True]),
            "lora_dropout": 0.0,
            "peft_layers_to_transform": random.choice([None, [0]]),
        }
    if kind == "llama-factory":
        target = random.choice(["all", ",".join(modules), "q_proj v_proj"])
        return {"finetuning_type": "lora", "lora_rank": 8, "lora_alpha": 16, "lora_target": target, "additional_target": "norm"}
    if kind == "trl":
        return {"use_peft": True, "lora_r": 8, "lora_alpha": 16, "lora_target_modules": modules, "lora_task_type": "CAUSAL_LM"}
    if kind == "unsloth":
        lora = {"lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ",".join(modules), "use_rslora": False}
        return {"model": "x", "training": {"training_type": "lora"}, "lora": lora}
    return {
        "peft_type": "LORA",
        "task_type": random.choice(["CAUSAL_LM", "SEQ_CLS"]),
        "r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "bias": "none",
        "init_lora_weights": True,
        "target_modules": random.choice([modules, "all-linear", r".*q_proj", "("]),
        "target_parameters": random.choice([None, None, ["mlp.up_proj.weight"]]),
        "modules_to_save": random.choice([None, ["score"], ["no"], "x"]),
        "rank_pattern": random.choice([{}, {"q_proj": 4}, {"(": 4}, {"q_proj": -1}, {"q_proj": "x"}]),
        "layers_to_transform": random.choice([None, 0, [0, 1], [99], -1]),
        "exclude_modules": random.choice([None, ["q_proj"], "("]),
        "layer_replication": random.choice([None, None, None, [[0, 2], [1, 3]]]),
    }


def _adapter(random: Random, folder: Path) -> None:
    """A trained adapter of the tiny Llama, its config or weights changed."""
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for layer in range(3):
        for name, inputs, outputs in (("q_proj", 24, 24), ("v_proj", 24, 12)):
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors |= {f"{at}.lora_A.weight": torch.ones(4, inputs), f"{at}.lora_B.weight": torch.ones(outputs, 4)}
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(changed_json(random, config) if random.random() < 0.4 else config))
    file = folder / "adapter_model.safetensors"
    save_file(tensors, file)
    if random.random() < 0.15:
        file.unlink()
        torch.save(tensors if random.random() < 0.5 else {"model": tensors, "step": 3}, folder / "adapter_model.bin")
    elif random.random() < 0.8:
        file.write_bytes(changed_tensors(random, file.read_bytes()))
    elif random.random() < 0.5:
        odd_file(random, file)


def _script(random: Random, folder: Path) -> Path:
    values = ["8", "RANK", "16 // 2", "int('8')", "[8]", "None", "2**99999", "1/0", "-8", "args.r", "'8'", "8.0", "f'{8}'"]
    tasks = ("TaskType.CAUSAL_LM", "None", "'SEQ_CLS'")
    lines = [
        "from peft import LoraConfig, get_peft_model",
        random.choice(["RANK = 8", "RANK = 8; RANK = 16", "for RANK in (8, 16): pass", "RANK, ALPHA = 8, 16", "RANK: int = 8"]),
        random.choice(["T = ['q_proj']", "T = ['q_proj']; T.append('v_proj')", "T = ('q_proj', 'v_proj')", "T = 'q_proj'"]),
        f"config = LoraConfig(r={random.choice(values)}, target_modules=T, task_type={random.choice(tasks)})",
        random.choice(["", "config.r = 32", "model = get_peft_model(model, config)", "(" * 300, "x = " + "-" * 5000 + "1"]),
    ]
    file = folder / random.choice(["train.py", "train.ipynb"])
    text = "\n".join(lines)
    if file.suffix == ".ipynb":
        text = json.dumps({"cells": [{"cell_type": "code", "source": text}], "nbformat": 4})
    content = text.encode()
    file.write_bytes(content if random.random() < 0.8 else damaged(random, content))
    return file


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
    "data": (of_data, 36),
    "model": (of_model, 16),
    "probe": (of_probe, 9),
    "recommendation": (of_recommendation, 5),
    "rows": (of_rows, 4),
    "selections": (of_selections, 6),
    "options": (of_options, 8),
    "adapter": (of_adapter, 11),
    "profile": (of_profile, 5),
}
