"""Stacks of experts from discovery to a trained adapter: what PEFT, real runs, costs and every format make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cost as measured
import pytest
import torch
from architectures import FAMILIES, build
from command import write_data
from peft import get_peft_model
from transformers import AutoModelForCausalLM

import advisor
from advisor.core.choices import OBJECTIVE
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.export import FORMATS
from advisor.export.baseline import read_baseline
from advisor.export.plan import Plan
from advisor.export.proof import prove_file
from advisor.export.verify import verify
from advisor.models import forward
from advisor.models.load import load_model, meta_model
from advisor.models.modules import find_targets
from advisor.models.peft import lora_arguments, prove
from advisor.models.prepare import Source, prepare
from advisor.probing import footprint
from advisor.probing.cost_estimate import _matrices
from advisor.theory.training_cost import activation_bytes, estimate_cost
from advisor.training.finetune import finetune

TinyModel = Callable[..., Path]
STACKED = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss", "deepseek_v3")
SETTINGS = LoraSettings(4, 8)


def load(folder: Path) -> Any:
    return load_model(str(folder), "causal-lm", device="cpu")


@pytest.mark.parametrize("name", STACKED)
def test_the_stacks_compute_what_the_family_computes(tiny_model: TinyModel, name: str) -> None:
    loaded = load(tiny_model(name, "causal-lm"))
    plain: Any = AutoModelForCausalLM.from_pretrained(loaded.name, experts_implementation="eager").eval()
    ids = torch.randint(3, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    stacks = [t for t in loaded.targets if t.experts]
    weights = dict(plain.named_parameters())
    assert {t.name for t in stacks} == {n for n, p in weights.items() if p.ndim == 3}
    for target in stacks:
        assert (target.experts, target.active, target.kind) == (4, 2, "experts")
        assert target.lora_params(3) == 3 * 4 * (target.in_features + target.out_features)
        shape = weights[target.name].shape[1:]
        assert shape == ((target.in_features, target.out_features)[:: 1 if name == "gpt_oss" else -1])
    routers = ("gate", "router", "shared_expert_gate")
    assert not any(part in routers for t in loaded.targets for part in t.name.split("."))
    assert [t.name for t in find_targets(meta_model(loaded.name, "causal-lm"), ())] == [t.name for t in loaded.targets]


@pytest.mark.parametrize("name", STACKED)
def test_peft_adapts_any_stacks_with_or_without_modules(tiny_model: TinyModel, name: str) -> None:
    folder = str(tiny_model(name, "causal-lm"))
    model = meta_model(folder, "causal-lm")
    targets = find_targets(model, ())
    stacks, modules = [t.name for t in targets if t.experts], [t.name for t in targets if not t.experts]
    ranks = {stacks[0]: 6}
    for names in (stacks, stacks[:1], [*modules[:1], stacks[0]], [t.name for t in targets]):
        selection = Selection("some", tuple(t.name for t in targets if t.name in names))
        own = {"ranks": ranks, "alphas": {stacks[0]: 12}}
        arguments = lora_arguments(selection, SETTINGS, task="causal-lm", head=(), targets=targets, base_model=folder, **own)
        found = prove(model, arguments, selection, targets, 4, ranks)
        assert set(found.scales.values()) == {2.0}
        assert found.lora_params == selection.params(targets, 4, ranks)


def test_names_that_peft_takes_for_old_experts_are_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense first layer and shared experts of DeepSeek-V3: PEFT would put LoRA on the stacks in their place."""
    fields = {**FAMILIES["deepseek_v3"].fields, "first_k_dense_replace": 1}
    monkeypatch.setitem(FAMILIES, "dense_first", FAMILIES["deepseek_v3"]._replace(fields=fields))
    loaded = load(build("dense_first", tmp_path / "model", task="causal-lm"))
    linear = {n for n, m in loaded.model.named_modules() if isinstance(m, torch.nn.Linear) and ".mlp." in n}
    assert len(linear) == 6
    assert not linear & {t.name for t in loaded.targets}
    said = next(note for note in loaded.notes if note.startswith("Left out: 6 modules"))
    assert "mlp.shared_experts.gate_proj" in said


def test_a_dense_model_is_not_said_to_have_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {**FAMILIES["deepseek_v3"].fields, "first_k_dense_replace": 100}
    monkeypatch.setitem(FAMILIES, "dense", FAMILIES["deepseek_v3"]._replace(fields=fields))
    loaded = load(build("dense", tmp_path / "model", task="causal-lm"))
    said = next(note for note in loaded.notes if note.startswith("Left out"))
    assert "old names of experts, of which there are none here" in said
    assert "mlp.gate_proj" in said
    assert "instead" not in said


def test_real_runs_train_the_experts_that_peft_trains(tiny_model: TinyModel, tmp_path: Path) -> None:
    data = write_data(tmp_path, "causal-lm")
    source = Source(str(tiny_model("mixtral", "causal-lm")), str(data), eval_data=str(data), task="causal-lm", device="cpu")
    prepared = prepare(source, Session())
    stack = next(t for t in prepared.loaded.targets if t.role == "experts.down")
    trained: dict[str, float] = {}

    def look(model: Any, start: Any) -> None:
        trained.update({n: float((p - start[n]).norm()) for n, p in model.named_parameters() if p.requires_grad})

    selection = Selection("one stack", (stack.name,))
    rows = prepared.train_rows[:24]
    recipe = TrainingRecipe(train_rows=24, epochs=2, lr=3e-3, batch_size=8)
    run = finetune(prepared.loaded, selection, SETTINGS, recipe, rows, rows, "token_accuracy", 0, inspect=look)
    assert len(trained) == 2
    assert all("experts" in name and "lora_" in name and moved > 0 for name, moved in trained.items())
    assert run.epochs[-1].val_loss < run.epochs[0].val_loss
    assert run.lora_params == stack.lora_params(4)


