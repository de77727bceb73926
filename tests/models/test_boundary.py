"""A model's folder that cannot be used ends in one line that names the cause, before memory or time is spent."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import FAMILIES, build
from safetensors.torch import load_file, save_file
from torch import nn

from advisor.core.deadline import deadline
from advisor.core.errors import AdvisorError, BadInput, OutOfMemory, loading
from advisor.data.dataset import load_dataset
from advisor.models.adaptable import NOT_CALLED, NOT_LINEAR
from advisor.models.config import check_task
from advisor.models.encode import encode
from advisor.models.load import load_model
from advisor.models.modules import called, find_targets
from advisor.probing.capture import capturing

LAYERS = {"layers": 1, "ffn_dim": 8, "attention_heads": 2}
TinyModel = Callable[..., Path]
Change = Callable[[Path], None]


@pytest.fixture
def llama(tiny_model: TinyModel, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("llama", "causal-lm"), folder)
    return folder


def config(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return change


def sharded(name: Any) -> Change:
    """The weights in a shard, and an index that names another for all."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        names = load_file(folder / "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, name)})
        )

    return change


def pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def template(text: str) -> Change:
    return lambda folder: (folder / "chat_template.jinja").write_text(text) and None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (config(hidden_size=10**9), "hidden_size is 1,000,000,000, and the largest tensor"),
        (config(num_hidden_layers=10**6), "num_hidden_layers is 1,000,000; more than"),
        (config(num_hidden_layers=10**40), "num_hidden_layers is huge"),
        (config(vocab_size=10**12), "vocab_size"),
        (config(num_hidden_layers=7), "of the 7 blocks in config.json have no weights"),
        (config(num_attention_heads=0), "num_attention_heads is 0"),
        (config(num_attention_heads=-4), "num_attention_heads is -4"),
        (config(hidden_size="wide"), "hidden_size is 'wide'"),
        (config(hidden_act="sillu"), "hidden_act is 'sillu', which is not known"),
        (config(architectures=[0.5]), "architectures is .0.5., not a list of class names"),
        (config(id2label=[1, 2]), "id2label is .1, 2., not an object"),
        (config(attention_dropout=5), "attention_dropout is 5; it must be from 0 to 1"),
        (config(num_labels=10**9), "num_labels is 1,000,000,000; more than 1,000,000"),
        (config(dtype="bf16"), "dtype is 'bf16', which is none of auto, .*bfloat16"),
        (config(torch_dtype="torch.bfloat16"), "torch_dtype is 'torch.bfloat16', which is none of"),
        (config(quantization_config="gptq"), "quantization_config is 'gptq', not an object"),
        (config(rope_parameters=3), "rope_parameters is 3, not an object"),
        (config(rope_parameters={"rope_type": "odd"}), "rope_parameters.rope_type is 'odd', which is not known"),
        (config(num_key_value_heads=4), "k_proj.weight is 12 x 24 in the .*files, and 24 x 24 by config.json"),
        (sharded("model-2.safetensors"), "model-2.safetensors is missing, which model.safetensors.index.json names"),
        (sharded("../config.json"), "weight_map names '../config.json', which is not beside it"),
        (sharded(3), "weight_map is no object that names a file"),
        (lambda folder: (folder / "config.json").write_text("null"), "its content is null"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "config.json cannot be read"),
        (config(quantization_config={"quant_method": "gptq", "bits": 4}), "stored quantised .gptq."),
        (config(quantization_config={"quant_method": "awq", "bits": 4}), "stored quantised .awq., which is not read."),
        (config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}), "hold plain ones"),
        (config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}), "hold plain ones"),
        (config(text_config={}), "text_config is there, which models of the family llama do not have"),
        (config(head_dim=7), "validator 'validate_rope': \\w+: "),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "would apply that adapter"),
        (pipe("tokenizer.json"), "tokenizer.json: a pipe"),
        (pipe("unknown.bin"), "unknown.bin: a pipe"),
        (lambda folder: (folder / "other.json").mkdir(), "other.json: a folder where"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_at_once(llama: Path, change: Change, says: str) -> None:
    change(llama)
    begun = time.monotonic()
    with pytest.raises(BadInput, match=says) as caught:
        load_model(str(llama), "causal-lm", device="cpu")
    assert time.monotonic() - begun < 30
    assert len(str(caught.value)) <= 500
    assert "\n" not in str(caught.value)


def test_transformers_logs_nothing_beside_the_refusal(llama: Path) -> None:
    """It logs the whole config as an error before it raises."""
    config(sub_configs=3)(llama)
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    try:
        with pytest.raises(BadInput, match="its config cannot be read"):
            load_model(str(llama), "causal-lm", device="cpu")
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert [record.getMessage() for record in logged] == []


def test_an_adapters_folder_is_named_as_one(llama: Path) -> None:
    (llama / "adapter_config.json").write_text("{}")
    (llama / "config.json").unlink()
    with pytest.raises(BadInput, match="holds an adapter, not a model"):
        load_model(str(llama), "causal-lm")


def test_a_tokenizer_beyond_the_embedding_is_named(llama: Path, write: Callable[[str, Any], str]) -> None:
    weights = load_file(llama / "model.safetensors")
    cut = {k: v[:9].contiguous() if k.startswith(("model.embed_tokens", "lm_head")) else v for k, v in weights.items()}
    save_file(cut, llama / "model.safetensors", {"format": "pt"})
    config(vocab_size=9)(llama)
    data = load_dataset(write("d.jsonl", "".join(json.dumps({"text": f"the red cat {i}"}) + "\n" for i in range(30))))
    with pytest.raises(BadInput, match=r"(tokenizer gives token|the model embeds 9 tokens|a pass over a short text)"):
        encode(data, load_model(str(llama), "causal-lm", device="cpu"), 16)


FAULTY = r"Correct the template \(chat_template.jinja"
LEFT_OUT = "leaves out the answer of a conversation of user – assistant"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ 1 / 0 }}", FAULTY),
        ("{{ a.b.c }}", f"'a' is undefined. {FAULTY}"),
        ("{% for i in range(10**9) %}{% endfor %}", FAULTY),
        ("a\n{% for m in messages %}", f"{FAULTY}, line 2"),
        ("{{ raise_exception('no') }}", "no. Change the rows' roles"),
        ("", LEFT_OUT),
        ("the red cat", LEFT_OUT),
        ("{% for m in messages %}{{ m.role }}: {% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", LEFT_OUT),
        ("{% for m in messages %}{{ m.content[0].text }}{% endfor %}", LEFT_OUT),
    ],
)
def test_a_chat_template_that_fails_is_named(llama: Path, write: Callable[[str, Any], str], text: str, says: str) -> None:
    template(text)(llama)
    turns = [{"role": "user", "content": "red cat"}, {"role": "assistant", "content": "cat"}]
    data = load_dataset(write("d.jsonl", (json.dumps({"messages": turns}) + "\n") * 30))
    with pytest.raises(BadInput, match=f"chat template .*{says}"):
        encode(data, load_model(str(llama), "causal-lm", device="cpu"), 16)


