"""Files of every format do in their tool what was chosen: PEFT says so, given what the tool would hand it."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from exporting import CONFIGS, Made, make, nested, own_ranks, tool_arguments, trained

from advisor.core.errors import AdvisorError, BadInput
from advisor.core.targets import LoraSettings
from advisor.export import FORMATS
from advisor.export.plan import Plan, RenderedFile
from advisor.export.proof import prove_file
from advisor.export.read import parse

SETTINGS = {
    "plain": LoraSettings(4, 8),
    "rslora": LoraSettings(9, 6, rslora=True),
    "own ranks": LoraSettings(4, 8),
    "fraction": LoraSettings(4, 2.5),
}
LANGUAGE_MODEL_TOOLS = ("axolotl.yaml", "llama_factory.yaml", "unsloth_studio.yaml", "trl.yaml", "trl_sft.py")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    return {name: make(name, tmp_path_factory.mktemp(name)) for name in CONFIGS}


def plans(it: Made, how: str) -> list[Plan]:
    """One module, every other one, all."""
    names = [t.name for t in it.targets]
    some = [names[:1], names[1::2], names]
    found = [it.plan(chosen, SETTINGS[how]) for chosen in some]
    return [own_ranks(plan) for plan in found] if how == "own ranks" else found


def expected(file: str, it: Made, how: str, plan: Plan) -> str:
    """The fidelity by each tool's rules, stated here once more."""
    if file in LANGUAGE_MODEL_TOOLS and it.task != "causal-lm":
        return "impossible"
    if file == "unsloth_train.py" and it.head and it.head != ("score",):
        return "impossible"
    if file == "unsloth_studio.yaml" and it.model.config.model_type != "llama":
        ends = {name.rsplit(".", 1)[1] for name in plan.names}
        whole_roles = sum(target.name.rsplit(".", 1)[1] in ends for target in it.targets) == len(plan.names)
        if it.model.config.model_type == "gpt2" or not whole_roles:  # it finds no Conv1D
            return "impossible"
    whole = ("axolotl.yaml", "llama_factory.yaml", "unsloth_studio.yaml", "trl.yaml")
    if how == "fraction" and file in whole:
        return "lossy"
    if how == "own ranks" and len(plan.names) > 1 and file in whole[1:]:
        return "lossy"
    return "exact"


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize("name", CONFIGS)
def test_every_file_trains_the_selection_at_its_ranks_and_scales(made: dict[str, Made], name: str, how: str) -> None:
    it = made[name]
    for plan in plans(it, how):
        for target in FORMATS.values():
            for file_name, file in target.render(plan).files.items():
                where = (target.name, file_name, len(plan.names))
                assert file.fidelity == expected(file_name, it, how, plan), where
                assert bool(file.reasons) is (file.fidelity != "exact"), where
                prove_file(target, file_name, file, plan, it.model)
                if file.fidelity == "impossible":
                    assert all(line.startswith("# ") for line in file.text.splitlines()), where
                    continue
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="fan_in_fan_out")  # tools that have no key for it
                    found = trained(it.model, tool_arguments(file_name, file.text))
                assert set(found) == set(plan.names), where
                if file.fidelity == "exact":
                    for module, (rank, scale) in found.items():
                        own = plan.module_settings(module)
                        assert rank == own.rank, where
                        assert scale == pytest.approx(own.scale, rel=1e-12), where


@pytest.mark.parametrize("chosen", [("block.proj",), ("block.proj", "block.p+oj"), ("block.p+oj",), ("outer.block.proj",)])
def test_a_name_that_is_the_end_of_another_is_told_apart_or_refused(tmp_path: Path, chosen: tuple[str, ...]) -> None:
    it = nested(tmp_path)
    plan = it.plan(chosen, LoraSettings(4, 8), ranks={chosen[0]: 2}, alphas={chosen[0]: 4})
    flat = it.plan(chosen, LoraSettings(4, 8))
    for target in FORMATS.values():
        for said in (plan, flat):
            for file_name, file in target.render(said).files.items():
                splits = file_name in ("llama_factory.yaml", "unsloth_studio.yaml")
                assert (file.fidelity == "impossible") is (splits and "block.proj" in chosen), file_name
                prove_file(target, file_name, file, said, it.model)
                if file.fidelity != "impossible":
                    assert set(trained(it.model, tool_arguments(file_name, file.text))) == set(chosen), file_name


def test_commas_break_the_tools_that_split_at_them(tmp_path: Path) -> None:
    it = nested(tmp_path)
    comma = replace(it.targets[0], name="a,b")
    plan = replace(it, targets=(comma,)).plan(["a,b"], LoraSettings(4, 8))
    assert FORMATS["llama-factory"].render(plan).fidelity == "impossible"
    files = FORMATS["unsloth"].render(plan).files
    assert [file.fidelity for file in files.values()] == ["exact", "impossible"]
    assert (
        FORMATS["llama-factory"]
        .render(replace(it, targets=(replace(comma, name="all"),)).plan(["all"], LoraSettings(4, 8)))
        .fidelity
        == "impossible"
    )


def test_lossy_ranks_are_the_nearest_size_at_the_same_scale(made: dict[str, Made]) -> None:
    it = made["llama"]
    names = [t.name for t in it.targets]
    ranks = dict.fromkeys(names[1:], 9) | {names[1]: 8}
    plan = it.plan(names, LoraSettings(4, 8), ranks=ranks, alphas={name: 2.0 * rank for name, rank in ranks.items()})
    (file,) = FORMATS["llama-factory"].render(plan).files.values()
    content = yaml.safe_load(file.text)
    rank = content["lora_rank"]
    assert rank == 9
    assert content["lora_alpha"] == 2 * rank
    sizes = {r: abs(plan.selection.params(it.targets, r) - plan.params) for r in range(1, 17)}
    assert rank == min(sizes, key=lambda r: sizes[r])
    assert f"instead of {plan.params:,}" in file.text


