"""Pictures of backdoors: what is drawn is what was measured."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from torchproof.backdoor.metrics import Change, Measured, Share
from torchproof.backdoor.sweep import Setting, Sweep
from torchproof.backdoor.triggers import Blend, Patch, Warp
from torchproof.core.errors import InputError
from torchproof.report.backdoor_plots import COLOURS, budgets, draw, draw_triggers, trade_off


def share(hits: int, of: int = 100) -> Share:
    return Share.count(torch.arange(of) < hits)


def measured(success: int, clean: int, agreement: int) -> Measured:
    change = Change(0.01, 1.0, 0.1, 10, 0, 0)
    return Measured(
        7, share(clean), share(96), share(agreement), share(success), share(1), None, None, change
    )


def sweep(*points: tuple[float, float, int, int]) -> Sweep:
    return Sweep(tuple(Setting(e, w, measured(s, c, c - 1)) for e, w, s, c in points))


TWO = [
    sweep((0.001, 1.0, 2, 94), (0.01, 1.0, 90, 40), (0.1, 1.0, 99, 95), (0.01, 0.3, 60, 70)),
    sweep((0.001, 1.0, 4, 92), (0.01, 1.0, 80, 50), (0.1, 1.0, 97, 93), (0.01, 0.3, 40, 80)),
]


def points(xy: Any) -> list[tuple[float, float]]:
    return [(float(u), float(v)) for u, v in xy]


def lines(axes: Axes, colour: str) -> list[list[tuple[float, float]]]:
    """The curves of a colour, those of the legend left out."""
    found: list[Any] = list(axes.get_lines())
    mine = [points(line.get_xydata()) for line in found if line.get_color() == COLOURS[colour]]
    return [line for line in mine if line]


def outline(axes: Axes) -> list[tuple[float, float]]:
    """The edge of the first band."""
    band: Any = axes.collections[0]
    return points(band.get_paths()[0].vertices)


def test_the_curves_are_means_over_seeds_by_budget() -> None:
    axes = Figure().subplots()
    budgets(axes, TWO, "mnist")
    heavy, light = lines(axes, "success")
    assert heavy == [(0.001, 3.0), (0.01, 85.0), (0.1, 98.0)] and light == [(0.01, 50.0)]
    assert lines(axes, "clean")[0] == [(0.001, 93.0), (0.01, 45.0), (0.1, 94.0)]
    assert sorted({v for _, v in outline(axes)}) == [2.0, 4.0, 80.0, 90.0, 97.0, 99.0]
    assert axes.get_xscale() == "log" and "mnist" in axes.get_ylabel()


def test_a_single_seed_has_the_interval_for_a_band() -> None:
    axes = Figure().subplots()
    budgets(axes, TWO[:1])
    low, high = share(99).low, share(99).high
    ends = {round(v, 6) for eps, v in outline(axes) if eps == pytest.approx(0.1)}
    assert {round(100 * low, 6), round(100 * high, 6)} <= ends


def test_the_trade_off_joins_the_budgets_and_sets_others_beside() -> None:
    axes = Figure().subplots()
    trade_off(axes, TWO, {"poisoned data": [measured(100, 95, 97)]})
    assert lines(axes, "success")[0] == [(92.0, 3.0), (44.0, 85.0), (93.0, 98.0)]
    collections: list[Any] = list(axes.collections)
    dots = [point for c in collections for point in points(c.get_offsets())]
    assert (97.0, 100.0) in dots and (93.0, 2.0) in dots and len(dots) == 9
    assert [t.get_text() for t in axes.texts] == ["0.001", "0.01", "0.1"]


def test_whole_pictures_come_out_as_png_and_svg() -> None:
    figure = draw(TWO, "mnist")
    for form, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=form)
        assert drawn.getvalue().startswith(start)


def test_triggers_are_drawn_with_their_change() -> None:
    x = torch.rand(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    figure = draw_triggers(x, {"patch": Patch(), "blend": Blend(), "warp": Warp()})
    panels = figure.axes
    assert [a.get_title() for a in panels[:7]] == [
        "clean", "patch", "change", "blend", "change", "warp", "change",
    ]  # fmt: skip
    assert len(panels) == 14
    change = torch.as_tensor(panels[2].images[0].get_array())
    assert torch.allclose(change, (Patch()(x) - x)[0].mean(0))
    assert bool((change[:7] == 0).all()) and bool((change[7:, 7:] != 0).any())
    grey = draw_triggers(x[:1, :1], {"patch": Patch()})
    assert grey.axes[0].images[0].get_array().shape == (10, 10)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="at least one backdoor"):
        draw([Sweep(())])