@pytest.mark.parametrize("written", ["m.content | upper", "m.content | tojson", "m.content.split('</t>')[-1]", "m.content[:3]"])
def test_a_chat_template_may_change_an_answer(llama: Path, write: Callable[[str, Any], str], written: str) -> None:
    template(f"{{% for m in messages %}}{{{{ m.role }}}}: {{{{ {written} }}}}\n{{% endfor %}}")(llama)
    turns = [{"role": "user", "content": "red cat"}, {"role": "assistant", "content": 'a thought</t>\n"red" book'}]
    data = load_dataset(write("d.jsonl", (json.dumps({"messages": turns}) + "\n") * 30))
    rows, _ = encode(data, load_model(str(llama), "causal-lm", device="cpu"), 64)
    assert len(rows) == 30


class Grouped(nn.Linear):
    """As DeepSeek-V4's: each of two groups of inputs has a half of the weight's rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("...gi,goi->...go", x, self.weight.view(2, -1, self.in_features))


def test_modules_that_are_not_called_as_linear_ones_are_found() -> None:
    import transformers
    from peft import LoraConfig, get_peft_model

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = transformers.PretrainedConfig()
            self.called, self.idle, self.grouped = nn.Linear(2, 2), nn.Linear(2, 2), Grouped(2, 6, bias=False)

        def get_output_embeddings(self) -> None:
            return None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.grouped(self.called(x) @ self.idle.weight)

    model, x = Model(), torch.ones(1, 2, 2)
    targets = find_targets(model, ())
    assert [t.name for t in targets] == ["called", "idle", "grouped"]
    found, left = called(model, targets, {"x": x})
    assert [t.name for t in found] == ["called"]
    assert left == {NOT_CALLED: ["idle"], NOT_LINEAR: ["grouped"]}
    with pytest.raises(RuntimeError, match="size of tensor"):
        get_peft_model(model, LoraConfig(target_modules=["grouped"]))(x=x)


@pytest.mark.parametrize(
    ("start", "says"), [(None, "decoder_start_token_id is missing"), (10**6, "decoder_start_token_id is 1000000, so .* embeds ")]
)
@pytest.mark.parametrize("name", ["t5", "m2m_100"])
def test_a_start_of_targets_that_cannot_be_used_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, start: int | None, says: str
) -> None:
    sizes = {f"{stack}_{what}": size for stack in ("encoder", "decoder") for what, size in LAYERS.items()}
    fields = {**sizes, "d_model": 8, "max_position_embeddings": 32, "decoder_start_token_id": 1}
    monkeypatch.setitem(FAMILIES, "m2m_100", FAMILIES["t5"]._replace(config="M2M100Config", fields=fields))
    folder = build(name, tmp_path / "model", task="seq2seq")
    assert load_model(str(folder), "seq2seq", device="cpu").targets
    config(decoder_start_token_id=start)(folder)
    with pytest.raises(BadInput, match=says):
        load_model(str(folder), "seq2seq", device="cpu")


def test_a_family_that_does_not_say_what_embeds_its_tokens(tmp_path: Path) -> None:
    """CANINE hashes characters: there is no one table of them."""
    import transformers

    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    small = transformers.CanineConfig(**sizes, num_hash_functions=4, num_hash_buckets=16, max_position_embeddings=64)
    transformers.CanineForSequenceClassification(small).save_pretrained(tmp_path)
    transformers.CanineTokenizer(model_max_length=64).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), "classification", num_labels=2, device="cpu")
    names = [t.name for t in loaded.targets]
    ids = torch.arange(60, 72).view(2, 6)
    with capturing(loaded.model, names) as capture:
        pairs = capture.pairs(loaded.model(input_ids=ids).logits[:, 1].sum(), 2, keep_graph=False)
    weights = [loaded.model.get_submodule(name).weight.requires_grad_(True) for name in names]
    wanted = torch.autograd.grad(loaded.model(input_ids=ids).logits[:, 1].sum(), weights, allow_unused=True)
    for name, gradient in zip(names, wanted, strict=True):
        found = torch.einsum("itb,ita->ba", pairs[name][1], pairs[name][0])
        torch.testing.assert_close(found, torch.zeros_like(found) if gradient is None else gradient, rtol=1e-4, atol=1e-6)


def test_peft_and_find_targets_agree_on_what_mamba_cannot_have() -> None:
    import transformers
    from peft import LoraConfig, get_peft_model

    small = transformers.MambaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, state_size=2)
    model = transformers.MambaForCausalLM(small)
    names = [t.name for t in find_targets(model, ())]
    assert names
    assert not any(name.endswith("out_proj") for name in names)
    get_peft_model(model, LoraConfig(target_modules=names))


@pytest.mark.parametrize(
    ("raised", "kind"), [(KeyError("x"), BadInput), (ZeroDivisionError(), BadInput), (MemoryError(), OutOfMemory)]
)
def test_the_boundary_turns_anything_into_one_line(raised: Exception, kind: type[AdvisorError]) -> None:
    with pytest.raises(kind, match=r"^file\.json: "), loading("file.json", "Look."):
        raise raised


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), BadInput("mine")])
def test_the_boundary_lets_interrupts_and_own_errors_pass(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as caught, loading("file.json"):
        raise raised
    assert caught.value is raised


def test_a_deadline_ends_a_loop_and_leaves_quick_work_alone() -> None:
    def spin() -> None:
        while time.monotonic() - begun < 30:
            pass

    begun = time.monotonic()
    with pytest.raises(BadInput, match="too long"), deadline(0.2, "too long"):
        spin()
    assert time.monotonic() - begun < 20
    with deadline(60, "too long"):
        assert sum(range(10)) == 45


@pytest.mark.parametrize(
    ("name", "what"),
    [("Wav2Vec2Config", "sounds"), ("WhisperConfig", "sounds"), ("DPTConfig", "images"), ("PatchTSTConfig", "series")],
)
@pytest.mark.parametrize("task", ["classification", "causal-lm", "embedding", "seq2seq"])
def test_what_reads_no_text_is_said(name: str, what: str, task: str) -> None:
    import transformers

    with pytest.raises(BadInput, match=f"It reads {what}"):
        check_task(getattr(transformers, name)(), "model", task)
