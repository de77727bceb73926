"""Weights, config.json and index that do not belong together are told apart from harmless extras."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from advisor.core.errors import BadInput
from advisor.models.checkpoint import INDEX, check_fields
from advisor.models.load import LoadedModel, load_model

TinyModel = Callable[..., Path]
Weights = dict[str, torch.Tensor]
FEWER = {"bert": "num_hidden_layers", "gpt2": "n_layer", "t5": "num_layers", "mixtral": "num_hidden_layers"}
TASK = {"bert": "classification", "t5": "seq2seq"}


@pytest.fixture
def copied(tiny_model: TinyModel, tmp_path: Path) -> Callable[..., Path]:
    return lambda name, task="causal-lm": Path(shutil.copytree(tiny_model(name, task), tmp_path / name))


def load(folder: Path, task: str = "causal-lm") -> LoadedModel:
    return load_model(str(folder), task, num_labels=2, device="cpu")


def set_fields(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def change(folder: Path, changed: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    save_file({key: value.clone() for key, value in changed(load_file(file)).items()}, file, {"format": "pt"})


def without(end: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if not key.endswith(end)}


def in_shards(folder: Path) -> dict[str, str]:
    """Cuts the weights in two shards, without an index; gives the shard of each tensor."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = (names[: len(names) // 2], names[len(names) // 2 :])
    shards = {f"model-{i}-of-2.safetensors": part for i, part in enumerate(parts, 1)}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, folder / shard, {"format": "pt"})
    return {name: shard for shard, part in shards.items() for name in part}


def write_index(folder: Path, named: Any, **more: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": named, **more}))


def test_an_output_layer_that_is_not_tied_must_be_in_the_files(copied: Callable[..., Path]) -> None:
    folder = copied("llama")
    set_fields(folder / "config.json", tie_word_embeddings=False)
    change(folder, without("lm_head.weight"))
    with pytest.raises(BadInput, match=r"lm_head.weight is not in the .* set tie_word_embeddings to true"):
        load(folder)
    set_fields(folder / "config.json", tie_word_embeddings=True)
    loaded = load(folder)
    assert loaded.warnings == ()
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight


@pytest.mark.parametrize(("name", "end"), [("bert", "word_embeddings.weight"), ("gpt2", "wte.weight")])
def test_a_classifier_without_an_embedding_is_refused(copied: Callable[..., Path], name: str, end: str) -> None:
    folder = copied(name, "classification")
    change(folder, without(end))
    with pytest.raises(BadInput, match=f"{end} is not in the .* so it would start from random values. Copy all"):
        load(folder, "classification")


def test_a_norm_that_is_missing_is_told(copied: Callable[..., Path]) -> None:
    folder = copied("llama")
    change(folder, without("model.norm.weight"))
    assert "model.norm.weight" in load(folder).warnings[0]


@pytest.mark.parametrize("name", FEWER)
def test_more_blocks_than_config_json_describes_are_refused(copied: Callable[..., Path], name: str) -> None:
    task = TASK.get(name, "causal-lm")
    folder = copied(name, task)
    set_fields(folder / "config.json", **{FEWER[name]: 1})
    with pytest.raises(BadInput, match=r"hold more blocks \S+ than the 1 of config.json \(first: \S+\.1\)"):
        load(folder, task)


def test_blocks_of_a_base_model_are_counted_too(copied: Callable[..., Path]) -> None:
    folder = copied("llama")
    change(folder, lambda weights: {key.removeprefix("model."): value for key, value in weights.items()})
    assert load(folder).warnings == ()
    set_fields(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(BadInput, match="hold more blocks layers than the 1"):
        load(folder)


def test_what_checkpoints_usually_hold_besides_is_no_fault(copied: Callable[..., Path]) -> None:
    folder = copied("llama")
    one, square = torch.ones(3), torch.ones(3, 3)

    def more(weights: Weights) -> Weights:
        block = {key.replace(".1.", ".9."): value for key, value in weights.items() if "layers.1." in key}
        return {
            **weights,
            "classifier.weight": one,
            "pooler.dense.weight": square,
            "vision_tower.layers.0.fc.weight": square,
            "mtp.layers.0.mlp.up_proj.weight": square,
            "model.layers.0.self_attn.rotary_emb.inv_freq": one,
            "model.layers.0.self_attn.bias": square,
            "model.layers.0.mlp.up_proj.weight.absmax": one,
            **(block | {"model.layers.9.eh_proj.weight": square} if ahead else {}),
        }

    ahead = False
    change(folder, more)
    assert load(folder).warnings == ()
    ahead = True  # a block more, for predicting more tokens at once, is unlike the model's own
    change(folder, more)
    assert "belong to blocks of the model" in load(folder).warnings[0]


def test_a_bias_that_config_json_has_no_place_for_is_told(copied: Callable[..., Path]) -> None:
    folder = copied("llama")
    change(folder, lambda weights: {**weights, "model.layers.0.self_attn.q_proj.bias": torch.ones(24)})
    (warning,) = load(folder).warnings
    assert warning.startswith("1 tensors of the *.safetensors files belong to blocks of the model")
    assert "model.layers.0.self_attn.q_proj.bias" in warning


def test_shards_with_their_index_are_read(copied: Callable[..., Path]) -> None:
    folder = copied("llama")
    whole = load(folder).model.state_dict()
    named = in_shards(folder)
    write_index(folder, {**named, "a.tied.weight": "model-2-of-2.safetensors"})  # such are listed, and in no file
    read = load(folder).model.state_dict()
    assert all(torch.equal(read[key], whole[key]) for key in whole)


def moved(named: dict[str, str]) -> dict[str, str]:
    return {**named, min(named): max(named.values())}


def first_shard(named: dict[str, str]) -> dict[str, str]:
    return {key: shard for key, shard in named.items() if shard == min(named.values())}


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (None, rf"{INDEX} is missing, which says what is in the 2 shards there \(first: model-1-of-2.safetensors\)"),
        (lambda named: {}, "weight_map is empty"),
        (moved, r"lm_head.weight is said to be in model-2-of-2.safetensors, and is in model-1-of-2.safetensors"),
        (lambda named: dict.fromkeys(named, min(named.values())), r"is said to be in model-1-\S+, and is in model-2-"),
        (lambda named: {k: v for k, v in named.items() if k != min(named)}, "leaves out lm_head.weight, which model-1-of-2"),
        (first_shard, r"leaves out model.layers\S+, which model-2-of-2.safetensors holds"),
    ],
)
def test_an_index_that_does_not_fit_the_shards_is_named(copied: Callable[..., Path], index: Any, says: str) -> None:
    folder = copied("llama")
    named = in_shards(folder)
    if index is not None:
        write_index(folder, index(named))
    with pytest.raises(BadInput, match=says):
        load(folder)


