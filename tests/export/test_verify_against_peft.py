"""verify and PEFT agree on drawn configs and adapters of many architectures: modules, ranks, sizes, tensors, effects."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from peft_oracle import KINDS, MORE_KINDS, Built, applied, build, counted, damage, draw, loads_whole, save, write

from advisor.core.errors import BadInput
from advisor.export.verify import Report, verify

QUICK, MANY = 4, 16  # configs of each architecture


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    made: dict[str, Built] = {}

    class Lazily(dict[str, Built]):
        def __missing__(self, name: str) -> Built:
            made[name] = self[name] = build(name, tmp_path_factory.mktemp(name))
            return made[name]

    return Lazily()


def asked(folder: Path, it: Built) -> Report | BadInput:
    try:
        return verify(str(folder), str(it.folder))
    except BadInput as error:
        return error


def agrees(it: Built, config: dict[str, Any], folder: Path, rng: random.Random) -> None:
    report, model = asked(write(config, folder), it), applied(it, config)
    if isinstance(model, Exception):
        assert isinstance(report, BadInput), (config, model)
        return
    assert isinstance(report, Report), (config, report)
    found = counted(model)
    assert set(report.modules) == set(found.ranks)
    assert report.ranks == dict(Counter(found.ranks.values()))
    assert set(report.parameters) == set(found.weight_ranks)
    assert report.parameter_ranks == dict(Counter(found.weight_ranks.values()))
    assert set(report.saved) == found.saved
    counts = (report.lora_params, report.saved_params, report.other_params + report.token_params)
    assert counts == (found.lora_params, found.saved_params, found.other_params)
    entries_agree(it, config, report)
    if found.ranks or found.weight_ranks:
        adapters_agree(it, config, model, folder / "adapter", rng)


def entries_agree(it: Built, config: dict[str, Any], report: Report) -> None:
    """An entry is named exactly where PEFT makes the same without it."""
    whole = counted(applied(it, config))

    def idle(key: str, entry: str) -> bool:
        value = config[key]
        left = {k: v for k, v in value.items() if k != entry} if isinstance(value, dict) else [e for e in value if e != entry]
        less = applied(it, {**config, key: left or ({} if isinstance(value, dict) else None)})
        return not isinstance(less, Exception) and counted(less) == whole

    for key in ("exclude_modules", "target_parameters", "rank_pattern"):
        if isinstance(config.get(key), list | dict):
            for entry in config[key]:
                named = any(s.startswith(f"{key}: {entry!r}") for s in report.surprises)
                if named:
                    assert idle(key, entry), (key, entry, report.surprises)
                elif len(config[key]) == 1 or key == "rank_pattern":
                    assert not idle(key, entry), (key, entry, report.surprises)


def adapters_agree(it: Built, config: dict[str, Any], model: Any, folder: Path, rng: random.Random) -> None:
    """An adapter's tensors are named exactly where PEFT does not load them whole.

    One as PEFT saved it usually is: but PEFT sorts the keys of patterns on saving, and takes the first that matches; and it
    loads none where tokens of a module are trained that is saved in full as well.
    """

    def of_tensors(report: Report | BadInput) -> list[str]:
        assert isinstance(report, Report), report
        words = ("The weights", "PEFT loads no", " in the weights")
        return [s for s in report.surprises if any(word in s for word in words)]

    save(model, folder, rng)
    told = of_tensors(asked(folder, it))
    assert bool(told) is not loads_whole(it, folder), told
    assert not told or len(config.get("rank_pattern", ())) > 1 or any("saved itself" in s for s in told)
    how = damage(folder, rng)
    told = of_tensors(asked(folder, it))
    assert bool(told) is not loads_whole(it, folder), (how, told)


@pytest.mark.parametrize("seed", range(QUICK))
@pytest.mark.parametrize("name", KINDS)
def test_some_drawn_configs_are_as_peft_applies_them(built: dict[str, Built], tmp_path: Path, name: str, seed: int) -> None:
    rng = random.Random(f"{name}{seed}")
    agrees(built[name], draw(built[name], rng), tmp_path, rng)


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("init", [False, "gaussian", "pissa", "pissa_niter_2", "olora", "mica", "orthogonal", "eva", "lora_ga"])
@pytest.mark.parametrize("name", ["mixtral", "vit"])
def test_every_way_to_initialise_is_refused_where_peft_refuses_it(
    built: dict[str, Built], tmp_path: Path, name: str, init: bool | str, rank: int
) -> None:
    """Some refuse odd ranks, stacks of experts or convolutions, and one trains A alone."""
    config = {"peft_type": "LORA", "task_type": built[name].kind.task_type, "r": rank, "lora_alpha": 6, "init_lora_weights": init}
    others = {"target_parameters": ["experts.down_proj"]} if name == "mixtral" else {"target_modules": ["query", "projection"]}
    for more in ({}, others):
        drawn = {**config, "target_modules": ["q_proj", "query"], **more}
        report, model = asked(write(drawn, tmp_path / str(len(more))), built[name]), applied(built[name], drawn)
        assert isinstance(report, BadInput) == isinstance(model, Exception), (report, model)
        if isinstance(report, Report):
            assert report.lora_params == counted(model).lora_params


def test_a_config_whose_adapter_peft_cannot_load_is_named(built: dict[str, Built], tmp_path: Path) -> None:
    it, rng = built["mixtral-classifier"], random.Random(0)
    config = {"peft_type": "LORA", "task_type": it.kind.task_type, "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"]}
    config |= {"modules_to_save": ["embed_tokens"], "trainable_token_indices": [1, 5]}
    save(applied(it, config), tmp_path / "adapter", rng)
    assert not loads_whole(it, tmp_path / "adapter")
    report = asked(tmp_path / "adapter", it)
    assert isinstance(report, Report)
    assert "PEFT loads no adapter of this config, not even one that it has saved itself." in report.surprises


@pytest.mark.parametrize("fields", [{"modules_to_save": ["wte", "embed_tokens"]}, {"modules_to_save": ["lm_head"]}], ids=str)
@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "llama"])
def test_weights_that_stay_tied_are_counted_once_and_no_surprise(
    built: dict[str, Built], tmp_path: Path, name: str, fields: dict[str, list[str]]
) -> None:
    it, targets = built[name], ["q_proj", "c_attn"]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6, "target_modules": targets}
    for tying in (True, False):
        drawn = {**config, **fields, "ensure_weight_tying": tying}
        agrees(it, drawn, tmp_path / str(tying), random.Random(0))
        report = asked(write(drawn, tmp_path / "again"), it)
        assert isinstance(report, Report)
        assert not any("is trained in full" in surprise for surprise in report.surprises)


@pytest.mark.parametrize("tokens", [[1, 59], [1, 60], [600], [-60], [-61], {"lm_head": [60]}], ids=str)
@pytest.mark.parametrize("name", ["llama-tied", "llama"])
def test_tokens_beyond_the_vocabulary_are_refused_as_peft_refuses_them(
    built: dict[str, Built], tmp_path: Path, name: str, tokens: Any
) -> None:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"]}
    config |= {"trainable_token_indices": tokens}
    report, model = asked(write(config, tmp_path), built[name]), applied(built[name], config)
    assert isinstance(report, BadInput) == isinstance(model, Exception), (report, model)
    assert not isinstance(report, BadInput) or "has 60 rows, and no token" in report.what


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_file_whose_encoding_peft_does_not_read_is_refused(built: dict[str, Built], tmp_path: Path, encoding: str) -> None:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"]}
    path = write(config, tmp_path) / "adapter_config.json"
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    try:
        LoraConfig.from_pretrained(str(tmp_path))
    except ValueError:
        assert isinstance(asked(tmp_path, built["llama"]), BadInput)
    else:
        assert encoding == "utf-8"
        assert isinstance(asked(tmp_path, built["llama"]), Report)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(QUICK, QUICK + MANY))
@pytest.mark.parametrize("name", [*KINDS, *MORE_KINDS])
def test_many_drawn_configs_are_as_peft_applies_them(built: dict[str, Built], tmp_path: Path, name: str, seed: int) -> None:
    rng = random.Random(f"{name}{seed}")
    agrees(built[name], draw(built[name], rng), tmp_path, rng)
