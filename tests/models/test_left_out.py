"""Experts that are not probed are counted by their weights, and what is left out of a probe stands in every answer."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import vision_language
from architectures import FAMILIES, HYBRIDS, build
from command import advisor as command
from command import write_data
from peft import LoraConfig, get_peft_model

import advisor
from advisor.models.embedding import embedder_of
from advisor.models.load import load_model
from advisor.models.modules import experts_notes, find_targets

SIZES = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
JETMOE = {**SIZES, "num_key_value_heads": 4, "kv_channels": 6, "intermediate_size": 20, "num_local_experts": 4}
LLAMA4 = {**SIZES, "intermediate_size": 20, "intermediate_size_mlp": 20, "head_dim": 6, "num_local_experts": 2}
SWITCH = {"vocab_size": 40, "d_model": 24, "d_kv": 6, "d_ff": 20, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
SWITCH |= {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
DBRX = {"vocab_size": 40, "d_model": 24, "n_heads": 4, "n_layers": 2, "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4}}
DBRX |= {"ffn_config": {"ffn_hidden_size": 20, "moe_num_experts": 4, "moe_top_k": 2}}
XLNET = {"vocab_size": 40, "d_model": 24, "n_layer": 2, "n_head": 4, "d_inner": 40}
FUNNEL = {"vocab_size": 40, "block_sizes": [1, 1], "d_model": 24, "n_head": 4, "d_head": 6, "d_inner": 40}


@pytest.fixture
def jetmoe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fields = {key: value for key, value in JETMOE.items() if key != "vocab_size"}
    monkeypatch.setitem(FAMILIES, "jetmoe", FAMILIES["mixtral"]._replace(config="JetMoeConfig", fields=fields))
    return build("jetmoe", tmp_path / "model", task="causal-lm")


def made(config: str, head: str, fields: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return getattr(transformers, f"AutoModelFor{head}").from_config(getattr(transformers, config)(**fields))


def is_expert(name: str, shape: torch.Size) -> bool:
    """By what these families call them."""
    parallel = name.endswith(("input_linear.weight", "output_linear.weight"))
    return parallel or (".experts." in name and len(shape) > 1 and "router" not in name)


@pytest.mark.parametrize(
    ("config", "head", "fields"),
    [
        ("JetMoeConfig", "CausalLM", JETMOE),
        ("Llama4TextConfig", "CausalLM", LLAMA4),
        ("SwitchTransformersConfig", "Seq2SeqLM", SWITCH),
        ("DbrxConfig", "CausalLM", DBRX),
    ],
)
def test_all_experts_without_lora_are_counted_and_peft_takes_what_is_advised(
    config: str, head: str, fields: dict[str, Any]
) -> None:
    model = made(config, head, fields)
    targets = find_targets(model, ())
    weights = dict(model.named_parameters())
    experts = {name: p.numel() for name, p in weights.items() if is_expert(name, p.shape)}
    assert experts
    assert not set(experts) & {f"{t.name}.weight" for t in targets}
    found, (said,) = experts_notes(model, targets)
    assert not found
    share = sum(experts.values()) / sum(p.numel() for p in weights.values())
    assert f"{len(experts)} expert weights ({share:.0%} of the parameters; first: {next(iter(experts))})" in said
    stacks = {name for name in experts if weights[name].ndim == 3}
    assert bool(stacks) == ("target_parameters=" in said)
    if stacks:
        advised = ast.literal_eval(said.rpartition("target_parameters=")[2].removesuffix("."))
        wrapped: Any = get_peft_model(model, LoraConfig(r=2, target_modules=[], target_parameters=advised))
        assert set(wrapped.base_model.targeted_parameter_names) == stacks


@pytest.mark.parametrize(
    ("config", "head", "fields"), [("XLNetConfig", "CausalLM", XLNET), ("FunnelConfig", "SequenceClassification", FUNNEL)]
)
def test_weights_of_three_dimensions_in_an_attention_are_no_experts(config: str, head: str, fields: dict[str, Any]) -> None:
    model = made(config, head, fields)
    assert any(p.ndim == 3 for p in model.parameters())
    assert experts_notes(model, find_targets(model, ())) == ([], [])


STACKED = ("mixtral", "qwen2_moe", "olmoe", "deepseek_v3", "gpt_oss", "granitemoe", "jamba", "qwen3_next", "nemotron_h", "mamba")


@pytest.mark.parametrize("name", STACKED)
def test_nothing_is_said_to_be_left_where_all_stacks_are_targets(name: str) -> None:
    family = (FAMILIES | HYBRIDS)[name]
    model = made(family.config, "CausalLM", {**family.fields, "vocab_size": 40, "pad_token_id": 0})
    targets = tuple(t for t in find_targets(model, ()))
    found, unseen = experts_notes(model, targets)
    assert not unseen
    assert len(found) == (name != "mamba")
    stacks = [t for t in targets if t.experts]
    for kept in ([t for t in targets if not t.experts], [t for t in targets if t not in stacks[:1]]):
        _, unseen = experts_notes(model, kept)
        count = len(stacks) - sum(t.experts > 0 for t in kept)
        assert [f"{count} expert weights" in said for said in unseen] == [True] * (count > 0)


@pytest.mark.usefixtures("own_folders")
def test_what_is_left_out_stands_in_every_answer(jetmoe: Path, tmp_path: Path) -> None:
    """Of a new probe, of the cached one, and of a saved one, from the command and from Python."""
    data = write_data(tmp_path, "causal-lm")
    loaded = load_model(str(jetmoe), "causal-lm", device="cpu")
    (said,) = loaded.left_out
    assert "8 expert weights" in said
    assert said in loaded.notes
    asked = ("--samples", 16, "--max-length", 32, "--budget", "50%")
    new, cached, saved, own, probed = (tmp_path / name for name in ("new", "cached", "saved", "own", "probe"))
    for out in (new, cached):
        ran = command("recommend", jetmoe, "--data", data, *asked, "--out", out, "--verbose")
        assert ran.code == 0, ran.err
        assert said in ran.err
        assert ("nothing to compute" in ran.err) == (out == cached)
    assert command("probe", jetmoe, "--data", data, *asked[:4], "--out", probed).code == 0
    assert command("recommend", probed, *asked[4:], "--out", saved).code == 0
    result = advisor.recommend(probed, budget="50%", out=own)
    assert said in result.json["warnings"]
    padding = next(note for note in loaded.notes if note.startswith(type(loaded.model).__name__))
    for out in (new, cached, saved, own):
        assert said in json.loads((out / "recommendation.json").read_text())["warnings"]
        assert f"Warning: {said}" in (out / "report.md").read_text()
        page = unescape((out / "report.html").read_text())
        assert f"<li>{said}</li>" in page
        assert padding not in page


def left_out(folder: Path, task: str = "causal-lm", **options: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = load_model(str(folder), task, device="cpu", **options).left_out
    return found


def test_every_kind_of_module_that_is_left_out_is_named_for_the_answer(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert left_out(tiny_model("llama", "causal-lm")) == ()
    assert left_out(tiny_model("mixtral", "causal-lm")) == ()
    refused, uncalled = left_out(build("mamba", tmp_path / "mamba", task="causal-lm"))
    assert "PEFT gives no LoRA" in refused
    assert "does not call" in uncalled
    fields = {**FAMILIES["deepseek_v3"].fields, "first_k_dense_replace": 1}
    monkeypatch.setitem(FAMILIES, "dense_first", FAMILIES["deepseek_v3"]._replace(fields=fields))
    (renamed,) = left_out(build("dense_first", tmp_path / "dense", task="causal-lm"))
    assert "old names of experts" in renamed


def test_parts_of_models_of_images_and_text_and_modules_of_sentence_transformers_are_named(tmp_path: Path) -> None:
    seeing = vision_language.build("qwen2_5_vl", tmp_path / "seeing")
    (parts,) = left_out(seeing)
    assert "The vision tower and the connector are left as they are" in parts
    assert left_out(seeing, adapt="all") == ()
    folder = build("bert", tmp_path / "bert")
    kinds = ("Pooling", "Dense")
    listed = [{"path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds, start=1)]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "find: "}}))
    (behind,) = left_out(folder, "embedding")
    assert "puts Dense behind this model" in behind
    assert embedder_of(str(folder), {}).notes[0] == behind
    assert len(embedder_of(str(folder), {}).notes) == 2  # prompts are to be kept in mind, and nothing of the model
