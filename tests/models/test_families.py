"""Every family as a user has it: found, probed exactly, advised, exported, applied by PEFT and trained one step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import families
import oracle
import pytest
import transformers
import vision_language
import yaml
from architectures import ARCHITECTURES, FAMILIES, HYBRIDS, Family, build
from command import advisor
from fakes import one_thread

from advisor.core.profiles import load_profiles
from advisor.models.modules import family_profile

TinyModel = Callable[..., Path]
ALL = [(name, kind) for name in FAMILIES for kind in families.kinds_of(name)]
# The others go through test_probe.py and test_export_peft.py. NeoX's attention and MLP get the same gradient.
LIKE_OTHERS = ("qwen2", "gemma3_text", "qwen2_moe", "qwen3_moe", "granitemoe", "olmoe")  # of which one is quick
QUICK = [(name, families.kinds_of(name)[0]) for name in FAMILIES if name not in (*ARCHITECTURES, *LIKE_OTHERS)]
QUICK += [
    ("gpt_neox", "binary"),
    ("bert", "question-answering"),
    ("bert", "embedding"),
    ("distilbert", "token-classification"),
    ("gpt2", "preference"),
    ("gpt2", "kto"),
]
ROW_BY_ROW = "one row at a time"


def assert_works(found: families.Found) -> None:
    assert found.error <= families.TOLERANCE
    assert len(found.chosen) > 1
    assert len(found.chosen) < len(found.targets)
    assert set(found.applied) == set(found.chosen)
    assert not any(part in found.never for name in found.chosen for part in name.split("."))
    assert found.loss_after < found.loss_before


@pytest.mark.parametrize(("name", "kind"), [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in ALL])
def test_a_family_from_discovery_to_a_training_step(tiny_model: TinyModel, tmp_path: Path, name: str, kind: str) -> None:
    model = tiny_model(name, oracle.TASKS.get(kind, "classification"))
    found = families.examine(model, kind, tmp_path)
    assert_works(found)
    profile = family_profile(found.model_type)
    assert profile is not None
    listed = {place.split("/")[1] for place in profile["roles"].values()}
    assert {t.role for t in found.targets if not t.experts} == listed - ({"query"} if name == "deepseek_v3" else set())
    assert any(ROW_BY_ROW in note for note in found.notes) == (name == "deberta_v2")
    assert any("stacks of 4 experts" in note for note in found.notes) == any(t.experts for t in found.targets)


@pytest.mark.parametrize("adapt", ["language", "all"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "qwen2_5_vl" else pytest.mark.slow) for n in families.SEEING])
def test_a_model_of_images_and_text_from_discovery_to_a_training_step(tmp_path: Path, name: str, adapt: str) -> None:
    model = vision_language.build(name, tmp_path / "model")
    found = families.examine(model, families.kinds_of(name)[0], tmp_path, adapt=adapt)
    assert_works(found)
    assert {t.group in ("vision", "connector") for t in found.targets} == ({False} if adapt == "language" else {True, False})


@pytest.mark.parametrize("name", [n if n in ("mamba", "lfm2") else pytest.param(n, marks=pytest.mark.slow) for n in HYBRIDS])
def test_a_hybrid_from_discovery_to_a_training_step(tmp_path: Path, name: str) -> None:
    found = families.examine(build(name, tmp_path / "model", task="causal-lm"), "causal-lm", tmp_path, "float64")
    assert found.error <= families.TOLERANCE
    assert set(found.applied) == set(found.chosen)
    assert found.loss_after < found.loss_before
    groups = {t.group for t in found.targets}
    assert "recurrent" in groups
    assert ("attention" in groups) == (name not in ("mamba", "mamba2", "rwkv"))
    said = " ".join(found.notes)
    assert ("PEFT gives no LoRA" in said) == (name in ("mamba", "mamba2", "falcon_h1", "nemotron_h"))
    assert ("take" in said) == (name == "qwen3_next") or "old names of experts" not in said


def bert_like(config: str, **fields: object) -> Family:
    return FAMILIES["bert"]._replace(config=config, fields={**FAMILIES["bert"].fields, **fields})


def llama_like(config: str, **fields: object) -> Family:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    return FAMILIES["llama"]._replace(config=config, fields={**sizes, "max_position_embeddings": 64, **fields})


QKVO = {f"self_attn.{part}_proj" for part in "qkvo"}
GATED = {f"mlp.{part}_proj" for part in ("gate", "up", "down")}
FUSED = {"self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"}
BERTS = {f"attention.self.{part}" for part in ("query", "key", "value")}
BERTS |= {"attention.output.dense", "intermediate.dense", "output.dense"}
_STACK = {"layers": 2, "ffn_dim": 40, "attention_heads": 4}
BART = {f"{stack}_{what}": size for stack in ("encoder", "decoder") for what, size in _STACK.items()}
BART |= {"d_model": 24, "max_position_embeddings": 64, "decoder_start_token_id": 1}
ATTENTIONS = {f"{which}.{part}_proj" for which in ("self_attn", "encoder_attn") for part in ("q", "k", "v", "out")}
UNLISTED = {  # the roles that names give
    "olmo2": (llama_like("Olmo2Config"), QKVO | GATED),
    "falcon": (llama_like("FalconConfig"), FUSED),  # adds in place
    "bloom": (llama_like("BloomConfig", n_layer=2, n_head=3), FUSED),
    "stablelm": (llama_like("StableLmConfig", num_key_value_heads=3), QKVO | GATED),
    "starcoder2": (llama_like("Starcoder2Config", num_key_value_heads=3), QKVO | {"mlp.c_fc", "mlp.c_proj"}),
    "bart": (FAMILIES["roberta"]._replace(config="BartConfig", fields=BART), ATTENTIONS | {"fc1", "fc2"}),
    "electra": (bert_like("ElectraConfig", embedding_size=16), BERTS | {"embeddings_project"}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("olmo2", "falcon", "bart") else pytest.mark.slow) for n in UNLISTED]
)
def test_a_family_without_a_profile_is_found_by_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    family, roles = UNLISTED[name]
    monkeypatch.setitem(FAMILIES, name, family)
    kind = "seq2seq" if name == "bart" else "binary"
    found = families.examine(build(name, tmp_path / "model", task=oracle.TASKS.get(kind, "classification")), kind, tmp_path)
    assert_works(found)
    assert family_profile(found.model_type) is None
    assert {t.role for t in found.targets} == roles
    assert all((t.group == "attention") == ("attn" in t.role or "attention" in t.role) for t in found.targets)
    assert {t.layer for t in found.targets} - {None} == ({0, 1, 2, 3} if name == "bart" else {0, 1})


def test_modules_that_no_gradient_reaches_are_adapted_by_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longformer changes its queries in place; a classifier reads the first token, whose attention has weights of its own."""
    fields = {**FAMILIES["roberta"].fields, "attention_window": 4}
    monkeypatch.setitem(FAMILIES, "longformer", FAMILIES["roberta"]._replace(config="LongformerConfig", fields=fields))
    found = families.examine(build("longformer", tmp_path / "model"), "binary", tmp_path, "float64")
    assert_works(found)
    last = {f"longformer.encoder.layer.1.attention.self.{role}" for role in ("query", "key", "value")}
    assert last <= {t.name for t in found.targets}
    assert not last & set(found.chosen)
    assert any(note.startswith("Left out: 3 modules that no gradient reaches") for note in found.notes)


