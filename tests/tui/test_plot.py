"""Plots of characters: where marks and lines are drawn."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.plot import BELOW, CURSOR, GUTTER, INTERVAL, LINE, Point, places, plot

WIDTH, HEIGHT = GUTTER + 21, BELOW + 11  # 21 columns, 11 lines


def point(x: float, value: float, mark: str = "o", low: float = -math.inf, high: float = math.inf) -> Point:
    return Point(x, value, low, high, mark, "mark")


def text(lines: list[list[tuple[str, str]]]) -> list[str]:
    return ["".join(part for part, _ in line) for line in lines]


SQUARE = [point(10, 0.0, "a"), point(1000, 1.0, "b"), point(100, 0.5, "c")]


def test_the_smallest_is_at_the_lower_left_and_the_middle_of_a_log_scale_is_the_geometric_mean() -> None:
    (row_a, column_a), (row_b, column_b), (row_c, column_c) = places(SQUARE, WIDTH, HEIGHT)
    assert row_b < row_c < row_a
    assert column_a < column_c < column_b
    assert column_c - GUTTER == 10
    assert row_c == 5


def test_a_linear_scale_takes_what_is_not_positive() -> None:
    points = [point(-0.2, 0.0, "a"), point(0.2, 1.0, "b"), point(0.0, 0.5, "c")]
    columns = [column for _, column in places(points, WIDTH, HEIGHT, log=False)]
    assert columns[0] < columns[2] < columns[1]
    assert columns[2] - GUTTER == 10
    assert text(plot(points, [], WIDTH, HEIGHT, log=False))[-1].split() == ["-0.220", "0.000", "0.220"]


def test_every_mark_stands_where_its_place_says() -> None:
    lines = text(plot(SQUARE, [], WIDTH, HEIGHT))
    for mark, (row, column) in zip("abc", places(SQUARE, WIDTH, HEIGHT), strict=True):
        assert lines[row][column] == mark


def test_the_line_goes_right_at_the_value_reached_then_up() -> None:
    lines = plot(SQUARE, [0, 1], WIDTH, HEIGHT)
    drawn = {
        (row, column)
        for row, line in enumerate(lines)
        for column, (character, style) in enumerate([(c, style) for part, style in line for c in part])
        if style == LINE and character != " "
    }
    (row_a, column_a), (row_b, column_b), _ = places(SQUARE, WIDTH, HEIGHT)
    across = {(row_a, column) for column in range(column_a + 1, column_b + 1)}
    up = {(row, column_b) for row in range(row_b + 1, row_a + 1)}
    assert drawn == across | up
    assert all(0x2800 < ord(c) <= 0x28FF for line in lines for part, style in line if style == LINE for c in part)


def test_the_first_of_several_in_one_cell_is_seen_but_the_cursors_over_all() -> None:
    same = [point(1, 0, "a"), point(1, 0, "b"), point(9, 1, "z")]
    assert "a" in "".join(text(plot(same, [], WIDTH, HEIGHT)))
    assert "b" not in "".join(text(plot(same, [], WIDTH, HEIGHT)))
    assert "b" in "".join(text(plot(same, [], WIDTH, HEIGHT, cursor=1)))


def test_the_cursor_shows_the_interval_with_arrows_where_it_goes_on() -> None:
    points = [point(1, 0.0, "a", 0.2, 0.9), point(10, 1.0, "b", 0.5, 7.0), point(100, 0.3, "c")]
    styled = [part for line in plot(points, [], WIDTH, HEIGHT, cursor=1) for part in line]
    bar = "".join(part for part, style in styled if style == INTERVAL)
    assert bar[0] == "↑"
    assert set(bar[1:]) == {"│"}
    assert "↓" not in bar
    assert "".join(part for part, style in styled if style == CURSOR) == "▸b◂"


def test_one_point_alone_has_an_axis_with_different_ends() -> None:
    labels = text(plot([point(18_400, 0.5)], [0], WIDTH, HEIGHT))[-1].split()
    assert len(labels) == len(set(labels)) == 3


def test_a_selection_without_parameters_stands_at_the_left_end() -> None:
    where = places([point(0, 0.1), point(10, 0.2), point(1000, 0.3)], WIDTH, HEIGHT)
    assert where[0][1] <= where[1][1] < where[2][1]


@pytest.mark.parametrize(("width", "height"), [(GUTTER + 11, 20), (40, BELOW + 2), (0, 0)])
def test_nothing_is_drawn_without_room(width: int, height: int) -> None:
    assert plot(SQUARE, [0], width, height) == []


def test_nothing_is_drawn_without_points() -> None:
    assert plot([], [], WIDTH, HEIGHT) == []


numbers = st.floats(-1e6, 1e6)


@given(
    st.lists(st.tuples(st.integers(0, 10**12), numbers, numbers, numbers), min_size=1, max_size=12),
    st.integers(GUTTER + 12, 120),
    st.integers(BELOW + 3, 40),
    st.data(),
)
def test_every_line_has_the_asked_width_whatever_the_numbers(
    values: list[tuple[float, float, float, float]], width: int, height: int, data: st.DataObject
) -> None:
    points = [Point(x, value, low, high, "o", "mark") for x, value, low, high in values]
    cursor = data.draw(st.integers(0, len(points) - 1))
    lines = text(plot(points, range(len(points)), width, height, cursor))
    assert [len(line) for line in lines] == [width] * height
    assert all(GUTTER <= column < width and 0 <= row < height - BELOW for row, column in places(points, width, height))
