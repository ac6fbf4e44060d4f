"""Pictures of landscapes and flatness: what is drawn, and as what it is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchproof.core.errors import InputError
from torchproof.diagnose.flatness import Flatness
from torchproof.diagnose.landscape import Landscape, Plane
from torchproof.report.flatness_plots import draw_flatness, draw_landscapes, draw_plane, draw_planes
from torchproof.report.pictures import save

LINES = Landscape((-1.0, 0.0, 1.0), ((2.0, 1.0, 3.0), (4.0, 1.0, 5.0)))


def measured(average: float | None, worst: float | None) -> Flatness:
    return Flatness(
        threat="linf:0.1", ball="layer", n=10, reference=0.5, error=0.2, average_xi=0.5,
        drawn=(1.0, 2.0), average=average, spread=None if average is None else 0.5,
        worst_xi=0.003, worst=worst, moved=("w",), zero=(), left_out=(), notes=(),
    )  # fmt: skip


def test_curves_show_the_mean_in_a_band() -> None:
    figure = draw_landscapes({"AT": LINES, "one": Landscape((-1.0, 1.0), ((1.0, 2.0),))})
    (axes,) = figure.axes
    line = axes.get_lines()[0]
    assert list(line.get_xdata()) == [-1, 0, 1] and list(line.get_ydata()) == [3, 1, 4]
    (band,) = axes.collections  # a single direction has none
    low, high = band.get_datalim(axes.transData).intervaly
    assert (low, high) == pytest.approx((1, 5))
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["AT", "one"]
    assert axes.get_yscale() == "linear" and axes.get_xlim() == (-1, 1)
    steep = draw_landscapes({"x": Landscape((0.0, 1.0), ((0.1, 30.0),))}, robust=False)
    assert steep.axes[0].get_yscale() == "log" and "clean" in steep.axes[0].get_ylabel()


def wide_plane(low: float) -> Plane:
    return Plane(("random", "random"), (-1.0, 1.0), ((low, 9.0), (1.5, 3.0)))


def test_planes_name_their_axes_and_mark_the_network() -> None:
    losses = ((2.0, 1.0), (4.0, 3.0))
    figure = draw_plane(Plane(("adversarial", "random"), (-1.0, 1.0), losses), "AT")
    axes, bar = figure.axes
    assert axes.get_xlabel() == "a, adversarial direction" and axes.get_title() == "AT"
    (cross,) = axes.get_lines()
    assert (float(cross.get_xdata()[0]), float(cross.get_ydata()[0])) == (0, 0)
    filled, _ = axes.collections
    # rows of the losses are along x: the highest is at the right end of the lower edge
    assert filled.get_array().min() >= 1 and bar.get_ylim() == (1, 4)
    wide = draw_plane(Plane(("random", "random"), (-1.0, 1.0), ((0.1, 9.0), (1.0, 3.0))))
    assert wide.axes[1].get_yscale() == "log"
    even = draw_plane(Plane(("random", "random"), (-1.0, 1.0), ((1.0, 1.0), (1.0, 1.0))))
    assert "1 everywhere" in [t.get_text() for t in even.axes[0].texts]
    both = draw_planes({"clean": wide_plane(0.1), "attacked": wide_plane(1.0)})
    titles = [axes.get_title() for axes in both.axes]
    assert titles[:2] == ["clean", "attacked"] and len(both.axes) == 4
    with pytest.raises(InputError):
        draw_plane(Plane(("random", "random"), (0.0,), ((1.0,),)))


def test_flatness_is_drawn_per_name_and_kind() -> None:
    figure = draw_flatness(
        {"AT": [measured(1.0, 0.1), measured(2.0, 0.2)], "AWP": measured(0.5, 0.1)}
    )
    left, right = figure.axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["AT", "AWP"]
    assert [bar.get_width() for bar in left.patches] == pytest.approx([1.5, 0.5])
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.15, 0.1])
    (spread, _) = left.get_lines()
    assert list(spread.get_xdata()) == pytest.approx([1.0, 2.0])
    assert len(draw_flatness({"AT": measured(1.0, None)}).axes) == 1
    for empty in ({}, {"AT": measured(None, None)}):
        with pytest.raises(InputError):
            draw_flatness(empty)
    with pytest.raises(InputError):
        draw_landscapes({})


def test_pictures_are_stored_by_their_ending(tmp_path: Path) -> None:
    figure = draw_landscapes({"AT": LINES})
    for kind, begin in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        save(figure, tmp_path / f"a.{kind}")
        assert (tmp_path / f"a.{kind}").read_bytes().startswith(begin)
    assert ">robust loss" in (tmp_path / "a.svg").read_text()  # text stays text
    first = (tmp_path / "a.svg").read_bytes()
    save(draw_landscapes({"AT": LINES}), tmp_path / "b.svg")
    assert (tmp_path / "b.svg").read_bytes() == first
    with pytest.raises(InputError):
        save(figure, tmp_path / "a.gif")
