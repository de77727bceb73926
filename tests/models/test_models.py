"""Loading models and finding what LoRA can adapt; PEFT itself is the oracle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import CLASSIFIERS, DECODERS, ENCODER_DECODERS, FAMILIES, build
from fakes import make_probe
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from advisor.core.errors import BadInput
from advisor.export import baseline
from advisor.models.load import load_model, meta_model
from advisor.models.modules import input_embeddings

TinyModel = Callable[..., Path]
HEADS = {  # the others: score
    "bert": ("classifier",),
    "roberta": ("classifier",),
    "distilbert": ("pre_classifier", "classifier"),
    "deberta_v2": ("pooler", "classifier"),
    "modernbert": ("head", "classifier"),
    "vit": ("classifier",),
}
APART = frozenset({"query", "key", "value", "output"})
STACKED = frozenset({"experts.gate_up", "experts.down"})
ROLES = {
    **dict.fromkeys(FAMILIES, APART | {"gate", "up", "down"}),
    **dict.fromkeys(["bert", "roberta", "gpt_neo", "opt", "distilbert", "deberta_v2", "gptj", "vit"], APART | {"up", "down"}),
    **dict.fromkeys(["gpt2", "gpt_neox"], frozenset({"qkv", "output", "up", "down"})),
    **dict.fromkeys(["modernbert", "phi3"], frozenset({"qkv", "output", "gate_up", "down"})),
    **dict.fromkeys(["mixtral", "qwen3_moe", "gpt_oss"], APART | STACKED),
    "qwen2_moe": APART | STACKED | {"gate", "up", "down"},
    "deepseek_v3": STACKED | {"query_a", "query_b", "kv_a", "kv_b", "output"},
}
QV = {"gpt2": {"qkv"}, "gpt_neox": {"qkv"}, "modernbert": {"qkv"}, "phi3": {"qkv"}, "deepseek_v3": {"query", "query_b", "kv_b"}}
MLP = {"gate", "up", "gate_up", "down", *STACKED}
CASES = [(name, "classification") for name in CLASSIFIERS] + [(name, "causal-lm") for name in DECODERS]
CASES += [(name, "seq2seq") for name in ENCODER_DECODERS]
PEFT_TASKS = {"causal-lm": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}


def load(folder: Path, task: str = "classification", num_labels: int = 2, **options: Any) -> Any:
    return load_model(str(folder), task, num_labels=num_labels, device="cpu", **options)


def left_out(name: str, head: tuple[str, ...]) -> bool:
    """Poolers, the gate of a shared expert, and what a classifier trains in full; PEFT leaves out the last layer only."""
    parts = name.split(".")
    return "pooler" in parts or "shared_expert_gate" in parts or parts[0] in head


@pytest.mark.parametrize(("name", "task"), CASES)
def test_targets_are_what_all_linear_wraps_less_poolers(tiny_model: TinyModel, name: str, task: str) -> None:
    loaded = load(tiny_model(name, task), task)
    peft_task = PEFT_TASKS.get(task, "SEQ_CLS")
    config = LoraConfig(  # PEFT trips over a head of two layers, which it would train both ways
        target_modules="all-linear", task_type=peft_task, exclude_modules=list(loaded.head) or None
    )
    oracle: Any = get_peft_model(loaded.model, config)
    wrapped = [n for n in oracle.base_model.targeted_module_names if not left_out(n, loaded.head)]
    linear = [t for t in loaded.targets if not t.experts]
    assert [t.name for t in linear] == wrapped
    for target in linear:
        layer = oracle.base_model.model.get_submodule(target.name)
        assert (target.in_features, target.out_features) == (layer.in_features, layer.out_features)
        assert target.kind == ("conv1d" if type(layer.base_layer).__name__ == "Conv1D" else "linear")
        assert target.lora_params(3) == 3 * (layer.in_features + layer.out_features)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_layer_has_every_role_of_the_family_in_attention_or_mlp(tiny_model: TinyModel, name: str) -> None:
    loaded = load(tiny_model(name))
    layers = sorted({t.layer for t in loaded.targets})
    assert layers == list(range(3 if name in ("llama", "modernbert") else 2))
    for layer in layers:
        groups = {t.role: t.group for t in loaded.targets if t.layer == layer}
        assert set(groups) == ROLES[name]
        assert {role for role, group in groups.items() if group == "mlp"} == ROLES[name] & MLP
        assert set(groups.values()) <= {"attention", "mlp"}
    assert set(loaded.qv_roles()) == QV.get(name, {"query", "value"})


def test_a_decoders_layers_follow_its_encoders(tiny_model: TinyModel) -> None:
    loaded = load(tiny_model("t5", "seq2seq"), "seq2seq")
    stacks = {name: [t for t in loaded.targets if t.name.startswith(name)] for name in ("encoder.", "decoder.")}
    assert [sorted({t.layer for t in stack}) for stack in stacks.values()] == [[0, 1], [2, 3, 4]]
    own, cross = APART | {"gate", "up", "down"}, {f"cross.{role}" for role in APART}
    for stack, roles in zip(stacks.values(), (own, own | cross), strict=True):
        for layer in {t.layer for t in stack}:
            here = [t for t in stack if t.layer == layer]
            assert {t.role for t in here} == roles
            assert len(here) == len(roles)  # one module for each role: no two share a place
            assert {t.role for t in here if t.group == "mlp"} == roles & MLP
    assert set(loaded.qv_roles()) == {"query", "value", "cross.query", "cross.value"}
    assert "Layers 0 to 1 are encoder.block, 2 to 4 are decoder.block." in loaded.notes


def test_the_embeddings_of_both_stacks_are_found(tiny_model: TinyModel) -> None:
    """transformers gives each stack a module of its own, and calls the one that it names nowhere."""
    model = load(tiny_model("t5", "seq2seq"), "seq2seq").model
    called: list[Any] = []
    found = input_embeddings(model)
    for module in found:
        module.register_forward_hook(lambda module, inputs, output: called.append(module))
    model(input_ids=torch.tensor([[5, 6]]), decoder_input_ids=torch.tensor([[0, 7]]))
    assert called == [model.encoder.embed_tokens, model.decoder.embed_tokens]
    vit = load(tiny_model("vit")).model
    assert input_embeddings(vit) == [vit.vit.embeddings.patch_embeddings.projection]


@pytest.mark.parametrize(
    ("name", "saved_as", "task", "says"),
    [
        ("t5", "seq2seq", "causal-lm", "an encoder-decoder, so causal-lm is not its task.*--task seq2seq"),
        ("t5", "seq2seq", "classification", "an encoder-decoder.*--task seq2seq with --label-column to learn the labels"),
        ("gpt2", "causal-lm", "seq2seq", "no encoder-decoder, so seq2seq is not its task.*--task causal-lm"),
        ("vit", "classification", "causal-lm", "vit reads images, so causal-lm is not its task.*--task classification"),
    ],
)
def test_a_task_that_the_family_does_not_do_is_refused(
    tiny_model: TinyModel, name: str, saved_as: str, task: str, says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        load(tiny_model(name, saved_as), task)


def test_tokens_of_an_image(tiny_model: TinyModel) -> None:
    loaded = load(tiny_model("vit"))
    assert loaded.reads == "images"
    assert loaded.image_tokens == loaded.max_length == 4 * 4 + 1


def test_an_unlisted_family_falls_back_to_names(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advisor.models.modules.family_profile", lambda model_type: None)
    loaded = load(tiny_model("bert"))
    assert {t.group for t in loaded.targets} == {"attention", "mlp"}
    assert "attention.self.query" in {t.role for t in loaded.targets}
    assert not any("pooler" in t.name for t in loaded.targets)


@pytest.mark.parametrize("name", ["qwen2_moe", "mixtral", "llama"])
def test_stacks_of_experts_are_named_in_a_sentence(tiny_model: TinyModel, name: str) -> None:
    loaded = load(tiny_model(name))
    said = [note for note in loaded.notes if "expert" in note]
    weights = {n: p.numel() for n, p in loaded.model.named_parameters()}
    experts = {n: size for n, size in weights.items() if ".experts." in n}
    assert {t.name for t in loaded.targets if t.experts} == set(experts)
    if not experts:
        assert not said
        return
    share = sum(experts.values()) / sum(weights.values())
    assert said[0].startswith(
        f"Mixture of experts: {len(experts)} stacks of 4 experts ({share:.0%} of the parameters), 2 of which"
    )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_bare_checkpoint_gets_a_new_head_drawn_by_the_seed(tiny_model: TinyModel, name: str) -> None:
    folder = tiny_model(name)
    before = torch.random.get_rng_state()
    first, again, other = load(folder), load(folder), load(folder, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    head = first.head[-1]
    assert first.head == HEADS.get(name, ("score",))
    assert first.head_is_new
    assert not first.warnings
    weights = [dict(m.model.get_submodule(head).named_parameters()) for m in (first, again, other)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert not all(torch.equal(weights[0][k], weights[2][k]) for k in weights[0])
    assert first.fingerprint == again.fingerprint == other.fingerprint


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_saved_head_is_kept(tiny_model: TinyModel, name: str) -> None:
    folder = tiny_model(name, num_labels=3, with_head=True)
    loaded = load(folder, num_labels=3)
    assert not loaded.head_is_new
    saved = load_file(folder / "model.safetensors")
    for head in loaded.head:
        for key, parameter in loaded.model.get_submodule(head).named_parameters():
            assert torch.equal(parameter, saved[f"{head}.{key}"])


@pytest.mark.parametrize("name", DECODERS)
def test_a_language_model_has_no_head_to_train(tiny_model: TinyModel, name: str) -> None:
    loaded = load(tiny_model(name, "causal-lm"), "causal-lm")
    assert loaded.head == ()
    assert not loaded.head_is_new
    assert not loaded.warnings


def test_regression_has_one_output(tiny_model: TinyModel) -> None:
    loaded = load(tiny_model("bert"), "regression", num_labels=1)
    assert loaded.model.config.problem_type == "regression"
    assert loaded.model.classifier.out_features == 1


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if FAMILIES[name].processor is None])
def test_a_loaded_model_is_frozen_in_eval_mode_and_can_pad(tiny_model: TinyModel, name: str) -> None:
    loaded = load(tiny_model(name))
    assert not any(m.training for m in loaded.model.modules())
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.max_length == FAMILIES[name].tokens
    texts = ["a good film", "a very bad film and a dull story"]
    batch = loaded.tokenizer(texts, padding=True, return_tensors="pt")
    alone = loaded.tokenizer(texts[:1], return_tensors="pt")
    with torch.no_grad():
        together = loaded.model(**batch).logits[:1]
        assert torch.allclose(together, loaded.model(**alone).logits, atol=1e-5)


def test_a_config_with_another_padding_token_than_the_tokenizer(tiny_model: TinyModel, tmp_path: Path) -> None:
    """As OLMo's default: the classifier would score a padding token of all rows but the longest."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("llama"), folder)
    _config(pad_token_id=5)(folder)
    loaded = load(folder)
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id
    assert any("not 5, as the config has it" in note for note in loaded.notes)
    assert not any("adding" in note for note in load(tiny_model("llama")).notes)
    texts = ["a good film", "a very bad film and a dull story"]
    with torch.no_grad():
        together = loaded.model(**loaded.tokenizer(texts, padding=True, return_tensors="pt")).logits[:1]
        alone = loaded.model(**loaded.tokenizer(texts[:1], return_tensors="pt")).logits
    assert torch.allclose(together, alone, atol=1e-5)


