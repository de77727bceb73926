"""Numbers that are true, and headings, axes and rows that can be read."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest
from tui_helpers import settled, shown_text

from advisor.core.targets import Target
from tui.app import AdvisorApp
from tui.cells import MEASURES, headings, number, number_width
from tui.heatmap import Grid, HeatMap
from tui.plot import Scale

MakeApp = Callable[..., AdvisorApp]


async def test_numbers_of_the_last_selection_go_with_it(make_app: MakeApp, engine, monkeypatch) -> None:
    app = make_app(opened=True)
    gate = threading.Event()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("m")  # loss saved: it is of the selection too
        old = f"{app.state.figures.metric[0]:.2f}"
        assert old in shown_text(app, "#selection")
        for name, asks in (("figures", engine.figures), ("effects", engine.effects)):
            monkeypatch.setattr(engine, name, lambda *given, asks=asks: asks(*given) if gate.wait(10) else None)
        await pilot.press("space")
        lines = shown_text(app, "#selection").splitlines()
        assert not [line for line in lines if line.startswith(("accuracy", "loss", "memory")) and "…" not in line]
        assert "loss vs all …" in " ".join(shown_text(app, "#against").split())
        assert app.screen.query_one(HeatMap).is_stale
        assert "loss saved …" in shown_text(app, "#legend")
        gate.set()
        await settled(pilot)
        assert not app.screen.query_one(HeatMap).is_stale
        assert f"{app.state.figures.metric[0]:.2f}" in shown_text(app, "#selection")


LLAMA = ("query", "key", "value", "output", "gate", "up", "down")
T5 = (*LLAMA[:4], *(f"cross.{role}" for role in LLAMA[:4]), "wi", "wo")


@pytest.mark.parametrize("roles", [LLAMA, T5, ("q_proj", "k_proj", "c_attn", "fc1", "fc2"), ("mlp.dense_in", "mlp.dense_out")])
@pytest.mark.parametrize("width", [2, 3, 4, 6, 10])
def test_headings_fit_and_tell_all_roles_apart(roles: tuple[str, ...], width: int) -> None:
    found = headings(roles, width)
    assert len(set(found)) == len(roles)
    assert all(0 < len(name) <= width for name in found)


@pytest.mark.parametrize("top", [0.03, 0.3, 1.0])
@pytest.mark.parametrize("most", range(1, 6))
def test_numbers_are_shown_only_where_they_say_something(top: float, most: int) -> None:
    values = [top * i / 9 for i in range(10)]
    width = number_width(values, MEASURES["share"], most)
    if width:
        shown = [float(number(value, MEASURES["share"], width)) for value in values]
        assert max(abs(s - 100 * v) for s, v in zip(shown, values, strict=True)) <= max(0.02 * 100 * top, 0.05) + 1e-9
    else:
        assert most < 4


def test_rows_say_which_stack_they_are_of() -> None:
    def rows(*names: str) -> tuple[str, ...]:
        return Grid.of([Target(name, i, "query", "attention", 4, 4) for i, name in enumerate(names)]).labels

    assert rows("encoder.block.0.q", "encoder.block.1.q", "decoder.block.0.q") == ("enc0", "enc1", "dec0")
    assert rows("model.vision.layers.0.q", "model.language.layers.10.q") == ("vis0", "lan10")
    assert rows("model.text_a.0.q", "model.text_b.1.q") == ("s1.0", "s2.1")
    assert rows("model.layers.0.q", "model.layers.31.q") == ("0", "1")


async def test_seven_roles_are_readable_at_80x24(make_app: MakeApp, engine) -> None:
    targets = [Target(f"model.layers.{i}.{r}", i, r, "attention", 24, 24) for i in range(32) for r in LLAMA]
    app = make_app(opened=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        heatmap = app.screen.query_one(HeatMap)
        heatmap.show_grid(Grid.of(targets))
        heatmap.show_values([0.001 + 0.0001 * i for i in range(224)], MEASURES["share"])
        assert heatmap.render_line(0).text.split() == ["layer", "q", "k", "v", "o", "gate", "up", "down"]
        line = heatmap.render_line(1).text
        assert not set(line[6:]) & set("123456789")
        assert line.count("○") == 7


@pytest.mark.parametrize(("value", "limits"), [(0.0, (0.0, 1.0)), (1.0, (0.0, 1.0)), (0.0, (-1.0, 1.0)), (0.0, (0.0, math.inf))])
def test_an_axis_keeps_to_what_its_metric_can_be_also_where_all_tie(value: float, limits: tuple[float, float]) -> None:
    scale = Scale.of([value, value], margin=0.08, limits=limits)
    assert limits[0] <= scale.low < scale.high <= limits[1]
    assert 0 <= scale.place(value) <= 1
