"""What each tool's files say of tasks that not every tool trains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import exporting
import pytest

from advisor.core.targets import LoraSettings
from advisor.export import FORMATS
from advisor.export.plan import Plan

SETTINGS = LoraSettings(4, 8)


@pytest.fixture
def made(tmp_path: Path) -> exporting.Made:
    return exporting.make("llama", tmp_path)


@pytest.mark.parametrize(("task", "method"), [("preference", "DPO"), ("kto", "KTO")])
def test_every_tool_compares_answers_and_is_told_by_which_method(made: exporting.Made, task: str, method: str) -> None:
    names = [t.name for t in made.targets][:3]
    plan = replace(made.plan(names, SETTINGS), task=task)
    for name, of in FORMATS.items():
        rendered = of.render(plan)
        assert rendered.fidelity == "exact", (name, rendered.reasons)
        assert any(f"Train with {method}, beta 0.1" in file.text for file in rendered.files.values())
    trl = FORMATS["trl"].render(plan).files
    assert f"trl {task if task == 'kto' else 'dpo'} --config" in trl["trl.yaml"].text
    assert f"{method}Trainer(" in trl["trl_sft.py"].text
    studio = FORMATS["unsloth"].render(plan).files["unsloth_studio.yaml"]
    assert studio.fidelity == "impossible"
    assert method in studio.reasons[0]
    assert method not in FORMATS["peft"].render(made.plan(names, SETTINGS)).files["lora.yaml"].text


def test_only_peft_trains_embeddings_and_says_with_what(made: exporting.Made) -> None:
    plan = replace(made.plan([t.name for t in made.targets][:3], SETTINGS), task="embedding")
    for name, of in FORMATS.items():
        rendered = of.render(plan)
        assert rendered.fidelity == ("exact" if name == "peft" else "impossible"), name
        assert name == "peft" or all("embedding" in " ".join(file.reasons) for file in rendered.files.values())
    text = FORMATS["peft"].render(plan).files["lora.yaml"].text
    assert "task_type: FEATURE_EXTRACTION" in text
    assert "modules_to_save" not in text
    assert "MultipleNegativesRankingLoss (cosines, scale 20), and the pooling that was probed" in text
    known = Plan.from_dict(replace(plan, pooling="cls").as_dict(), "x")
    assert "and cls pooling, which was probed" in FORMATS["peft"].render(known).files["lora.yaml"].text


@pytest.mark.parametrize(
    ("task", "task_type", "head"),
    [("token-classification", "TOKEN_CLS", "score"), ("question-answering", "QUESTION_ANS", "qa_outputs")],
)
def test_only_peft_trains_a_head_that_reads_every_token(made: exporting.Made, task: str, task_type: str, head: str) -> None:
    plan = replace(made.plan([t.name for t in made.targets][:3], SETTINGS), task=task, head=(head,))
    for name, of in FORMATS.items():
        assert of.render(plan).fidelity == ("exact" if name == "peft" else "impossible"), name
    text = FORMATS["peft"].render(plan).files["lora.yaml"].text
    assert f"task_type: {task_type}" in text
    assert f"modules_to_save:\n- {head}" in text