def test_tensors_that_the_checkpoint_lacks_are_reported(tmp_path: Path) -> None:
    folder = build("bert", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.0.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (warning,) = load(folder).warnings
    assert "bert.encoder.layer.0.output.dense.weight" in warning


@pytest.mark.parametrize(("name", "task"), CASES)
def test_the_meta_model_has_the_same_parameters_and_no_memory(tiny_model: TinyModel, name: str, task: str) -> None:
    folder = tiny_model(name, task)
    meta = meta_model(str(folder), task, num_labels=2)
    assert {p.device.type for p in meta.parameters()} == {"meta"}
    shapes = {k: p.shape for k, p in load(folder, task).model.named_parameters()}
    assert {k: p.shape for k, p in meta.named_parameters()} == shapes


def test_the_meta_model_can_take_its_labels_from_the_config(tiny_model: TinyModel) -> None:
    trained = str(tiny_model("bert", num_labels=3, with_head=True))
    for folder, labels in ((trained, 3), (str(tiny_model("bert")), 2)):
        model: Any = meta_model(folder, "classification", num_labels=None)
        assert model.classifier.out_features == labels


def test_a_config_is_proven_on_the_revision_that_was_probed(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    read = transformers.AutoConfig.from_pretrained

    def noted(name: str, revision: str | None, **options: Any) -> Any:
        asked.append(revision)
        return read(name, **options)

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", noted)
    probe = make_probe(classes=3, model=str(tiny_model("bert")), revision="c0ffee")
    model: Any = baseline.empty_model(probe, False)
    assert set(asked) == {"c0ffee"}
    assert model.classifier.out_features == 3


def _drop(pattern: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for file in folder.glob(pattern):
            file.unlink()

    return change


def _cut(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])

    return change


def _pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n")


def _config(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_drop("config.json"), "no config.json"),
        (_drop("*.safetensors"), "no \\*.safetensors"),
        (_drop("tokenizer*"), "tokenizer"),
        (_cut("config.json"), "config.json cannot be read"),
        (_cut("model.safetensors"), "model.safetensors cannot be read"),
        (_pointer, "model.safetensors cannot be read .*git lfs pull"),
        (_cut("tokenizer.json"), "tokenizer cannot be loaded"),
        (_config(model_type="no_such_family"), "config cannot be read"),
        (_config(hidden_size="wide"), "hidden_size is 'wide', not a whole number"),
        (_config(model_type="t5", classifier_dropout=0.0, is_encoder_decoder=True), "t5 is an encoder-decoder"),
        (_config(hidden_size=20), "is 24 in the \\*.safetensors files, and 20 by config.json"),
    ],
)
def test_damaged_folders_are_refused(tiny_model: TinyModel, tmp_path: Path, change: Callable[[Path], None], says: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("bert"), folder)
    change(folder)
    with pytest.raises(BadInput, match=says) as caught:
        load(folder)
    assert caught.value.exit_code == 2
    assert str(folder) in caught.value.what
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c", "no-such-org/no-such-model"])
def test_names_that_lead_nowhere_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match=name):
        load_model(name, "classification", num_labels=2, device="cpu")


