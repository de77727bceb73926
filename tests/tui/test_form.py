"""Fields of Setup and cells of the heat-map: text to values and values to text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.cells import GLYPHS, MEASURES, UNKNOWN, glyph, levels, number
from tui.form import FIELDS, by_fields, parsed, shown
from tui.inputs import Inputs


@pytest.mark.parametrize(
    ("said", "shown_as"),
    [
        ("given as --data", "given as Data"),
        ("Choose another --out.", "Choose another folder."),
        ("Raise --budget, or lower --batch-size.", "Raise Budget, or lower Batch size."),
        ("Add --trust-remote-code.", "Add --trust-remote-code."),
    ],
)
def test_options_are_called_as_the_fields_are(said: str, shown_as: str) -> None:
    assert by_fields(said) == shown_as


def test_every_field_is_an_input_and_shows_what_it_reads() -> None:
    inputs = Inputs(
        model="m",
        revision="v1",
        data="d",
        eval_data="e",
        task="regression",
        text_column=("a", "b"),
        label_column="y",
        metric="spearman",
        max_length=64,
        budget="2M",
        rank=4,
        alpha=8,
        train_rows=100,
        epochs=2,
        lr=3e-4,
        batch_size=8,
        samples=64,
        device="cpu",
        granularity="layer",
    )
    values, problems = parsed({field.name: shown(inputs, field) for field in FIELDS})
    assert not problems
    assert {name: getattr(inputs, name) for name in values} == values


def test_empty_fields_are_defaults() -> None:
    values, problems = parsed({field.name: "  " for field in FIELDS})
    assert not problems
    assert all(getattr(Inputs(), name) == value for name, value in values.items())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rank", "0"),
        ("rank", "-1"),
        ("rank", "8.5"),
        ("rank", "²"),
        ("alpha", "nan"),
        ("alpha", "inf"),
        ("lr", "-1e-3"),
        ("lr", "fast"),
        ("lr", "0,001"),
        ("budget", "1,5%"),
        ("max_forgetting", "0,5"),
        ("epochs", "x"),
        ("device", "tpu"),
        ("task", "[b]"),
    ],
)
def test_what_cannot_be_read_is_said_with_the_field_and_left_out(name: str, text: str) -> None:
    values, problems = parsed({name: text, "model": "m"})
    assert name not in values
    assert values["model"] == "m"
    assert text in problems[name]


def test_thousands_separators_are_understood() -> None:
    assert parsed({"train_rows": "10,000"})[0]["train_rows"] == 10_000


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30))
def test_levels_lie_between_zero_and_one_and_keep_the_order(values: list[float]) -> None:
    found = levels(values)
    known = [(v, level) for v, level in zip(values, found, strict=True) if level is not None]
    assert all(level is None for v, level in zip(values, found, strict=True) if not math.isfinite(v))
    if all(abs(v) < 1e300 for v, _ in known):
        assert all(0 <= level <= 1 for _, level in known)
        ordered = [level for _, level in sorted(known)]
        assert ordered == sorted(ordered)


def test_glyphs_go_from_little_to_much() -> None:
    assert [glyph(level) for level in (0.0, 0.25, 0.5, 0.7, 1.0)] == list(GLYPHS)
    assert glyph(None) == UNKNOWN


@given(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from(sorted(MEASURES)), st.integers(2, 6))
def test_numbers_fill_their_width_exactly(value: float, measure: str, width: int) -> None:
    assert len(number(value, MEASURES[measure], width)) == width


@pytest.mark.parametrize(
    ("value", "width", "text"), [(0.179, 4, "17.9"), (0.179, 2, "18"), (-0.0001, 4, " 0.0"), (1.0, 2, "++"), (1.0, 3, "100")]
)
def test_numbers_lose_digits_before_they_lose_sense(value: float, width: int, text: str) -> None:
    assert number(value, MEASURES["share"], width) == text


@given(st.floats(1e-8, 10), st.floats(1e-6, 1e6))
def test_numbers_are_shown_to_the_last_digit(lr: float, alpha: float) -> None:
    inputs = Inputs(lr=lr, alpha=alpha)
    values, problems = parsed({field.name: shown(inputs, field) for field in FIELDS})
    assert (values["lr"], values["alpha"], problems) == (lr, alpha, {})
