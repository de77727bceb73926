"""A model's own code: not run unasked, and what it does ends in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_checkpoint import set_fields

from advisor.core.errors import BadInput, loading
from advisor.models.load import load_model

CONFIG = {"AutoConfig": "own.Config"}
TOKENIZER = {"AutoTokenizer": ["own.Tokenizer", None]}
MODEL = {**CONFIG, "AutoModelForCausalLM": "own.Model"}
BODY = """
from transformers import LlamaConfig, LlamaForCausalLM
class Config(LlamaConfig):
    model_type = "own"
class Model(LlamaForCausalLM):
    config_class = Config
    def __init__(self, config):
        raise SystemExit("no licence")
"""


@pytest.fixture
def own(tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return Path(shutil.copytree(tiny_model("llama", "causal-lm"), tmp_path / "own"))


def test_the_option_is_named_where_code_is_needed(own: Path) -> None:
    (own / "own.py").write_text(BODY)
    set_fields(own / "config.json", model_type="own", auto_map=CONFIG)
    with pytest.raises(BadInput, match=r"its config cannot be read: it comes with Python code.*add --trust-remote-code"):
        load_model(str(own), "causal-lm", device="cpu")


def test_the_option_is_named_for_a_tokenizer(own: Path) -> None:
    (own / "own.py").write_text(BODY)
    set_fields(own / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=TOKENIZER)
    with pytest.raises(BadInput, match=r"its tokenizer cannot be loaded: it comes with Python code.*add --trust-remote-code"):
        load_model(str(own), "causal-lm", device="cpu")


@pytest.mark.parametrize(
    ("code", "auto_map", "says"),
    [
        ("import sys\nsys.exit(3)", CONFIG, r"its config cannot be read: its own code ended the program, by sys.exit\(3\)"),
        (BODY, MODEL, r"no causal-lm model can be built.*its own code ended the program, by sys.exit\('no licence'\)"),
    ],
)
def test_code_that_ends_the_program_is_named(own: Path, code: str, auto_map: dict[str, str], says: str) -> None:
    (own / "own.py").write_text(code)
    set_fields(own / "config.json", model_type="own", auto_map=auto_map)
    with pytest.raises(BadInput, match=says) as caught:
        load_model(str(own), "causal-lm", device="cpu", trust_remote_code=True)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("code", [0, 3, None, "text\nof two lines"])
def test_the_boundary_does_not_let_foreign_code_end_the_program(code: object) -> None:
    with pytest.raises(BadInput, match="its own code ended the program") as caught, loading("m"):
        raise SystemExit(code)
    assert "\n" not in str(caught.value)
