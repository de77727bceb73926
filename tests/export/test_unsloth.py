"""unsloth on families besides Llama's: what a list of target modules trains there, by the regex that its makers build."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from advisor.core.errors import BadInput
from advisor.core.targets import LoraSettings, Selection
from advisor.export import FORMATS
from advisor.export.plan import Plan
from advisor.export.verify import Report, verify
from advisor.models.load import meta_model
from advisor.models.modules import find_targets

TinyModel = Callable[..., Path]
# The regexes of `get_peft_regex` of unsloth_zoo (2026), typed out for one entry X with finetune_vision_layers off: the first
# where it finds any linear module, else the second.
BLOCK = "self_attn|attention|attn|mixer|mlp|feed_forward|ffn|dense|mixer"
FIRST = rf"(?:.*?(?:language|text).*?(?:{BLOCK}).*?(?:X))|(?:\bmodel\.layers\.[\d]{{1,}}\.(?:{BLOCK})\.(?:(?:X)))"
SECOND = rf".*?(?:{BLOCK}).*?(?:X)"
FAMILIES = ("gpt_neox", "gpt_neo", "gptj", "opt", "phi3")


def snippet(arguments: str) -> str:
    return (
        "model, tokenizer = FastLanguageModel.from_pretrained('m')\n"
        f"model = FastLanguageModel.get_peft_model(model, r=4, {arguments})\n"
    )


@pytest.fixture
def check(tiny_model: TinyModel, tmp_path: Path) -> Callable[[str, str], Report]:
    def run(family: str, text: str) -> Report:
        path = tmp_path / ("train.py" if "model, tokenizer" in text else "studio.yaml")
        path.write_text(text)
        return verify(str(path), str(tiny_model(family, "causal-lm")), format_name="unsloth")

    return run


@pytest.mark.parametrize("family", FAMILIES)
def test_an_entry_is_the_last_part_of_names_in_blocks(
    tiny_model: TinyModel, check: Callable[[str, str], Report], family: str
) -> None:
    model = meta_model(str(tiny_model(family, "causal-lm")), "causal-lm")
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for entry in sorted({name.rsplit(".", 1)[-1] for name in linear} - {"lm_head", "embed_out"}):
        first, second = (pattern.replace("X", re.escape(entry)) for pattern in (FIRST, SECOND))
        pattern = first if any(re.search(first, name) for name in linear) else second
        expected = tuple(name for name in linear if re.fullmatch(pattern, name))
        for text in (snippet(f"target_modules=['{entry}']"), f"model: m\nlora: {{lora_r: 4, target_modules: {entry}}}\n"):
            if expected:
                report = check(family, text)
                assert (report.modules, report.surprises) == (expected, ()), (entry, text)
            else:
                with pytest.raises(BadInput, match="finds nothing to train"):
                    check(family, text)


def test_opt_s_mlp_is_in_no_block_that_it_knows(check: Callable[[str, str], Report]) -> None:
    with pytest.raises(BadInput, match="finds nothing to train in opt"):
        check("opt", snippet("target_modules=['fc1']"))
    report = check("opt", snippet("target_modules=['q_proj', 'fc1']"))
    assert report.by_role.keys() == {"query"}
    assert any("'fc1' matches no module" in surprise for surprise in report.surprises)


def test_full_names_match_only_with_all_four_on(check: Callable[[str, str], Report]) -> None:
    full = "gpt_neox.layers.0.attention.dense"
    with pytest.raises(BadInput, match="finds nothing"):
        check("gpt_neox", snippet(f"target_modules=['{full}']"))
    report = check("gpt_neox", snippet(f"target_modules=['{full}'], finetune_vision_layers=True"))
    assert (report.modules, report.surprises) == ((full,), ())
    report = check("gpt_neox", snippet("target_modules='.*0.attention.dense'"))  # a text reaches PEFT as a regex
    assert report.modules == (full,)


def test_flags_that_are_off_leave_their_blocks_out(check: Callable[[str, str], Report]) -> None:
    both = check("phi3", snippet("target_modules=['qkv_proj', 'down_proj']"))
    assert both.by_role.keys() == {"qkv", "down"}
    attention = check("phi3", snippet("target_modules=['qkv_proj', 'down_proj'], finetune_mlp_modules=False"))
    assert attention.by_role.keys() == {"qkv"}
    assert attention.exit_code == 1  # down_proj was asked for in vain
    with pytest.raises(BadInput, match="finds nothing"):
        check("phi3", snippet("target_modules=['qkv_proj'], finetune_mlp_modules=False, finetune_attention_modules=False"))


def plan_for(folder: Path, entries: tuple[str, ...], task: str = "causal-lm") -> Plan:
    """Whole roles of a tiny language model, by the last parts of their names."""
    model = meta_model(str(folder), task)
    targets = find_targets(model, ())
    chosen = tuple(t.name for t in targets if t.name.rsplit(".", 1)[-1] in entries)
    assert chosen
    return Plan(Selection("some", chosen), LoraSettings(4, 8), targets, task, (), "m", model.config.model_type)


def test_experts_are_adapted_unasked(tiny_model: TinyModel, check: Callable[[str, str], Report]) -> None:
    for family in ("mixtral", "qwen3_moe", "qwen3_next", "nemotron_h"):
        rendered = FORMATS["unsloth"].render(plan_for(tiny_model(family, "causal-lm"), ("q_proj",)))
        assert {file.fidelity for file in rendered.files.values()} == {"impossible"}
        report = check(family, snippet("target_modules=['q_proj'], finetune_vision_layers=True"))
        assert any("experts" in surprise for surprise in report.surprises)


def test_studio_gets_no_file_for_pairs_of_answers(tiny_model: TinyModel) -> None:
    files = FORMATS["unsloth"].render(plan_for(tiny_model("llama", "causal-lm"), ("q_proj",), "preference")).files
    assert files["unsloth_train.py"].fidelity == "exact"
    assert files["unsloth_studio.yaml"].fidelity == "impossible"
    assert "DPO" in files["unsloth_studio.yaml"].reasons[0]


def test_an_encoder_decoder_is_not_trained(tiny_model: TinyModel) -> None:
    rendered = FORMATS["unsloth"].render(plan_for(tiny_model("t5", "seq2seq"), ("q", "v"), "seq2seq"))
    assert {file.fidelity for file in rendered.files.values()} == {"impossible"}


@pytest.mark.parametrize(
    ("family", "entries", "sayable"),
    [
        ("gpt_neox", ("dense",), True),
        ("gpt_neox", ("query_key_value", "dense_4h_to_h"), True),
        ("opt", ("q_proj", "v_proj"), True),
        ("opt", ("fc1",), False),
        ("gpt2", ("c_attn",), False),
    ],
)
def test_what_studio_can_say(tiny_model: TinyModel, family: str, entries: tuple[str, ...], sayable: bool) -> None:
    plan = plan_for(tiny_model(family, "causal-lm"), entries)
    files = FORMATS["unsloth"].render(plan).files
    assert files["unsloth_studio.yaml"].fidelity == ("exact" if sayable else "impossible")
    assert files["unsloth_train.py"].fidelity == "exact"