@pytest.mark.parametrize("metadata", [None, []])
def test_an_index_without_metadata_is_named(copied: Callable[..., Path], metadata: Any) -> None:
    folder = copied("llama")
    write_index(folder, in_shards(folder), metadata=metadata)
    with pytest.raises(BadInput, match="metadata is missing, or no object"):
        load(folder)


def test_a_shard_that_lacks_what_the_index_says_is_named(copied: Callable[..., Path]) -> None:
    folder = copied("llama")
    write_index(folder, in_shards(folder))
    save_file({"other": torch.ones(1)}, folder / "model-2-of-2.safetensors", {"format": "pt"})
    write_index(folder, {**json.loads((folder / INDEX).read_text())["weight_map"], "other": "model-2-of-2.safetensors"})
    with pytest.raises(BadInput, match=r"says that model\.\S+ is in model-2-of-2.safetensors, which does not hold it"):
        load(folder)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rope_theta": 0}, "rope_theta is 0; it must be above 0"),
        ({"rope_theta": "10000"}, "rope_theta is '10000', not a finite number"),
        ({"rope_theta": float("nan")}, "rope_theta is nan, not a finite number"),
        ({"text_config": {"rope_theta": -1.0}}, "text_config.rope_theta is -1.0; it must be above 0"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 0.0}}}, "rope_parameters.full_attention.rope_theta is 0.0"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor is 0; it must be above 0"),
        ({"rope_scaling": {"rope_type": "llama3", "low_freq_factor": -1}}, "rope_scaling.low_freq_factor is -1"),
        ({"rope_scaling": {"short_factor": [1.0, 0]}}, "rope_scaling.short_factor is 0; it must be above 0"),
        ({"rotary_emb_base": -3}, "rotary_emb_base is -3"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps is -1e-05; it must be at least 0"),
        ({"layer_norm_epsilon": "tiny"}, "layer_norm_epsilon is 'tiny', not a finite number"),
        ({"layernorm_epsilon": float("inf")}, "layernorm_epsilon is inf, not a finite number"),
        ({"vision_config": {"layer_norm_eps": -1.0}}, "vision_config.layer_norm_eps is -1.0"),
        ({"max_position_embeddings": 1}, "max_position_embeddings is 1; a text needs room"),
        ({"text_config": {"n_positions": 0}}, "text_config.n_positions is 0; a text needs room"),
    ],
)
def test_a_number_that_gives_nans_is_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        check_fields(fields, "config.json")


def test_usual_numbers_pass() -> None:
    rope = {"rope_type": "yarn", "factor": 40, "attention_factor": None, "mscale_all_dim": 0, "long_factor": [1, 2.5]}
    check_fields(
        {"rope_scaling": rope, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "layer_norm_eps": None, "n_positions": 2}, "config.json"
    )


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_a_file_that_holds_no_object_is_named(copied: Callable[..., Path], name: str) -> None:
    folder = copied("llama")
    (folder / name).write_text("[1]")
    with pytest.raises(BadInput, match=rf"{name}: its content is \[1\], not an object"):
        load(folder)


@pytest.mark.parametrize("length", ["512", 1, -1, True, [64], float("nan")])
def test_a_tokenizer_whose_longest_text_is_no_length_is_named(copied: Callable[..., Path], length: Any) -> None:
    folder = copied("llama")
    set_fields(folder / "tokenizer_config.json", model_max_length=length)
    with pytest.raises(BadInput, match=r"model_max_length in tokenizer_config.json is .*, not a number of at least 2"):
        load(folder)


@pytest.mark.parametrize(("name", "task"), [("bert", "classification"), ("llama", "causal-lm")])
def test_outputs_are_taken_by_name_whatever_the_config_says(copied: Callable[..., Path], name: str, task: str) -> None:
    folder = copied(name, task)
    set_fields(folder / "config.json", return_dict=False)
    found = load(folder, task).model(input_ids=torch.tensor([[5, 6, 7]]))
    assert found.logits.shape[0] == 1