def test_ranks_that_all_share_are_no_loss(made: dict[str, Made]) -> None:
    it = made["llama"]
    names = [t.name for t in it.targets]
    plan = it.plan(names, LoraSettings(4, 8), ranks=dict.fromkeys(names, 2), alphas=dict.fromkeys(names, 4))
    rendered = FORMATS["llama-factory"].render(plan)
    assert (rendered.fidelity, rendered.reasons) == ("exact", ())
    assert yaml.safe_load(rendered.files["llama_factory.yaml"].text)["lora_rank"] == 2


@pytest.mark.parametrize("name", FORMATS)
def test_the_header_says_what_the_file_is(made: dict[str, Made], name: str) -> None:
    it = made["llama"]
    plan = own_ranks(it.plan([t.name for t in it.targets], LoraSettings(4, 8), comments=("Evil\nr: 99", "Second")))
    for file_name, file in FORMATS[name].render(plan).files.items():
        if file_name.endswith(".json"):  # JSON has no comments
            continue
        lines = file.text.splitlines()
        assert lines[0].startswith("# LoRA config by lora-layer-advisor, for ")
        assert lines[1:3] == ["# Evil\\nr: 99", "# Second"]
        assert lines[3].startswith(f"# {file.fidelity.capitalize()}: ")
        assert [line.removeprefix("# ") for line in lines[4 : 4 + len(file.reasons)]] == list(file.reasons)


def test_names_that_look_like_code_stay_text(tmp_path: Path) -> None:
    it = nested(Path("weird'\"\n#\\x"))
    named = replace(it.targets[0], name="a'\"b\n# c: [d]")
    plan = replace(it, targets=(named, it.targets[1])).plan([named.name], LoraSettings(4, 8))
    for target in FORMATS.values():
        for file_name, file in target.render(plan).files.items():
            content, _ = parse(file.text.encode(), file_name)
            if file_name in ("lora.yaml", "adapter_config.json", "axolotl.yaml", "unsloth_train.py", "trl_sft.py"):
                assert named.name in json.dumps(content, ensure_ascii=False).replace('\\"', '"').replace("\\n", "\n")


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_selection_is_refused(made: dict[str, Made], name: str) -> None:
    with pytest.raises(BadInput, match="no modules"):
        FORMATS[name].render(made["llama"].plan([], LoraSettings(4, 8)))


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("llama_factory.yaml", "model.layers.0.self_attn.q_proj", "q_proj", "it adapts 3 modules, not 1"),
        ("llama_factory.yaml", "lora_rank: 4", "lora_rank: 5", "another rank or scale"),
        ("llama_factory.yaml", "lora_alpha: 8", "lora_alpha: 16", "another rank or scale"),
        ("llama_factory.yaml", "use_rslora: false", "use_rslora: true", "another rank or scale"),
        ("lora.yaml", "bias: none", "modules_to_save: [norm]", "trained in full"),
        ("lora.yaml", "model.layers.0.self_attn.q_proj", "nowhere", "refuses"),
    ],
)
def test_a_file_that_does_something_else_is_not_proved(made: dict[str, Made], name: str, old: str, new: str, says: str) -> None:
    it, target = made["llama"], FORMATS["peft" if name == "lora.yaml" else "llama-factory"]
    plan = it.plan([it.targets[0].name], LoraSettings(4, 8))
    text = target.render(plan).files[name].text
    assert old in text
    with pytest.raises(AdvisorError, match=says) as caught:
        prove_file(target, name, RenderedFile(text.replace(old, new), "exact", ()), plan, it.model)
    assert caught.value.exit_code == 1


def test_a_plan_survives_json(made: dict[str, Made]) -> None:
    for name, it in made.items():
        plan = own_ranks(it.plan([t.name for t in it.targets], LoraSettings(3, 0.1, rslora=True), comments=("é\n",)))
        assert Plan.from_dict(json.loads(json.dumps(plan.as_dict())), name) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"rank": "4", "alpha": 8}},
        {"settings": {"rank": 4.5, "alpha": 8}},
        {"settings": {"rank": 4, "alpha": float("nan")}},
        {"settings": {"rank": 4, "alpha": float("inf")}},
        {"settings": {"rank": True, "alpha": 8}},
        {"settings": None},
        {"ranks": {"nowhere": 2}},
        {"ranks": ["model"]},
        {"alphas": {"model.layers.0.self_attn.q_proj": -1}},
        {"selection": {"name": "x", "targets": ["lm_head"]}},
        {"selection": {"name": "x", "targets": [["q"]]}},
        {"selection": "x"},
        {"targets": [{"name": "x"}]},
        {"task": "poetry"},
        {"task": ["causal-lm"]},
        {"head": [1]},
        {"outputs": "2"},
        {"base_model": 5},
        {"from_the_future": 1},
    ],
)
def test_a_damaged_plan_is_bad_input(made: dict[str, Made], change: dict[str, Any]) -> None:
    it = made["llama"]
    content = json.loads(json.dumps(it.plan([it.targets[0].name], LoraSettings(4, 8)).as_dict()))
    with pytest.raises(BadInput, match="here"):
        Plan.from_dict({**content, **change}, "here")
    for other in (None, [], "x"):
        with pytest.raises(BadInput, match="here"):
            Plan.from_dict(other, "here")
