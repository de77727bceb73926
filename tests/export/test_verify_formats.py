"""verify on configs of every tool: seeded mistakes are caught, sound configs pass, trained adapters are compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command import advisor
from exporting import CONFIGS, Made, make, own_ranks
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from advisor.core.errors import BadInput
from advisor.core.targets import LoraSettings
from advisor.export import FORMATS
from advisor.export.verify import verify
from advisor.models.load import load_model

TinyModel = Callable[..., Path]
ATTENTION = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    return {name: make(name, tmp_path_factory.mktemp(name)) for name in CONFIGS}


def peft_file(**fields: Any) -> tuple[str, str]:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": ATTENTION, **fields}
    return "adapter_config.json", json.dumps(config)


def yaml_file(**fields: Any) -> tuple[str, str]:
    return "config.yaml", yaml.safe_dump(fields)


def axolotl(**fields: Any) -> tuple[str, str]:
    usual = {"adapter": "lora", "base_model": "m", "lora_r": 4, "lora_alpha": 8, "lora_target_modules": ATTENTION}
    return yaml_file(**{**usual, **fields})


def factory(**fields: Any) -> tuple[str, str]:
    return yaml_file(**{"finetuning_type": "lora", "lora_rank": 4, "lora_target": "q_proj,v_proj", **fields})


def trl(**fields: Any) -> tuple[str, str]:
    return yaml_file(**{"use_peft": True, "lora_r": 4, "lora_target_modules": ATTENTION, **fields})


def unsloth(arguments: str, loading: str = "") -> tuple[str, str]:
    return "train.py", (
        f"model, tokenizer = FastLanguageModel.from_pretrained('m'{loading})\n"
        f"model = FastLanguageModel.get_peft_model(model, r=4, {arguments})\n"
    )


def snippet(arguments: str) -> tuple[str, str]:
    return "train.py", f"from peft import LoraConfig\nc = LoraConfig(task_type='CAUSAL_LM', r=4, {arguments})\n"


FULL = "model.layers.0.self_attn.q_proj"
MISTAKES = [
    ("llama", peft_file(target_modules=["q_proj", "query"]), "'query' matches no module"),
    ("gpt2", peft_file(target_modules=["c_proj"], fan_in_fan_out=True), "several roles"),
    ("llama", peft_file(target_modules=["q_proj", "lm_head"]), "lm_head gets LoRA"),
    ("llama", peft_file(target_modules=[FULL, "v_proj"], layers_to_transform=[1]), "bypasses"),
    ("llama", peft_file(layers_to_transform=[1, 9]), "no layer 9"),
    ("llama", peft_file(rank_pattern={"q_proj": 8}), "changes the scale"),
    ("llama", peft_file(rank_pattern={"query": 8}), "'query' does nothing"),
    ("llama", peft_file(rank_pattern={"proj": 8, ".*proj": 8, "q_proj": 2}, alpha_pattern={".*proj": 16}), "comes first"),
    ("llama", peft_file(exclude_modules=["lm_haed"]), "exclude_modules: 'lm_haed'"),
    ("llama", peft_file(modules_to_save=["score"]), "'score' matches no module"),
    ("llama", peft_file(bias="all", r=600), "above 512"),
    ("gpt2", peft_file(target_modules=["c_attn"]), "fan_in_fan_out"),
    ("gpt2", peft_file(target_modules=["c_attn"], fan_in_fan_out=True, modules_to_save=["wte"]), "come apart"),
    ("llama", axolotl(lora_target_linear="true"), "lora_target_linear adds every linear"),
    ("llama", axolotl(use_dora=True), "no key use_dora, and drops it. Did you mean peft_use_dora?"),
    ("llama", axolotl(Lora_r=4), "no key Lora_r"),
    ("llama", axolotl(bias="all"), "no key bias"),
    ("llama", axolotl(target_modules=["q_proj"]), "no key target_modules"),
    ("llama", factory(stage="rm"), "value head"),
    ("llama", factory(resize_vocab=True), "trains embed_tokens, lm_head in full"),
    ("llama", factory(use_unsloth=True), "own rules"),
    (
        "llama",
        yaml_file(model="m", lora={"lora_r": 8, "target_modules": "q_proj", "rank_pattern": {"q_proj": 4}}),
        "no key rank_pattern",
    ),
    (
        "llama",
        peft_file(rank_pattern={"self_attn": 8}),
        "'self_attn' does nothing: it matches no module with LoRA. It names what only",
    ),
    ("llama", factory(lora_target="all"), "stands for every linear"),
    ("llama", trl(lora_target_modules=["q_proj|.*v_proj", "v_proj"]), "matches no module"),
    ("llama", trl(lora_target_modules=[".*q_proj|.*nothing"], lora_modules_to_save=["lm_haed"]), "'lm_haed'"),
    ("llama", unsloth("target_modules=['q_proj', 'lm_head']"), "in full, not by LoRA"),
    ("llama", unsloth("target_modules=['q_proj'], layers_pattern='layers'"), "layers_pattern"),
    ("llama", snippet("target_modules=['q_proj', 'self_attn.w']"), "'self_attn.w' matches no module"),
]
SOUND = [
    ("llama", peft_file()),
    ("llama", peft_file(target_modules="all-linear")),
    ("llama", peft_file(target_modules=r".*\.(q|v)_proj")),
    ("llama", peft_file(rank_pattern={"q_proj": 8}, alpha_pattern={"q_proj": 16})),
    ("llama", peft_file(layers_to_transform=[0, 2])),
    ("llama", peft_file(exclude_modules=["layers.0.self_attn.q_proj"])),
    ("llama", peft_file(modules_to_save=["lm_head"])),
    ("llama-classifier", peft_file(task_type="SEQ_CLS")),
    ("gpt2", peft_file(target_modules=["c_attn"], fan_in_fan_out=True)),
    ("gpt-neox", peft_file(target_modules=["query_key_value"])),
    ("phi3", peft_file(target_modules=["qkv_proj", "down_proj"])),
    ("bert", peft_file(task_type="SEQ_CLS", target_modules=["query", "value"])),
    ("llama", axolotl()),
    ("llama", axolotl(lora_target_modules=r".*self_attn\.q_proj")),
    ("llama", axolotl(lora_r="4", lora_alpha=8.0, lora_dropout="0.05", peft_use_rslora="yes")),
    ("llama", axolotl(adapter="qlora", load_in_4bit=True)),
    ("llama", factory()),
    ("llama", factory(lora_target=["q_proj", "v_proj"], lora_alpha=16.5)),
    ("llama", trl()),
    ("llama", trl(lora_r="4", use_peft="true", lora_alpha=2.5)),
    ("llama", trl(lora_target_modules=[r".*\.q_proj"])),
    ("llama", unsloth("target_modules=['q_proj', 'v_proj'], finetune_last_n_layers=1")),
    ("llama", snippet("target_modules=['q_proj']")),
    ("llama", yaml_file(model="m", lora={"lora_r": 8, "lora_alpha": 16, "target_modules": "q_proj, v_proj"})),
]
REFUSED = [
    (peft_file(target_modules=["nothing"]), "adapter_config.json"),
    (axolotl(lora_target_modules=["*q_proj"]), "takes '\\*q_proj' for a regex"),
    (axolotl(lora_alpha=2.5), "lora_alpha is 2.5"),
    (axolotl(lora_rank_pattern={"q_proj": 2.5}), "lora_rank_pattern is .*integer"),
    (axolotl(lora_modules_to_save="lm_head"), "lora_modules_to_save is 'lm_head'"),
    (axolotl(adapter="qlora"), "without load_in_4bit"),
    (axolotl(lora_target_parameters=["mlp.up_proj.weight"], lora_dropout=0.1), "refused by axolotl"),
    (axolotl(lora_dropout=-0.1), "lora_dropout is -0.1"),
    (axolotl(adapter="qalora"), "adapter is 'qalora'"),
    (factory(lora_target=[3]), "lora_target holds something"),
    (factory(use_galore=True), "refuses use_galore"),
    (factory(stage="ppo"), "no reward_model"),
    (factory(stage="kto", pissa_init=True), "refuses pissa_init"),
    (factory(target_modules=["q_proj"]), "no key target_modules"),
    (factory(lora_rank=0), "lora_rank is 0"),
    (trl(target_modules=["q_proj"]), "no key target_modules"),
    (trl(lora_rank=4), "no key lora_rank"),
    (peft_file(exclude_modules=[1]), r"exclude_modules is \[1\], not a list of texts"),
    (peft_file(layers_to_transform="0,1"), "layers_to_transform is '0,1'"),
    (peft_file(target_modules={"q_proj": 1}), "target_modules is {'q_proj': 1}"),
    (peft_file(modules_to_save=[3]), r"modules_to_save is \[3\]"),
    (peft_file(rank_pattern=None), "rank_pattern is null"),
    (peft_file(lora_dropout=float("1e999")), "cannot be understood"),
    (peft_file(lora_dropout=-1), "lora_dropout is -1"),
    (peft_file(peft_type="Lora"), "Write LORA"),
    (yaml_file(model="m", training={"training_type": "full"}, lora={}), "training_type is 'full'"),
    (factory(finetuning_type="full"), "finetuning_type"),
    (factory(lora_rank_pattern={"q_proj": 2}), "no key lora_rank_pattern"),
    (factory(lora_rank=True), "lora_rank is of type bool"),
    (trl(use_peft=False), "trains the whole model"),
    (trl(lora_target_modules=["q_proj"]), "regex of the full name"),
    (trl(lora_target_modules=["q_proj", 5]), "not a text"),
    (unsloth("target_modules='q_proj'"), "PEFT refuses"),
    (unsloth("target_modules=['q_proj'], modules_to_save=['norm']"), "unsloth refuses 'norm'"),
    (unsloth("target_modules=names"), "target_modules is no literal"),
    (unsloth("**everything"), "no literal"),
    (("train.py", "import os; os.system('exit 3')"), "0 calls"),
    (("train.py", "LoraConfig(r=1)\nLoraConfig(r=2)"), "2 calls"),
    (("train.py", "def broken(:"), "cannot be understood"),
    (("train.py", "x = '\0'"), "cannot be understood"),
    (("train.py", "(" * 5000), "cannot be understood"),
    (("c.yaml", "a: &a [1]\nb: !!python/object/apply:os.system ['exit 3']"), "python/object"),
    (("c.yaml", "lora_r: \x07"), "cannot be understood"),
    (("c.yaml", "adapter: &a [*a, *a]\nbase_model: m"), "an alias holds itself"),
    (
        (
            "c.yaml",
            "l0: &l0 {a: 1}\n" + "".join(f"l{i}: &l{i} {{<<: [{', '.join([f'*l{i - 1}'] * 10)}]}}\n" for i in range(1, 9)),
        ),
        "more than 100,000 values",
    ),
    (("c.yaml", "5: 6"), "no mapping"),
    (("c.yaml", "model: m"), "no config of a known format"),
    (("c.yaml", "lora: 5"), "lora is of type int"),
    (("c.json", '{"r": NaN}'), "NaN"),
    (("c.json", "[" * 100_000), "cannot be understood"),
    (("c.json", " " * 2_000_001), "at most 2,000,000 are read"),
    (("n.ipynb", "{}"), "no list of cells"),
]


@pytest.fixture
def check(made: dict[str, Made], tmp_path: Path) -> Callable[[str, tuple[str, str]], Any]:
    def run(name: str, file: tuple[str, str]) -> Any:
        (tmp_path / file[0]).write_text(file[1])
        return verify(str(tmp_path / file[0]), str(made[name].folder))

    return run


@pytest.mark.parametrize(("name", "file", "says"), MISTAKES, ids=[says for *_, says in MISTAKES])
def test_a_mistake_is_caught(check: Any, name: str, file: tuple[str, str], says: str) -> None:
    report = check(name, file)
    assert report.exit_code == 1
    assert any(says in surprise for surprise in report.surprises), report.surprises
    assert f"Surprise: {report.surprises[0]}" in report.lines()


@pytest.mark.parametrize(("name", "file"), SOUND)
def test_a_sound_config_passes(check: Any, name: str, file: tuple[str, str]) -> None:
    report = check(name, file)
    assert (report.surprises, report.exit_code) == ((), 0)
    assert report.modules


@pytest.mark.parametrize(("file", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_what_the_tool_would_refuse_is_bad_input(check: Any, file: tuple[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        check("llama", file)
    assert caught.value.exit_code == 2
    assert file[0] in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", CONFIGS)
def test_our_own_files_hold_no_surprise(made: dict[str, Made], tmp_path: Path, name: str) -> None:
    it = made[name]
    plan = own_ranks(it.plan([t.name for t in it.targets[1::2]], LoraSettings(4, 8)))
    for target in FORMATS.values():
        for file_name, file in target.render(plan).files.items():
            (tmp_path / file_name).write_text(file.text)
            if file.fidelity == "impossible":
                with pytest.raises(BadInput, match=file_name):
                    verify(str(tmp_path / file_name), str(it.folder))
                continue
            report = verify(str(tmp_path / file_name), str(it.folder), task=it.task)
            assert (report.format, report.modules, report.surprises) == (target.name, plan.names, ())
            assert report.saved == it.head


def test_control_characters_never_reach_the_terminal(check: Any) -> None:
    report = check("llama", peft_file(target_modules=["q_proj", "\x1b[31mred\u202e"]))
    assert report.exit_code == 1
    assert all(line.isprintable() for line in report.lines())


def test_the_command_s_exit_codes_and_json(made: dict[str, Made], tmp_path: Path) -> None:
    for (file_name, text), code in ((factory(), 0), (factory(lora_target="all"), 1), (factory(lora_rank="x"), 2)):
        (tmp_path / file_name).write_text(text)
        ran = advisor("verify", tmp_path / file_name, "--model", made["llama"].folder, "--json")
        assert ran.code == code, ran.err
        if code < 2:
            assert json.loads(ran.out)["format"] == "llama-factory"
    ran = advisor("verify", tmp_path / "config.yaml", "--model", made["llama"].folder, "--format", "poetry")
    assert ran.code == 2


@pytest.fixture(scope="module")
def adapter(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A trained adapter's folder and its model's."""
    model, folder = tiny_model("bert", with_head=True), tmp_path_factory.mktemp("adapter")
    wrapped = get_peft_model(
        load_model(str(model), "classification", num_labels=2, device="cpu").model,
        LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"]),
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    wrapped.save_pretrained(str(folder))
    return folder, model


def test_a_trained_adapter_passes(adapter: tuple[Path, Path]) -> None:
    report = verify(str(adapter[0]), str(adapter[1]))
    assert report.surprises == ()
    assert any("holds LoRA for 2 modules" in note for note in report.notes)


def test_a_trained_head_is_counted_with_its_own_classes(adapter: tuple[Path, Path], tmp_path: Path) -> None:
    tensors = load_file(adapter[0] / "adapter_model.safetensors")
    (weight,) = (key for key in tensors if "classifier" in key and key.endswith("weight"))
    width = tensors[weight].shape[1]
    tensors |= {weight: torch.ones(5, width), weight.replace("weight", "bias"): torch.ones(5)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes((adapter[0] / "adapter_config.json").read_bytes())
    assert verify(str(tmp_path), str(adapter[1])).saved_params == 5 * (width + 1)


def test_a_config_alone_does_not_know_how_many_classes_there_will_be(adapter: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes((adapter[0] / "adapter_config.json").read_bytes())
    report = verify(str(tmp_path), str(adapter[1]))
    assert report.exit_code == 0
    assert any("num_labels 2, as in the model's config" in note for note in report.notes)


def drop(tensors: dict[str, torch.Tensor], part: str) -> None:
    for key in [key for key in tensors if part in key]:
        del tensors[key]


def shrink(tensors: dict[str, torch.Tensor]) -> None:
    for key in [key for key in tensors if "lora_A" in key]:
        tensors[key] = tensors[key][:2].clone()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda t: drop(t, "layer.1"), "hold nothing for 1 modules"),
        (shrink, "2 modules have another rank"),
        (lambda t: drop(t, "classifier"), "hold no classifier"),
        (lambda t: t.update({"base_model.model.bert.pooler.dense.weight": torch.ones(2)}), "1 full tensors"),
        (lambda t: t.update({"base_model.model.x.lora_A.weight": torch.ones(4, 2)}), "1 modules that the config leaves out"),
        (lambda t: [x.zero_() for k, x in t.items() if "lora_B" in k], "B is all zero in 2 of 2"),
        (lambda t: [x.fill_(float("nan")) for k, x in t.items() if "lora_A" in k], "2 tensors hold a NaN"),
    ],
)
def test_weights_that_differ_from_their_config(
    adapter: tuple[Path, Path], tmp_path: Path, damage: Callable[[dict[str, torch.Tensor]], Any], says: str
) -> None:
    (tmp_path / "adapter_config.json").write_bytes((adapter[0] / "adapter_config.json").read_bytes())
    tensors = load_file(adapter[0] / "adapter_model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    report = verify(str(tmp_path), str(adapter[1]))
    assert report.exit_code == 1
    assert any(says in surprise for surprise in report.surprises), report.surprises


def test_weights_that_are_no_safetensors(adapter: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes((adapter[0] / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x00" * 50)
    with pytest.raises(BadInput, match="weights cannot be read"):
        verify(str(tmp_path), str(adapter[1]))


FOLLOWED = [
    (peft_file(target_modules="q_proj"), {"target_modules": ["q_proj"]}),
    (peft_file(target_modules=["*q_proj"]), {"target_modules": ".*q_proj"}),
    (peft_file(target_modules=["all"]), {"target_modules": "all-linear"}),
    (peft_file(modules_to_save=[".*lm_head"]), {"modules_to_save": ["lm_head"]}),
    (
        peft_file(target_modules=ATTENTION, modules_to_save=["*norm"]),
        {"modules_to_save": ["input_layernorm", "post_attention_layernorm", "norm"]},
    ),
    (peft_file(rank_pattern={"all": 8}, alpha_pattern={".*": 16}), {"rank_pattern": {".*": 8}}),
    (peft_file(rank_pattern={"qproj": 8}, alpha_pattern={"q_proj": 16}), {"rank_pattern": {"q_proj": 8}}),
    (peft_file(exclude_modules=[r".*1\..*q_proj"]), {"exclude_modules": r".*1\..*q_proj"}),
    (axolotl(lora_target_modules="q_proj"), {"lora_target_modules": ["q_proj"]}),
    (axolotl(lora_modules_to_save=[".*lm_head"]), {"lora_modules_to_save": ["lm_head"]}),
    (factory(lora_target="all-linear"), {"lora_target": "all"}),
    (factory(lora_target="ALL"), {"lora_target": "all"}),
    (factory(lora_target="q_proj,all"), {"lora_target": "all"}),
    (factory(lora_target=".*v_proj"), {"lora_target": "v_proj"}),
    (factory(additional_target=".*lm_head"), {"additional_target": "lm_head"}),
    (trl(lora_target_modules="q_proj"), {"lora_target_modules": r".*\.q_proj"}),
    (trl(lora_target_modules=["q_proj"]), {"lora_target_modules": [r".*\.q_proj"]}),
    (trl(lora_target_modules=["all"]), {"lora_target_modules": "all-linear"}),
    (trl(lora_target_modules=["q_proj|v_proj"]), {"lora_target_modules": ATTENTION}),
    (trl(lora_target_modules=[".*q_proj", "v_proj"]), {"lora_target_modules": [".*q_proj"]}),
]


@pytest.mark.parametrize(("file", "change"), FOLLOWED)
def test_a_hint_that_is_followed_leads_to_a_config_that_passes(
    made: dict[str, Made], tmp_path: Path, file: tuple[str, str], change: dict[str, Any]
) -> None:
    """What is written is in the hint, which names the file's own key, and then verify finds nothing else to say."""
    path = tmp_path / file[0]
    path.write_text(file[1])
    ((key, fixed),) = change.items()
    try:
        said = " ".join(verify(str(path), str(made["llama"].folder)).surprises)
    except BadInput as error:
        said = str(error)
    assert f"{key}: " in said
    written = fixed if isinstance(fixed, str) else next(iter(fixed)) if len(fixed) == 1 else fixed[0]
    assert repr(written) in said or "write it as" in said, said
    content = yaml.safe_load(file[1]) | change
    path.write_text(json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content))
    surprises = verify(str(path), str(made["llama"].folder)).surprises
    assert not [each for each in surprises if "every linear module: " not in each], surprises