def test_a_trained_head_of_another_size_is_refused(tiny_model: TinyModel) -> None:
    with pytest.raises(BadInput, match="trained head has 3 outputs, the data needs 2"):
        load(tiny_model("bert", num_labels=3, with_head=True))


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta", "mps"])
def test_unusable_devices_are_refused(tiny_model: TinyModel, device: str) -> None:
    with pytest.raises(BadInput, match=f"--device {device}"):
        load_model(str(tiny_model("bert")), "classification", num_labels=2, device=device)


def test_unknown_dtypes_are_refused_and_known_ones_used(tiny_model: TinyModel) -> None:
    with pytest.raises(BadInput, match="--dtype int3"):
        load(tiny_model("bert"), dtype="int3")
    assert load(tiny_model("bert")).dtype == torch.float32
    assert load(tiny_model("bert"), dtype="bfloat16").dtype == torch.bfloat16


def test_a_family_without_such_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match="no causal-lm model"):
        meta_model(str(tmp_path), "causal-lm")


def test_the_embedded_minilm_loads(minilm: Path) -> None:
    loaded = load(minilm)
    assert len(loaded.targets) == 36
    assert loaded.head_is_new
    assert not loaded.warnings


def test_an_encoder_without_a_pooler_is_told_the_way_out(tmp_path: Path) -> None:
    """As most sentence encoders are saved: the classifier's pooler is drawn at random, and PEFT freezes it."""
    folder = build("bert", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    assert len(kept) == len(weights) - 2
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load(folder)
    assert len(loaded.warnings) == 1
    assert loaded.warnings[0].startswith("bert.pooler is not in the checkpoint")
    assert "add 'pooler' to modules_to_save, beside classifier" in loaded.warnings[0]
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], modules_to_save=["classifier", "pooler"])
    wrapped: Any = get_peft_model(loaded.model, config)
    trained = {name for name, p in wrapped.named_parameters() if p.requires_grad}
    assert any("pooler.modules_to_save" in name for name in trained)
    assert not load(build("bert", tmp_path / "whole")).warnings


def test_a_class_that_would_start_from_random_weights_is_refused_with_the_way_out(tiny_model: TinyModel, tmp_path: Path) -> None:
    """transformers calls Llama's blocks by another name in this class than a language model's checkpoint has them."""
    written = tiny_model("llama", "causal-lm")
    loading = transformers.AutoModelForQuestionAnswering.from_pretrained(written, output_loading_info=True)[1]
    assert "transformer.layers.0.self_attn.q_proj.weight" in loading["missing_keys"]
    with pytest.raises(
        BadInput, match=r"LlamaForQuestionAnswering calls its blocks transformer.layers, LlamaForCausalLM by another"
    ):
        load_model(str(written), "question-answering", num_labels=2, device="cpu")
    transformers.AutoModel.from_pretrained(written).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(written).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), "question-answering", num_labels=2, device="cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(written).model.layers[1].mlp.down_proj.weight
    assert torch.equal(loaded.model.transformer.layers[1].mlp.down_proj.weight, theirs)
