"""Experts of a mixture, which are not probed, beside what is recommended: by PEFT's ``target_parameters``, as the docs say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import write_data
from peft import get_peft_model
from transformers import AutoModelForCausalLM

import advisor
from advisor.core.events import Note, Session
from advisor.export.verify import verify

STACKS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_expert_stacks_train_beside_what_is_recommended(
    name: str, tiny_model: Callable[..., Path], tmp_path: Path, own_folders: Path
) -> None:
    folder, notes = tiny_model(name, "causal-lm"), []
    session = Session(lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    data = write_data(tmp_path, "causal-lm")
    found = advisor.recommend(folder, data, samples=16, budget="50%", out=tmp_path / "r", session=session)
    assert any(note.endswith(f"with target_parameters={STACKS}.") for note in notes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    stacks = [n for n, p in model.named_parameters() if n.endswith(tuple(STACKS))]
    layers = model.config.num_hidden_layers
    assert len(stacks) == 2 * layers
    sizes = [model.get_parameter(n).shape for n in stacks]  # experts, out, in
    wrapped = get_peft_model(model, found.lora_config(target_parameters=STACKS))
    trainable = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    alone = found.advice.picked.cost.params
    assert trainable == alone + sum(8 * e * (a + b) for e, a, b in sizes)

    tokens = torch.randint(0, model.config.vocab_size, (4, 12))
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.5)
    losses = []
    for _ in range(3):
        loss = wrapped(input_ids=tokens, labels=tokens).loss
        losses.append(float(loss))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]

    wrapped.save_pretrained(str(tmp_path / "adapter"))
    report = verify(str(tmp_path / "adapter"), str(folder))
    assert report.exit_code == 0, report.surprises
    assert set(report.modules) == set(found.target_modules)
    assert set(report.parameters) == set(stacks)
    assert report.lora_params == trainable