@pytest.mark.usefixtures("own_folders")
@pytest.mark.parametrize(
    ("name", "kind", "task_type"),
    [
        ("t5", "seq2seq", "SEQ_2_SEQ_LM"),
        ("vit", "images", None),
        ("qwen3_vl", "turns", "CAUSAL_LM"),
        ("llama", "preference", "CAUSAL_LM"),
        ("llama", "kto", "CAUSAL_LM"),
        pytest.param("bert", "token-classification", "TOKEN_CLS", marks=pytest.mark.slow),
        pytest.param("bert", "question-answering", "QUESTION_ANS", marks=pytest.mark.slow),
    ],
)
def test_the_command_line_advises_confirms_and_verifies(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, task_type: str | None
) -> None:
    """Task inferred from model and data, real runs, and what PEFT makes of the files; no calibration row is of the kind."""
    monkeypatch.setattr("advisor.training.runs.processes", one_thread)
    task, out = oracle.TASKS.get(kind, "classification"), tmp_path / "advice"
    model = vision_language.build(name, tmp_path / "model") if kind == "turns" else tiny_model(name, task)
    data, _ = oracle.write_rows(tmp_path, kind)
    ran = advisor(
        "recommend",
        model,
        "--data",
        data,
        "--eval-data",
        data,
        "--samples",
        16,
        "--train-rows",
        32,
        "--epochs",
        1,
        "--batch-size",
        8,
        "--budget",
        "30%",
        "--confirm",
        2,
        "--confirm-rows",
        32,
        "--out",
        out,
        "--json",
    )
    assert ran.code == 0, ran.err
    found = json.loads((out / "recommendation.json").read_text(encoding="utf-8"))
    far = "read images" if kind in ("images", "turns") else f"was a {kind} task"
    assert f"no calibration run used here {far}" in ran.out + ran.err + json.dumps(found)
    assert len((out / "confirm" / "runs.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    for file in ("lora.yaml", "adapter_config.json"):
        checked = advisor("verify", out / file, "--model", model, "--json")
        assert checked.code == 0, checked.out
        report = json.loads(checked.out)
        assert set(report["modules"]) == set(found["pick"]["targets"])
        assert report["task"] == {"turns": "images-and-text", "preference": "causal-lm", "kto": "causal-lm"}.get(kind, task)
    assert yaml.safe_load((out / "lora.yaml").read_text()).get("task_type") == task_type


def test_every_profile_is_of_a_family_that_is_tried() -> None:
    tried = {profile["family"] for name in FAMILIES if (profile := family_profile(model_type(name)))}
    assert tried == {profile["family"] for profile in load_profiles("models").values()}


def model_type(name: str) -> str:
    seeing = families.SEEING.get(name)
    return seeing.model_type if seeing else str(getattr(transformers, families.ALL[name].config).model_type)


def test_the_page_lists_every_family_with_its_model_type() -> None:
    text = families.PAGE.read_text(encoding="utf-8")
    assert families.families_on(text) == [(family.title, f"`{model_type(name)}`") for name, family in families.ALL.items()]
    assert "**" not in text.partition(families.BEGIN)[2].partition(families.END)[0]  # what failed is bold


XLNET: dict[str, object] = {"d_model": 24, "n_layer": 2, "n_head": 4, "d_inner": 40, "dropout": 0.1}
UNIT_NORMS: dict[str, object] = {"hidden_act": "gelu", "normalization_type": "layer_norm"}
MIXERS = {
    "fnet": bert_like("FNetConfig"),
    "convbert": bert_like("ConvBertConfig", embedding_size=16),
    "xlnet": FAMILIES["roberta"]._replace(config="XLNetConfig", fields=XLNET),
    "mobilebert": bert_like("MobileBertConfig", embedding_size=16, intra_bottleneck_size=16, **UNIT_NORMS),
}


@pytest.mark.parametrize("name", [n if n == "fnet" else pytest.param(n, marks=pytest.mark.slow) for n in MIXERS])
def test_a_row_does_not_depend_on_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """FNet transforms all tokens of a row, ConvBERT and MobileBERT read a token's neighbours, whatever the mask says. XLNet reads
    the last place, and its modules see [tokens, rows, features]."""
    monkeypatch.setitem(FAMILIES, name, MIXERS[name])
    found = families.examine(build(name, tmp_path / "model"), "binary", tmp_path)
    assert_works(found)
    assert any(ROW_BY_ROW in note for note in found.notes)