@pytest.mark.parametrize("autocast", [True, False])
def test_memory_kept_by_adapted_stacks(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autocast: bool
) -> None:
    """The estimate beside what a real step of PEFT's model keeps for its backward pass."""
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: autocast)
    data = write_data(tmp_path, "causal-lm")
    prepared = prepare(Source(str(tiny_model("qwen3_moe", "causal-lm")), str(data), task="causal-lm", device="cpu"), Session())
    loaded, rows = prepared.loaded, prepared.train_rows[:16]
    found = footprint.measure_training(loaded, rows)
    longest = max(row.length for row in rows)
    stacks = [t for t in loaded.targets if t.experts]
    for chosen in (stacks, stacks[:1], stacks[-1:], loaded.targets):
        selection = Selection("some", tuple(t.name for t in chosen))
        estimate = activation_bytes(selection, loaded.targets, measured.SETTINGS, found, len(rows), longest)
        kept = measured.Run(loaded, selection).saved_bytes(rows)
        assert estimate == pytest.approx(kept, rel=0.06), [t.name for t in chosen]


def test_stored_and_active_parameters() -> None:
    module, stack = Target("q", 0, "q", "attention", 6, 4), Target("up", 0, "experts.up", "mlp", 6, 10, "experts", 8, 2)
    both = Selection("both", ("q", "up"))
    assert both.params((module, stack), 4) == 4 * 10 + 8 * 4 * 16
    assert both.active_params((module, stack), 4) == 4 * 10 + 2 * 4 * 16
    assert both.active_params((module, stack), 4, {"up": 2}) == 4 * 10 + 2 * 2 * 16


@pytest.fixture(scope="module")
def advised(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory, own_folders: Path) -> tuple[Any, Path]:
    folder, out = tiny_model("mixtral", "causal-lm"), tmp_path_factory.mktemp("mixture")
    data = write_data(out, "causal-lm")
    return advisor.recommend(folder, data, samples=16, budget="60%", strategy=OBJECTIVE, out=out / "r"), folder


def test_what_is_recommended_is_applied_saved_and_verified(advised: tuple[Any, Path], tmp_path: Path) -> None:
    found, folder = advised
    modules, stacks = set(found.target_modules), set(found.target_parameters)
    assert modules
    assert stacks
    assert modules | stacks == set(found.advice.picked.candidate.selection.targets)
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), found.lora_config())
    assert set(model.base_model.targeted_parameter_names) == stacks
    assert set(model.base_model.targeted_module_names) == modules
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    cost = found.advice.picked.cost
    assert trainable == cost.params > cost.active_params
    model.save_pretrained(str(tmp_path / "adapter"))
    report = verify(str(tmp_path / "adapter"), str(folder))
    assert set(report.parameters) == stacks
    assert report.lora_params == trainable


def test_every_format_says_stacks_or_that_it_cannot(advised: tuple[Any, Path], tmp_path: Path) -> None:
    found, folder = advised
    model = meta_model(str(folder), "causal-lm")
    targets = find_targets(model, ())
    stacks = tuple(t.name for t in targets if t.experts)
    for names in ([*found.target_modules, *found.target_parameters], stacks, stacks[:1]):
        selection = Selection("some", tuple(t.name for t in targets if t.name in names))
        plan = Plan(selection, SETTINGS, targets, "causal-lm", (), str(folder), "mixtral")
        said = {}
        for name, target in FORMATS.items():
            for file, rendered in target.render(plan).files.items():
                said[file] = rendered.fidelity
                resolved = prove_file(target, file, rendered, plan, model)  # raises where the tool would do something else
                assert (resolved is None) == (rendered.fidelity == "impossible"), name
        assert [file for file, fidelity in said.items() if fidelity != "exact"] == [
            "llama_factory.yaml",
            "unsloth_train.py",
            "unsloth_studio.yaml",
        ]


def test_a_step_costs_more_where_whole_stacks_are_added_up(advised: tuple[Any, Path]) -> None:
    """Of a stack W + BA and its gradient are made whole in every step, so small batches pay more for it."""
    found, _ = advised
    targets, print_ = found.scorer.probe.targets, found.scorer.footprint
    stacks = Selection("experts", tuple(t.name for t in targets if t.experts))

    def share(batch: int) -> float:
        recipe = TrainingRecipe(batch_size=batch)
        return estimate_cost(stacks, targets, SETTINGS, recipe, print_, 0, 16.0, 16).time_vs_all_linear

    assert 0 < share(64) < share(1) <= 1


def test_a_config_with_stacks_can_be_the_baseline(advised: tuple[Any, Path], tmp_path: Path) -> None:
    found, _ = advised
    own = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(own))
    candidate = read_baseline(tmp_path, found.scorer.probe, trust_remote_code=False)
    roles = {t.name: t.role for t in found.scorer.probe.targets}
    assert {roles[name] for name in candidate.selection.targets} == {"query", "experts.down"}
    assert len(candidate.selection.targets) == 4


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_the_estimate_before_a_probe_counts_the_experts_of_a_token(tiny_model: TinyModel, name: str) -> None:
    folder = tiny_model(name, "causal-lm")
    targets = load(folder).targets
    router = 4 * targets[0].in_features  # of each layer
    wanted = sum(t.in_features * t.out_features * t.slots for t in targets) + router * len({t.layer for t in targets})
    if name == "gpt_oss":  # its biases are matrices too, one row an expert
        wanted += sum(t.experts * t.out_features for t in targets)
    assert sum(a * b for a, b in _matrices(folder)) == wanted
