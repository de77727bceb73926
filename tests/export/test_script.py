"""Scripts are read, never run: what the call would get, or why that cannot be told."""

from __future__ import annotations

from typing import Any

import pytest

from advisor.export.script import read_script


def read(body: str) -> dict[str, Any]:
    return read_script(body.encode())[1]


VALUES = [
    ("LoraConfig(r=8)", 8),
    ("LoraConfig(r=-8)", -8),
    ("LoraConfig(r=(4 + 4) * 2 - 16 // 2 - 1)", 7),
    ("LoraConfig(r=3 / 2)", 1.5),
    ("R = 8\nLoraConfig(r=R)", 8),
    ("R: int = 8\nLoraConfig(r=R)", 8),
    ("R: int\nR = 8\nLoraConfig(r=R)", 8),
    ("R, A = 8, 16\nLoraConfig(r=R)", 8),
    ("A = R = 8\nLoraConfig(r=R)", 8),
    ("A = 4\nR = 2 * A\nLoraConfig(r=R)", 8),
    ("peft.LoraConfig(r=TaskType.CAUSAL_LM)", "CAUSAL_LM"),
    ("LoraConfig(r=peft.TaskType.SEQ_CLS)", "SEQ_CLS"),
    ("LoraConfig(r=('q', 'v'))", ["q", "v"]),
    ("LoraConfig(r={'v', 'q'})", ["q", "v"]),
    ("T = ['q']\nLoraConfig(r=[*T, 'v'] + ['k'])", ["q", "v", "k"]),
    ("LoraConfig(r='q,v'.split(','))", ["q", "v"]),
    ("LoraConfig(r='q v'.split())", ["q", "v"]),
    ("LoraConfig(r='.*q' + '_proj')", ".*q_proj"),
    ("LoraConfig(r={'q': 4, **{'v': 8}})", {"q": 4, "v": 8}),
    ("K = dict(r=8)\nLoraConfig(**K)", 8),
    ("LoraConfig(**{'r': 8})", 8),
    ("SFTTrainer(peft_config=LoraConfig(r=8))", 8),
    ("c = LoraConfig(r=8)\nmodel = get_peft_model(model, c)", 8),
    ("c = LoraConfig(r=8)\nmodel.config.use_cache = False", 8),
]


@pytest.mark.parametrize(("body", "value"), VALUES, ids=[body for body, _ in VALUES])
def test_what_can_be_told_without_running(body: str, value: Any) -> None:
    assert read(body)["r"] == value


REFUSED = [
    ("LoraConfig(r=args.r)", "args.r"),
    ("LoraConfig(r=int('8'))", "no literal"),
    ("LoraConfig(r=8 if big else 4)", "no literal"),
    ("LoraConfig(r=[x for x in y])", "no literal"),
    ("LoraConfig(r=2**99)", "no literal"),
    ("LoraConfig(r=1 / 0)", "no literal"),
    ("LoraConfig(r=UNKNOWN)", "UNKNOWN"),
    ("from x import R\nLoraConfig(r=R)", "no plain value"),
    ("def make(r=8):\n    return LoraConfig(r=r)", "no plain value"),
    ("for r in (8, 16):\n    LoraConfig(r=r)", "no plain value"),
    ("with open('r') as r:\n    LoraConfig(r=r)", "no plain value"),
    ("R = 8\nR = 16\nLoraConfig(r=R)", "assigned more than once"),
    ("R = 8\nR *= 2\nLoraConfig(r=R)", "assigned more than once"),
    ("R = 8\nfor R in (16, 32):\n    LoraConfig(r=R)", "assigned more than once"),
    ("r = 8\ndef make(r):\n    return LoraConfig(r=r)", "assigned more than once"),
    ("if (R := 8):\n    R = 4\nLoraConfig(r=R)", "assigned more than once"),
    ("T = ['q']\nT.append('v')\nLoraConfig(r=T)", "or changed"),
    ("K = {'r': 8}\nK['r'] = 16\nLoraConfig(**K)", "or changed"),
    ("a = b\nb = a\nLoraConfig(r=a)", "no literal"),
    ("LoraConfig(8)", "arguments without names"),
    ("FastLanguageModel.get_peft_model(model, 8, ['q'], lora_alpha=16)", "arguments without names"),
    ("LoraConfig(r=8, r=9)", "gets r twice"),
    ("LoraConfig(**{'r': 8}, r=4)", "gets r twice"),
    ("LoraConfig(r=4, **dict(r=8))", "gets r twice"),
    ("K = {'r': 8}\nFastLanguageModel.get_peft_model(m, **K, **K)", "gets r twice"),
    ("LoraConfig(**{'r': 8, 'r': 4})", "the key 'r' is there twice"),
    ("LoraConfig(**dict(r=8, r=4))", "the key 'r' is there twice"),
    ("LoraConfig(r=4, rank_pattern={'q': 8, 'q': 4})", "the key 'q' is there twice"),
    ("c = LoraConfig(r=8)\nc.r = 16", "c.r is set after"),
    ("c = LoraConfig(r=8)\nsetattr(c, 'r', 16)", "is set after"),
    ("LoraConfig(r=1)\nLoraConfig(r=2)", "2 calls"),
    ("print(1)", "0 calls"),
    ("LoraConfig(**[1])", "no dict"),
]


@pytest.mark.parametrize(("body", "says"), REFUSED, ids=[body for body, _ in REFUSED])
def test_what_only_a_run_could_tell_is_refused(body: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(body)


def test_unsloth_s_call_is_told_from_peft_s() -> None:
    snippet = "m = FastLanguageModel.from_pretrained('x', num_labels=3)\nFastLanguageModel.get_peft_model(model=m, r=8)"
    assert read_script(snippet.encode()) == ("unsloth", {"r": 8, "num_labels": 3})
    assert read_script(b"c = LoraConfig(r=8)\nget_peft_model(model, c)")[0] == "trl"
