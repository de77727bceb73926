"""Every option of every command: one definition, and a check that refuses what it does not take before any work."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cli import groups
from advisor.core import option as kinds
from advisor.core import option_groups, options
from advisor.core.amounts import read_budget
from advisor.core.choices import FORMAT_NAMES
from advisor.core.errors import BadInput
from advisor.core.option import REQUIRED, Checked, Option, given_to, options_of, part, shared, values
from advisor.core.recipe import recipe_for

GROUPS = [
    kind
    for module in (option_groups, options, groups)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, Checked) and kind is not Checked and kind.__module__ == module.__name__
]
EVERY = {(group.__name__, name): option for group in GROUPS for name, option in options_of(group).items()}
NUMBERS = [key for key, option in EVERY.items() if option.kind in (kinds.WHOLE, kinds.REAL)]
TEXTS = [
    key
    for key, option in sorted(EVERY.items(), key=lambda item: item[0])
    if option.kind not in (kinds.WHOLE, kinds.REAL, kinds.FLAG)
]


def ids(key: tuple[str, str]) -> str:
    return ".".join(key)


def test_every_option_has_help_and_a_default_that_it_takes() -> None:
    assert len(EVERY) > 100
    for key, option in EVERY.items():
        assert option.help.endswith("."), key
        assert option.panel in option_groups.PANELS, key
        if option.default not in (None, REQUIRED):
            option.check(option.default)


@pytest.mark.parametrize("key", NUMBERS, ids=ids)
def test_numbers_out_of_range_are_refused_by_name(key: tuple[str, str]) -> None:
    option = EVERY[key]
    assert math.isfinite(option.low)
    assert math.isfinite(option.high)
    wrong = [option.low - 1, option.high + 1, -(10**400), 10**5000, "9" * 31, "9" * 6000, "-1e308", "", "eight", "nan", "inf"]
    wrong += [math.nan, math.inf, -math.inf, True, None, [], "\x1b[31m", "٣"]
    if option.kind == kinds.WHOLE:
        wrong += [option.low + 0.5, "1.5"]
    for value in wrong:
        with pytest.raises(BadInput) as found:
            option.check(value)
        assert str(found.value).startswith(f"{option.flags[0]} must be ")
        assert len(str(found.value)) < 300
        assert str(found.value).isprintable()
    for value in (option.high, str(option.high), np.float64(option.high) if option.kind == kinds.REAL else np.int64(option.high)):
        assert option.check(value) == option.high
        assert type(option.check(value)) in (int, float)  # what JSON can write


@pytest.mark.parametrize("key", TEXTS, ids=ids)
def test_texts_without_meaning_are_refused_by_name(key: tuple[str, str]) -> None:
    option = EVERY[key]
    wrong: list[Any] = ["", "  ", "x\0y", "x" * 5000]
    wrong += [["\x1b[31m", "a", ""]] if option.kind == kinds.NAMES else []
    wrong += ["\x1b]0;title\x07\u202e"] if option.choices or option.meaning else []
    for value in wrong:
        with pytest.raises(BadInput) as found:
            option.check(value)
        assert str(found.value).startswith(option.called)
        assert len(str(found.value)) < 300
        assert str(found.value).isprintable()


@given(st.text(), st.sampled_from(sorted(EVERY)))
def test_whatever_is_typed_is_taken_or_refused_in_a_line(text: str, key: tuple[str, str]) -> None:
    said = ""
    try:
        EVERY[key].check(text)
    except BadInput as error:
        said = str(error)
    assert len(said) < 700


AS_TYPED = [  # and what it stands for, None: refused
    ("0.001", 0.001),
    ("1.5e-4", 1.5e-4),
    ("+.5", 0.5),
    ("5.", 5.0),
    ("2,500", 2500.0),
    ("1,234,567.5", 1234567.5),
    ("10_000", 10_000.0),
    *((text, None) for text in ("0,001", "1,5e-4", "1,5", "2,50", "1000,000", "0,100", "1.000,5", "1e3,5", "1,000e-4")),
    *((text, None) for text in ("1,234_567", ",5", "5,", "1,,000", "1_0", "1__000", "_1", "1.0_1", "10 000", "1'000")),
    *(
        (text, None)
        for text in ("0x10", "1e", ".", "infinity", "1e400", "1\xa0000", "1\u202f000", "\u22125", "\uff15", "5\u066b5")
    ),
]


@pytest.mark.parametrize(("text", "number"), AS_TYPED)
def test_commas_stand_between_thousands_only(text: str, number: float | None) -> None:
    """Written one by one from the forms that people use; wherever a number is typed the same are taken."""
    takes = [
        lambda: Option(kinds.REAL, "H.", low=-1e9, high=1e9, flags=("--x",)).check(text),
        lambda: Option(kinds.REAL, "H.", low=-1e9, high=1e9, word="auto", flags=("--x",)).check(f" {text} "),
        *([] if text.startswith("+") or "e" in text else [lambda: read_budget(f"{text} MB", "--x")[1] / 1e6]),
    ]
    for take in takes:
        if number is None:
            with pytest.raises(BadInput, match="--x") as found:
                take()
            assert ("Write decimals with a point" in found.value.hint) == ("," in text)
        else:
            assert take() == pytest.approx(number, rel=1e-12)


def test_whole_numbers_and_budgets_with_a_decimal_comma_are_refused() -> None:
    wrong = {"lr": "0,001", "alpha": "0,5", "rank": "1,5", "train_rows": "12,50", "budget": "2,5GB", "max_forgetting": "0,25"}
    for name, text in wrong.items():
        with pytest.raises(BadInput, match="Write decimals with a point"):
            options.Recommend(**{name: text})
    found = options.Recommend(train_rows="10,000", budget="2,500")
    assert (found.train_rows, read_budget(found.budget)) == (10_000, ("params", 2500.0))


@given(st.from_regex(r"[0-9]{1,50}(\.[0-9]{1,50})?(%|modules|gb|gib|mb|k|m|b|)", fullmatch=True))
def test_every_budget_is_a_finite_amount_or_refused(text: str) -> None:
    try:
        kind, amount = read_budget(text)
    except BadInput:
        return
    assert kind in ("share", "params", "modules", "memory")
    assert 0 < amount <= 1e15


def test_an_object_is_checked_when_it_is_made_and_holds_plain_values() -> None:
    found = options.Recommend("m", "d", text_column="a,b", format="trl, peft", rank="auto", alpha=np.float32(4), seed=np.int64(3))
    assert (found.text_columns, found.formats, found.rank, found.alpha, found.seed) == (("a,b",), ("trl", "peft"), "auto", 4.0, 3)
    assert (type(found.alpha), type(found.seed)) == (float, int)
    assert set(given_to(found)) == {"model", "data", "text_column", "seed", "rank", "alpha", "format"}


def test_what_was_given_is_known_also_at_what_holds_without_it() -> None:
    found = options.Recommend("m", rank="8", head="probed", load_in_4bit=False, text_column=[], samples=None)
    assert given_to(found) == {"model": "m", "rank": 8, "head": "probed", "load_in_4bit": False}
    assert given_to(part(found, options.Terminal)) == given_to(found)
    assert given_to(options.Recommend()) == {}


@pytest.mark.parametrize("named", [{"samples": 128}, {"head": "probed"}, {"task": "auto"}, {"load_in_8bit": False}, {"keep": []}])
def test_what_a_probe_has_decided_is_refused_beside_it(named: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text("{}", encoding="utf-8")
    free = {"seed": 0, "trust_remote_code": False, "budget": "25%"}
    assert options.probe_of(options.Recommend(tmp_path, **free)) == tmp_path
    assert options.probe_of(options.Recommend("m", **named)) is None
    for kind in (options.Recommend, options.Terminal):
        with pytest.raises(BadInput, match=f"is a probe, made with its own --{next(iter(named)).replace('_', '-')}\\."):
            options.probe_of(kind(tmp_path, **free, **named))


@pytest.mark.parametrize(
    ("group", "given"),
    [
        (option_groups.Loading, {"load_in_4bit": True, "load_in_8bit": True}),
        (option_groups.Pull, {"pull_always": True}),
        (options.Recommend, {"confirm_rows": 5}),
        (options.Recommend, {"confirm": 2, "strategy": "objective"}),
        (options.Recommend, {"effort": "pilot", "strategy": "objective"}),
        (options.Recommend, {"effort": "pilot", "confirm": 2}),
        (options.Recommend, {"effort": "runs", "confirm": 0}),
        (options.Recommend, {"demo": True, "data": "d.csv"}),
        (groups.Calibrate, {"model": "m", "runs": 2, "seeds": 3}),
    ],
)
def test_options_that_exclude_each_other_are_refused(group: type[Checked], given: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="--"):
        group(**given)


@pytest.mark.parametrize(
    ("given", "runs"),
    [({}, 0), ({"effort": "pilot"}, 1), ({"effort": "runs"}, 4), ({"confirm": 7}, 7), ({"effort": "runs", "confirm": 2}, 2)],
)
def test_effort_says_how_many_real_runs(given: dict[str, Any], runs: int) -> None:
    assert options.Recommend(**given).real_runs == runs


def test_groups_are_parts_of_a_command() -> None:
    asked = options.Recommend("m", "d", lr=1e-4, rank=4)
    assert values(asked, option_groups.Recipe) == {"train_rows": None, "epochs": None, "lr": 1e-4, "batch_size": None}
    assert part(asked, option_groups.Lora) == option_groups.Lora(rank=4)
    assert shared(asked, Option) == {}


def test_words_are_those_of_the_engine() -> None:
    """They stand in core so that showing the help loads nothing."""
    from advisor.export import FORMATS
    from advisor.probing import gram

    assert tuple(FORMATS) == FORMAT_NAMES
    assert options_of(option_groups.Probing)["method"].choices == ("auto", gram.MATERIALISE, gram.TOKEN_GRAM, gram.KRONECKER)


@pytest.mark.parametrize(
    "made",
    [
        lambda: groups.Calibrate("m", train_rows=3),
        lambda: options.Recommend(train_rows=1),
        lambda: options.Recommend(confirm=1, confirm_rows=2),
        lambda: options.Terminal(train_rows=2),
        lambda: recipe_for("classification", train_rows=3),
    ],
)
def test_too_few_training_rows_are_refused_by_every_command(made: Callable[[], Any]) -> None:
    with pytest.raises(BadInput, match=r"rows must be a whole number from 4 to|too few training rows\. Give 4 at the least"):
        made()
    assert groups.Calibrate("m", train_rows=4).train_rows == 4
