"""Checkpoints whose weights are stored in few bits by other libraries than bitsandbytes: read as plain numbers, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from command import write_data
from safetensors.torch import load_file, save_file

from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.targets import LoraSettings, Selection
from advisor.export import FORMATS
from advisor.export.plan import Plan
from advisor.export.proof import prove_file
from advisor.models import placement
from advisor.models.load import LoadedModel, load_model, meta_model
from advisor.models.prepare import Source, prepare
from advisor.probing.gram import relative_error
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings

TinyModel = Callable[..., Path]
BLOCK = 4
FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])  # of three bits; the fourth is the sign


def changed(folder: Path, weights: Mapping[str, torch.Tensor], stored: dict[str, Any]) -> None:
    save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": stored}))


def as_fp8(folder: Path) -> dict[str, torch.Tensor]:
    """Stores the projections of a model in 8-bit floats with a scale for each square block; gives what they stand for."""
    written, meant = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if weight.ndim != 2 or "proj" not in name:
            written[name] = weight
            continue
        blocks = weight.reshape(weight.shape[0] // BLOCK, BLOCK, weight.shape[1] // BLOCK, BLOCK)
        scale = blocks.abs().amax((1, 3)) / 448
        short = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        written[name], written[f"{name}_scale_inv"] = short.reshape(weight.shape), scale
        meant[name] = (short.float() * scale[:, None, :, None]).reshape(weight.shape)
    changed(folder, written, {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic"})
    return meant


def load(folder: Path, **more: Any) -> LoadedModel:
    return load_model(str(folder), "causal-lm", device="cpu", **more)


@pytest.fixture
def llama(tiny_model: TinyModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model("llama", "causal-lm"), tmp_path / "llama"))


def test_fp8_is_read_as_plain_numbers(llama: Path) -> None:
    plain = load(llama)
    meant = as_fp8(llama)
    loaded = load(llama)
    assert loaded.stored == "fp8"
    assert loaded.quantised is None
    assert any("stored as fp8, and plain numbers were made of them" in note for note in loaded.notes)
    assert loaded.targets == plain.targets
    for name, weight in meant.items():
        found = loaded.model.get_parameter(name)
        assert found.dtype == torch.float32
        assert torch.allclose(found, weight, atol=1e-6)
        assert not torch.equal(found, plain.model.get_parameter(name))
    logits = loaded.model(input_ids=torch.tensor([[5, 6, 7]])).logits
    assert torch.isfinite(logits).all()


def test_quantising_them_once_more_is_refused(llama: Path) -> None:
    as_fp8(llama)
    with pytest.raises(BadInput, match=r"stored quantised \(fp8\), and --load-in-4bit would quantise them once more"):
        load(llama, quantised="4bit")


@pytest.mark.parametrize("method", ["gptq", "awq", "aqlm", "hqq", "something-new"])
def test_what_is_not_read_is_refused_with_the_way_out(llama: Path, method: str) -> None:
    changed(llama, load_file(llama / "model.safetensors"), {"quant_method": method, "bits": 4})
    with pytest.raises(BadInput, match=rf"\({method}\), which is not read") as caught:
        load(llama)
    assert "the model it was made from: its modules have the same names" in caught.value.hint


def test_a_package_that_is_missing_is_named(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    changed(llama, load_file(llama / "model.safetensors"), {"quant_method": "compressed-tensors"})
    with pytest.raises(BadInput, match="compressed_tensors is not installed") as caught:
        load(llama)
    assert caught.value.hint == "pip install compressed-tensors"


def test_mxfp4_experts_are_read_as_plain_numbers(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import architectures

    wide = architectures.FAMILIES["gpt_oss"]
    fields = {**wide.fields, "hidden_size": 32, "intermediate_size": 64}
    monkeypatch.setitem(architectures.FAMILIES, "gpt_oss", wide._replace(fields=fields))
    folder = architectures.build("gpt_oss", tmp_path / "model", task="causal-lm")
    generator = torch.Generator().manual_seed(0)
    written, meant = {}, {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if weight.ndim != 3:
            written[name] = weight
            continue
        experts, inputs, outputs = weight.shape
        shape = (experts, outputs, inputs // 32, 16)  # two values a byte, one scale for 32
        packed = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        scales = torch.randint(120, 126, shape[:3], dtype=torch.uint8, generator=generator)
        written[f"{name}_blocks"], written[f"{name}_scales"] = packed, scales
        halves = torch.stack([packed & 15, packed >> 4], -1).flatten(-2).long()
        values = FP4[halves & 7] * torch.where(halves >= 8, -1.0, 1.0) * 2.0 ** (scales.float()[..., None] - 127)
        meant[name] = values.flatten(2).transpose(1, 2)
    assert meant
    changed(
        folder, written, {"quant_method": "mxfp4", "modules_to_not_convert": ["self_attn", "router", "embed_tokens", "lm_head"]}
    )
    loaded = load(folder)
    assert loaded.stored == "mxfp4"
    for name, weight in meant.items():
        assert torch.allclose(loaded.model.get_parameter(name).float(), weight, atol=1e-6), name
    assert {t.name for t in loaded.targets if t.experts} == set(meant)


@pytest.mark.parametrize(
    ("stored", "said"),
    [("4bit", "4-bit weights: load it with load_in_4bit"), ("fp8", "stored as fp8"), ("mxfp4", "Mxfp4Config(dequantize=True)")],
)
def test_exports_say_how_the_base_is_stored(tiny_model: TinyModel, stored: str, said: str) -> None:
    folder = str(tiny_model("llama", "causal-lm"))
    targets = load(Path(folder)).targets
    plan = Plan(
        Selection("some", (targets[0].name, targets[2].name)), LoraSettings(4, 8), targets, "causal-lm", (), folder, "llama"
    )
    files = {}
    for target in FORMATS.values():
        for name, file in target.render(Plan(**{**vars(plan), "stored": stored})).files.items():
            prove_file(target, name, file, plan, meta_model(folder, "causal-lm"))
            files[name] = file.text
    files.pop("adapter_config.json")
    assert all(said in text for text in files.values())
    loads = {
        "axolotl.yaml": "adapter: qlora\nload_in_4bit: true",
        "llama_factory.yaml": "quantization_bit: 4",
        "unsloth_train.py": "load_in_4bit=True",
        "trl.yaml": "load_in_4bit: true",
    }
    assert all((line in files[name]) == (stored == "4bit") for name, line in loads.items())


@pytest.mark.parametrize("is_made_for_it", [False, True])
def test_a_bfloat16_checkpoint_stays_one_where_the_cpu_computes_in_it(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_made_for_it: bool
) -> None:
    monkeypatch.setattr(placement, "computes_in_bfloat16", lambda: is_made_for_it)
    assert load(llama).dtype == torch.float32  # as it is stored
    load(llama, dtype="bfloat16").model.save_pretrained(llama)
    wanted = torch.bfloat16 if is_made_for_it else torch.float32
    assert load(llama).dtype == wanted
    assert load(llama, dtype="float32").dtype == torch.float32
    prepared = prepare(Source(str(llama), str(write_data(tmp_path, "causal-lm")), device="cpu"), Session())
    assert prepared.dtype == str(wanted).removeprefix("torch.")  # known before the weights are read
    assert prepared.loaded.dtype == wanted


def test_blocks_of_a_bfloat16_pass_are_near_those_of_a_float32_one(llama: Path, tmp_path: Path) -> None:
    load(llama, dtype="bfloat16").model.save_pretrained(llama)  # both then have the same weights
    data, found = str(write_data(tmp_path, "causal-lm")), {}
    for dtype in ("float32", "bfloat16"):
        prepared = prepare(Source(str(llama), data, device="cpu", dtype=dtype), Session())
        found[dtype] = run_probe(prepared, ProbeSettings(linearity=False), tmp_path / dtype, Session()).gradient_blocks
    for exact, rough in zip(found["float32"], found["bfloat16"], strict=True):
        assert 0 < relative_error(torch.from_numpy(rough), torch.from_numpy(exact)) < 0.05
