"""Why an entry of a config stands for nothing: the one sentence on each kind of slip."""

from __future__ import annotations

import re

import pytest

from advisor.core import matching
from advisor.export.hints import NAMES_ONLY, WAYS, Way, reason, reason_of_text, refusal_hint

NAMES = [
    "model",
    "model.embed_tokens",
    *(
        f"model.layers.{i}{part}"
        for i in range(2)
        for part in ("", ".self_attn", ".self_attn.q_proj", ".self_attn.v_proj", ".mlp")
    ),
    *(f"model.layers.{i}.mlp.up_proj" for i in range(2)),
    "lm_head",
]
WEIGHTS = ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.up_proj.weight"]

ENTRIES = [
    ("all-linear", "write the text 'all-linear'"),
    ("All Linear", "write the text 'all-linear'"),
    ("q_proj, v_proj", "write ['q_proj', 'v_proj']"),
    (" q_proj", "write ['q_proj']"),
    ("*.q_proj", r"never a glob: write '.*\\.q_proj' as a text"),
    (r".*\.q_proj", "write it as a text in place of the list"),
    (r"layers\.[01]\.q_proj", "write a regex of the full name"),
    ("..", "no name"),
    ("base_model.model.model.layers.0.self_attn.q_proj", "Without the prefix 'base_model.model.'"),
    ("module.lm_head", "Without the prefix 'module.'"),
    ("transformer.layers.0.self_attn.q_proj", "called 'model.layers.0.self_attn.q_proj'"),
    ("q_proj.weight", "write the module, 'q_proj'"),
    ("proj", "a part of 'q_proj'"),
    ("self_attn", "only holds modules"),
    ("model.layers.1", "only holds modules"),
    ("qproj", "Did you mean 'q_proj'?"),
    ("self_attn.qproj", "Did you mean 'self_attn.q_proj'?"),
    ("lm_haed", "Did you mean 'lm_head'?"),
    ("q_proj", ""),
    ("something_else_entirely", ""),
]


@pytest.mark.parametrize(("entry", "says"), ENTRIES, ids=[entry for entry, _ in ENTRIES])
def test_an_entry_of_a_list(entry: str, says: str) -> None:
    found = reason(entry, NAMES)
    assert says in found if says else found == "", found
    assert "\n" not in found


def test_every_hint_of_other_names_is_a_name_of_the_model() -> None:
    """What it tells people to write is there, whatever the slip: a letter left out of any name."""
    for name in NAMES:
        for at in range(len(name)):
            slip = name[:at] + name[at + 1 :]
            for offered in re.findall(r"Did you mean '([^']*)'\?", reason(slip, NAMES)):
                assert any(each == offered or each.endswith(f".{offered}") for each in NAMES), (slip, offered)


def test_a_weight_s_name_is_right_where_weights_are_meant() -> None:
    assert reason("mlp.upproj.weight", WEIGHTS) == "Did you mean 'mlp.up_proj.weight'?"
    assert reason("experts.gate_upproj", WEIGHTS) == "Did you mean 'experts.gate_up_proj'?"


def test_a_name_of_another_class_is_said_so() -> None:
    others = {"ModelForImages": ["model.language_model.layers.0.mlp.fc"]}
    assert reason("mlp.fc", NAMES, others) == "ModelForImages has a module of this name, this class does not."


TEXTS = [
    ("all", "write 'all-linear'"),
    ("q_proj,v_proj", "write the list ['q_proj', 'v_proj']"),
    ("(q_proj|v_proj)", "write the list ['q_proj', 'v_proj']"),
    ("*q_proj", "glob"),
    (r"self_attn\.q_proj", r"write '.*self_attn\\.q_proj'"),
    ("(", "fits none of"),
    (".*nothing", "fits none of"),
    ("nothing", "fits none of"),
]


@pytest.mark.parametrize(("text", "says"), TEXTS, ids=[text for text, _ in TEXTS])
def test_a_text_in_place_of_a_list(text: str, says: str) -> None:
    assert says in reason_of_text(text, NAMES)


def test_the_first_entry_without_a_module_is_explained() -> None:
    assert refusal_hint({"target_modules": ["q_proj", "vproj"]}, NAMES) == "'vproj': Did you mean 'v_proj'?"
    assert refusal_hint({"target_modules": "q_proj"}, NAMES).endswith("write the list ['q_proj'].")
    for fine in (["q_proj"], "all-linear", r".*q_proj", None, [3]):
        assert refusal_hint({"target_modules": fine}, NAMES) == ""


WAYS_OF_KEYS = [
    (NAMES_ONLY, "all", "write names"),
    (NAMES_ONLY, ".*lm_head", "write ['lm_head']"),
    (NAMES_ONLY, "*q_proj", "write ['model.layers.0.self_attn.q_proj', 'model.layers.1.self_attn.q_proj']"),
    (NAMES_ONLY, ".*layers.*", "'q_proj', 'v_proj'"),
    (Way("never", "all"), "ALL", "write 'all' alone"),
    (Way("never", "all"), "all-linear", "write 'all' alone"),
    (Way("only entry"), r".*\.q_proj", "write it as the only entry"),
    (WAYS["rank_pattern"], r"model\.layers\.9\..*", "As a regex it fits no name"),
    (WAYS["rank_pattern"], r"lm_.*", "fits only modules without LoRA, such as 'lm_head'"),
    (WAYS["rank_pattern"], "all-linear", "write '.*'"),
    (WAYS["rank_pattern"], "qproj", "Did you mean 'q_proj'?"),
    (WAYS["exclude_modules"], "all", "write names"),
    (WAYS["exclude_modules"], ".*q_proj", "write it as a text"),
]


@pytest.mark.parametrize(("way", "entry", "says"), WAYS_OF_KEYS)
def test_what_to_write_is_what_the_key_can_say(way: Way, entry: str, says: str) -> None:
    assert says in reason(entry, NAMES, way=way)


def test_an_only_entry_and_a_word_for_everything_are_said_as_the_tool_takes_them() -> None:
    assert r"write '.*\\.q_proj'" in reason_of_text("q_proj", NAMES, Way("only entry"))
    assert "the list ['q_proj', 'v_proj']" in reason_of_text("q_proj|v_proj", NAMES, Way("only entry"))
    assert "write 'all'." in reason_of_text("All", NAMES, Way("never", "all"))


def test_an_endless_regex_gets_no_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "SECONDS", 1)
    assert "write names" in reason("(.*)*(.*)*(.*)*x", NAMES, way=NAMES_ONLY)
