"""The cost of a selection, against closed forms worked out by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from advisor.core.errors import BadInput
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.theory.training_cost import (
    MACS_PER_BYTE,
    TrainingFootprint,
    activation_bytes,
    amount,
    estimate_cost,
    loss_bytes,
    trained_bytes,
)

TARGETS = (
    Target("l.0.q", 0, "q", "attention", 4, 6),
    Target("l.0.v", 0, "v", "attention", 4, 2),
    Target("l.0.up", 0, "up", "mlp", 6, 10),
    Target("l.1.q", 1, "q", "attention", 4, 6),
    Target("out", None, "out", "other", 6, 3),
)
NAMES = tuple(t.name for t in TARGETS)
FOOTPRINT = TrainingFootprint(
    weight_bytes=1000,
    weight_itemsize=4,
    autocast=False,
    targets=NAMES,
    saved=((0, 0, 1, 0), (0, 0, 10, 1), (5, 0, 100, 0), (0, 7, 0, 0), (0, 0, 1000, 0)),
    spared_alone=((0, 0, 0.5, 0), (0, 0, 4, 1), (0,) * 4, (0, 3, 0, 0), (0,) * 4),
    head_saved=(2, 3, 0, 0),
    head_saved_alone=(1, 3, 0, 0),
    inputs=(0, 0, 2, 3, 4),
    input_kept_by=(-1, -1, 1, -1, -1),
    logits=(0, 0, 5, 0),
    other_macs=0.0,
    measured_on=((2, 16),),
)
SETTINGS = LoraSettings(rank=2)
RECIPE = TrainingRecipe(batch_size=3)


def pick(*names: str) -> Selection:
    return Selection("chosen", tuple(n for n in NAMES if n in names))


def activations(selection: Selection, footprint: TrainingFootprint = FOOTPRINT, batch: int = 3) -> float:
    return activation_bytes(selection, TARGETS, SETTINGS, footprint, batch, 4)


def cost(
    selection: Selection, footprint: TrainingFootprint = FOOTPRINT, head: int = 7, batch: int = 3, references: int = 0
) -> object:
    recipe = replace(RECIPE, batch_size=batch)
    return estimate_cost(selection, TARGETS, SETTINGS, recipe, footprint, head, 4.0, 4, references)


def test_amount_adds_what_grows_with_rows_tokens_and_pairs_of_tokens() -> None:
    assert amount((1, 2, 3, 4), 3, 5) == 1 + 3 * 2 + 15 * 3 + 75 * 4


# 3 rows of 4 tokens: 12 tokens; float32; the head and the loss keep 2 + 3·3 = 11.
HEAD, TOKENS = 11, 12
LORA_A = 4 * 2 * TOKENS  # A's output, rank 2


def test_a_module_alone_pays_from_its_call_on_less_what_its_neighbours_would_need() -> None:
    later = 7 * 3 + 1000 * TOKENS
    assert activations(pick("out")) == HEAD + 1000 * TOKENS + 4 * 6 * TOKENS + LORA_A
    assert activations(pick("l.1.q")) == HEAD + later - 3 * 3 + 4 * 4 * TOKENS + LORA_A
    from_v = 10 * TOKENS + 1 * 3 * 16 + 5 + 100 * TOKENS + later
    assert activations(pick("l.0.v")) == HEAD + from_v - (4 * TOKENS + 3 * 16) + 4 * 4 * TOKENS + LORA_A


def test_modules_that_read_one_tensor_keep_it_once_and_spare_nothing() -> None:
    everything = 1 * TOKENS + 10 * TOKENS + 3 * 16 + 5 + 100 * TOKENS + 7 * 3 + 1000 * TOKENS
    assert activations(pick("l.0.q", "l.0.v")) == HEAD + everything + 4 * 4 * TOKENS + 2 * LORA_A


def test_an_input_that_the_model_keeps_anyway_costs_nothing() -> None:
    kept = 5 + 100 * TOKENS + 7 * 3 + 1000 * TOKENS
    from_v = 10 * TOKENS + 3 * 16 - (4 * TOKENS + 3 * 16) + kept
    assert activations(pick("l.0.v", "l.0.up")) == HEAD + from_v + 4 * 4 * TOKENS + 2 * LORA_A
    # Alone: what comes before it, and would keep its input, is not part of any backward pass.
    assert activations(pick("l.0.up")) == HEAD + kept + 4 * 6 * TOKENS + LORA_A


def test_under_autocast_every_module_keeps_casts_of_its_own_in_two_bytes() -> None:
    everything = 1 * TOKENS + 10 * TOKENS + 3 * 16 + 5 + 100 * TOKENS + 7 * 3 + 1000 * TOKENS
    chosen = pick("l.0.q", "l.0.v", "l.0.up")
    inputs, weights = 2 * (4 + 4 + 6) * TOKENS, 2 * chosen.params(TARGETS, 2)
    expected = HEAD + everything + inputs + 3 * (2 * 2 * TOKENS) + weights
    assert activations(chosen, replace(FOOTPRINT, autocast=True)) == expected


def test_half_precision_weights_without_autocast_cast_each_input_to_float32() -> None:
    half = replace(FOOTPRINT, weight_itemsize=2)
    assert activations(pick("l.0.q", "l.0.v"), half) == activations(pick("l.0.q", "l.0.v")) + 4 * 4 * TOKENS


def test_head_only_keeps_what_the_head_keeps_and_trains_it_in_place() -> None:
    nothing = Selection("head-only", ())
    assert activations(nothing) == HEAD - 1
    assert trained_bytes(nothing, TARGETS, SETTINGS, FOOTPRINT, 7) == 3 * 4 * 7
    result = cost(nothing)
    assert (result.params, result.params_with_head) == (0, 7)
    assert result.memory_bytes == 1000 + 3 * 4 * 7 + HEAD - 1 + 2 * 4 * 5 * TOKENS
    assert 0 < result.time_vs_all_linear < 0.5


def test_without_modules_and_head_nothing_is_trained() -> None:
    result = cost(Selection("zero-shot", ()), replace(FOOTPRINT, head_saved_alone=(0,) * 4), head=0)
    assert (result.params_with_head, result.memory_bytes, result.time_vs_all_linear) == (0, 1000, 0)


def test_trained_bytes_are_weights_gradients_and_two_moments() -> None:
    chosen = pick("l.0.q")
    assert chosen.params(TARGETS, 2) == 2 * (4 + 6)
    assert trained_bytes(chosen, TARGETS, SETTINGS, FOOTPRINT, 7) == 16 * 20 + 16 * 7
    half = replace(FOOTPRINT, weight_itemsize=2)
    assert trained_bytes(chosen, TARGETS, SETTINGS, half, 7) == 16 * 20 + 8 * 7  # PEFT leaves the head's type


def test_the_loss_needs_two_float32_copies_of_the_logits() -> None:
    assert loss_bytes(FOOTPRINT, 3, 4) == 2 * 4 * 5 * TOKENS


def test_memory_is_the_sum_of_its_terms() -> None:
    chosen = pick("l.0.q", "l.0.v")
    terms = 1000 + trained_bytes(chosen, TARGETS, SETTINGS, FOOTPRINT, 7) + activations(chosen)
    assert cost(chosen).memory_bytes == terms + loss_bytes(FOOTPRINT, 3, 4)


@pytest.mark.parametrize("references", [0, 1])
def test_time_of_one_module_by_hand(references: int) -> None:
    macs = (24, 8, 60, 24, 18)
    forward = [m + MACS_PER_BYTE * (g[2] + 4 * g[3]) for m, g in zip(macs, FOOTPRINT.saved, strict=True)]
    extra = [3 * 2 * (t.in_features + t.out_features) for t in TARGETS]
    extra = [e + 16 * MACS_PER_BYTE * (t.in_features + t.out_features) for e, t in zip(extra, TARGETS, strict=True)]
    passes = (1 + references) * sum(forward)
    expected = (passes + sum(forward[3:]) + extra[3]) / (passes + sum(forward) + sum(extra))
    assert cost(pick("l.1.q"), references=references).time_vs_all_linear == pytest.approx(expected, rel=1e-12)
    assert cost(pick(*NAMES)).time_vs_all_linear == 1


@pytest.mark.parametrize("autocast", [False, True])
def test_more_modules_or_rows_never_cost_less(autocast: bool) -> None:
    footprint = replace(FOOTPRINT, autocast=autocast)
    for size in range(len(NAMES)):
        fewer, more = cost(pick(*NAMES[len(NAMES) - size :]), footprint), cost(pick(*NAMES[-size - 1 :]), footprint)
        for field in ("params", "params_with_head", "memory_bytes", "time_vs_all_linear"):
            assert getattr(fewer, field) < getattr(more, field)
    assert cost(pick("l.0.q"), footprint).memory_bytes < cost(pick("l.0.q"), footprint, batch=4).memory_bytes


def test_a_module_outside_any_block_counts_where_it_is_called() -> None:
    first = replace(FOOTPRINT, targets=("out", *NAMES[:-1]))
    assert activations(pick("out"), first) > activations(pick("out"))


def test_the_footprint_survives_json_and_a_garbled_one_is_refused() -> None:
    fields = json.loads(json.dumps(asdict(FOOTPRINT)))
    assert TrainingFootprint.from_dict(fields) == FOOTPRINT
    del fields["saved"]
    with pytest.raises(BadInput, match="saved"):
        TrainingFootprint.from_dict(fields)
