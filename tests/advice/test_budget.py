"""The budget parser, and what a budget allows."""

from __future__ import annotations

import pytest
from fakes import bert_targets

from advisor.advice.budget import parse_budget
from advisor.core.errors import BadInput
from advisor.core.targets import Target
from advisor.theory.training_cost import Cost

TARGETS = bert_targets(2)


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("25%", "share", 0.25),
        (" 12.5 % ", "share", 0.125),
        ("100%", "share", 1.0),
        ("2M", "params", 2e6),
        ("2m", "params", 2e6),
        ("1.5k", "params", 1500),
        ("0.3B", "params", 3e8),
        ("40000", "params", 40_000),
        ("40,000", "params", 40_000),
        ("40_000", "params", 40_000),
        ("12modules", "modules", 12),
        ("1 module", "modules", 1),
        ("24GB", "memory", 24e9),
        ("24gb", "memory", 24e9),
        ("1.5GiB", "memory", 1.5 * 2**30),
        ("800MB", "memory", 8e8),
    ],
)
def test_forms(text: str, kind: str, amount: float) -> None:
    budget = parse_budget(text)
    assert budget.kind == kind
    assert budget.amount == pytest.approx(amount)
    assert budget.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0%",
        "-5%",
        "101%",
        "5 percent",
        "many",
        "2X",
        "%",
        "modules",
        "1e6",
        "nan",
        "inf",
        "2 M B",
        "12 modulesx",
        "1.2.3%",
        "GB",
        "0GB",
        "٢٥x",
    ],
)
def test_anything_else_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_budget(text)
    assert f"--budget {text}" in caught.value.what
    assert caught.value.hint


def equal_modules(count: int) -> tuple[Target, ...]:
    return tuple(Target(f"m{i}", i, "query", "attention", 1, 0) for i in range(count))


def test_every_percentage_of_a_hundred_is_itself() -> None:
    """29 % of 100 parameters is 29, not 28.999…"""
    found = [parse_budget(f"{percent}%").ceiling(equal_modules(100), 1) for percent in range(1, 101)]
    assert found == list(range(1, 101))


@pytest.mark.parametrize(("text", "count"), [("4.1M", 4_100_000), ("8.2M", 8_200_000), ("2.3k", 2_300)])
def test_decimal_numbers_are_not_cut_by_rounding(text: str, count: int) -> None:
    assert parse_budget(text).ceiling(TARGETS, 8) == count


def test_sizes_and_ceilings() -> None:
    total = sum(8 * (t.in_features + t.out_features) for t in TARGETS)
    share, params, modules = parse_budget("25%"), parse_budget("1k"), parse_budget("3modules")
    assert share.ceiling(TARGETS, 8) == total // 4
    assert share.sizes(TARGETS, 8).sum() == total
    assert params.ceiling(TARGETS, 8) == params.ceiling(TARGETS, 1) == 1000
    assert modules.sizes(TARGETS, 8).tolist() == [1] * len(TARGETS)
    assert modules.ceiling(TARGETS, 8) == 3
    assert modules.params(TARGETS, 8) == 8 * (64 + 64 + 64)  # the three largest: mlp up and down
    assert parse_budget("1GB").ceiling(TARGETS, 8) == total


def test_allows() -> None:
    def cost(params: int, memory: int = 0) -> Cost:
        return Cost(params, params, params, memory, 1.0)

    assert parse_budget("1k").allows(cost(1000), 50, TARGETS, 8)
    assert not parse_budget("1k").allows(cost(1001), 1, TARGETS, 8)
    assert parse_budget("3modules").allows(cost(10**9), 3, TARGETS, 8)
    assert not parse_budget("3modules").allows(cost(1), 4, TARGETS, 8)
    assert parse_budget("1GB").allows(cost(10**9, 10**9), 50, TARGETS, 8)
    assert not parse_budget("1GB").allows(cost(1, 10**9 + 1), 1, TARGETS, 8)
    total = sum(t.lora_params(8) for t in TARGETS)
    assert parse_budget("100%").allows(cost(total), 12, TARGETS, 8)
    assert not parse_budget("50%").allows(cost(total // 2 + 1), 1, TARGETS, 8)
