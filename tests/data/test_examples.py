"""The examples, from a recommendation to a trained adapter, on tiny models and rows of the demo: the loss falls."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import loss_curves
import pytest
from command import advisor as command
from peft import PeftConfig
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.mark.parametrize(("name", "family", "task"), [("trainer", "bert", "classification"), ("sft", "llama", "causal-lm")])
def test_an_example_trains_what_was_recommended(
    name: str,
    family: str,
    task: str,
    tiny_model: Callable[..., Path],
    demo_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("trl", reason="TRL is not installed (extra `examples`)")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setattr(loss_curves, "ROWS", 120)
    files = loss_curves.demo_rows(str(demo_file), tmp_path)
    model, out = tiny_model(family, task), tmp_path / "out"
    log = import_module(name).main(str(model), files[task == "causal-lm"], str(out))
    for key in ("loss", "eval_loss"):
        values = [value for _, value in loss_curves.curve(log, key)]
        assert len(values) >= 2
        assert values[-1] < values[0], key
    recommended = PeftConfig.from_pretrained(str(out / "recommendation")).target_modules
    tensors = load_file(out / "adapter" / "adapter_model.safetensors")
    names = {key.partition("base_model.model.")[2].partition(".lora_")[0] for key in tensors if ".lora_" in key}
    assert names == set(recommended)
    assert max(float(t.abs().max()) for key, t in tensors.items() if ".lora_B" in key) > 0
    assert command("verify", out / "adapter", "--model", model, "--task", task).code == 0
