"""The user's own config as a candidate: of whatever format, and for the probe's task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from exporting import make
from fakes import make_probe
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from advisor.core.errors import BadInput, NotPredicted
from advisor.core.probe import Probe
from advisor.core.targets import LoraSettings
from advisor.export import FORMATS
from advisor.export.baseline import read_baseline

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query"], "rank_pattern": {"layer.0.*": 2}}


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    (tmp_path / "model").mkdir()
    it = make("bert", tmp_path / "model")
    return replace(make_probe(model=str(it.folder), revision=None), targets=it.targets)


FILES = [
    ("adapter_config.json", json.dumps(LORA)),
    ("lora.yaml", "# by hand\n" + yaml.safe_dump({**LORA, "task_type": "SEQ_CLS"})),
    ("c.yml", yaml.safe_dump({key: value for key, value in LORA.items() if key != "peft_type"})),
    (
        "train.py",
        "LoraConfig(task_type=TaskType.SEQ_CLS, r=4, lora_alpha=8, target_modules=['query'], rank_pattern={'layer.0.*': 2})",
    ),
]


@pytest.mark.parametrize(("name", "content"), FILES, ids=[name for name, _ in FILES])
def test_a_baseline_is_read_as_verify_reads_it(probe: Probe, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    own = read_baseline(tmp_path / name, probe, False)
    first, second = (f"bert.encoder.layer.{i}.attention.self.query" for i in range(2))
    assert own.selection.targets == (first, second)
    assert (own.settings.rank, own.settings.alpha, dict(own.ranks)) == (4, 8.0, {first: 2})


REFUSED = [
    (
        "adapter_config.json",
        json.dumps({**LORA, "task_type": "CAUSAL_LM"}),
        r"for causal-lm \(task_type CAUSAL_LM\), and the probe",
    ),
    ("l.yaml", yaml.safe_dump({"finetuning_type": "lora", "lora_target": "query"}), "is for causal-lm"),
    ("adapter_config.json", json.dumps({**LORA, "peft_type": "IA3"}), "peft_type is 'IA3'"),
    ("c.yaml", yaml.safe_dump({**LORA, "task_type": "SEQ_CLS", "r": None}), "r is None"),
    ("c.yaml", "r: 4\nr: 8\ntarget_modules: [query]", "'r' is there twice"),
    ("c.json", "{}", "no config of a known format"),
    ("c.json", json.dumps({**LORA, "target_modules": ["nowhere"]}), "PEFT refuses"),
    ("c.json", json.dumps({**LORA, "layer_replication": [[0, 2], [0, 2]]}), "layer_replication makes layers"),
    ("c.yaml", yaml.safe_dump({**LORA, "task_type": "SEQ_CLS", "use_dorra": True}), "no argument 'use_dorra'"),
]


@pytest.mark.parametrize(("name", "content", "says"), REFUSED)
def test_a_baseline_for_another_task_or_without_lora_is_refused(
    probe: Probe, tmp_path: Path, name: str, content: str, says: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=says) as caught:
        read_baseline(tmp_path / name, probe, False)
    assert str(caught.value).count(name) == 1


def test_the_advisor_s_own_files_can_be_the_baseline(tmp_path: Path) -> None:
    it = make("llama", tmp_path)
    names = tuple(t.name for t in it.targets if t.name.endswith(("q_proj", "up_proj")))
    probe = replace(make_probe("causal-lm", model=str(tmp_path), revision=None), targets=it.targets)
    files = [file for target in FORMATS.values() for file in target.render(it.plan(names, LoraSettings(4, 8))).files.items()]
    assert len(files) >= 7
    for name, file in files:
        (tmp_path / name).write_text(file.text)
        own = read_baseline(tmp_path / name, probe, False)
        assert (own.selection.targets, own.settings.rank, own.settings.alpha) == (names, 4, 8.0), name


BESIDE: list[tuple[dict[str, Any], str]] = [
    ({"use_dora": True}, "use_dora"),
    ({"modules_to_save": ["embed_tokens", "lm_head"]}, "modules_to_save"),
    ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, "modules_to_save"),
    ({"trainable_token_indices": [1, 2, 5]}, "trainable_token_indices"),
    ({"bias": "all"}, "bias"),
    ({"lora_bias": True}, "lora_bias"),
    ({"init_lora_weights": "mica"}, "init_lora_weights"),
]


@pytest.mark.parametrize(("fields", "named"), BESIDE, ids=[str(fields) for fields, _ in BESIDE])
@pytest.mark.parametrize("tied", [True, False])
def test_what_trains_beside_plain_lora_is_said_with_what_peft_trains(
    tmp_path: Path, fields: dict[str, Any], named: str, tied: bool
) -> None:
    it = make("llama", tmp_path)
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "tie_word_embeddings": tied, "attention_bias": True}))
    probe = replace(make_probe("causal-lm", model=str(tmp_path), revision=None), targets=it.targets)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**config, "peft_type": "LORA"}))
    plain = read_baseline(path, probe, False)
    assert plain.selection.name == "your config"
    real = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    trained = sum(p.numel() for p in get_peft_model(real, LoraConfig(**{**config, **fields})).parameters() if p.requires_grad)
    path.write_text(json.dumps({**config, "peft_type": "LORA", **fields}))
    params = plain.selection.params(it.targets, 4)
    said = rf"trains {trained:,} parameters with it \({named}\).* counted and predicted: {params:,} parameters"
    with pytest.warns(NotPredicted, match=said):
        own = read_baseline(path, probe, False)
    assert own == replace(plain, selection=replace(plain.selection, name="your config, LoRA alone"))


def test_the_head_is_trained_by_every_run_and_nothing_beside(probe: Probe, tmp_path: Path) -> None:
    for number, modules in enumerate((["classifier"], None)):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps({**LORA, "task_type": "SEQ_CLS", "modules_to_save": modules}))
        assert read_baseline(path, probe, False).selection.name == "your config"
