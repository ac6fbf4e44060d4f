"""Pictures of noise responses show the numbers that they were given."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from torchproof.backdoor.titrate import Setting, Titration
from torchproof.core.errors import InputError
from torchproof.core.metrics import clopper_pearson
from torchproof.core.ranking import Roc
from torchproof.report.pictures import save
from torchproof.report.titration_plots import draw, draw_groups, draw_roc


def curve(*sure: int, classes: int = 3) -> Titration:
    """A curve of 50 images with so many confident changes at each of three strengths of noise."""
    flips = tuple((n, *[0] * (classes - 1)) for n in sure)
    answers = tuple((n, 50 - n, *[0] * (classes - 2)) for n in sure)
    share = tuple(n / 50 for n in sure)
    setting = Setting(50, 0.9, "own prediction", 1, False, 0)
    return Titration((0.5, 1.0, 4.0), share, (0.5, 0.6, 0.7), answers, flips, 0.1, None, setting)


def test_the_curve_of_one_network() -> None:
    figure = draw(curve(5, 20, 40), ["ape", "bee", "cat"])
    above, below = figure.axes[:2]
    lines = {
        str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in above.get_lines()
    }
    assert lines["of all answers (T)"] == [0.1, 0.4, 0.8]
    assert lines["of changed answers"] == [0.5, 0.6, 0.7]
    assert "above 0.9" in above.get_ylabel() and above.get_xscale() == "log"
    (band,) = (c for c in above.collections if isinstance(c, PolyCollection))
    low, high = clopper_pearson(5, 50)
    corners = np.asarray(band.get_paths()[0].vertices)
    heights = {round(float(y), 6) for y in corners[corners[:, 0] == 0.5, 1]}
    assert {round(low, 6), round(high, 6)} <= heights
    image = below.get_images()[0].get_array()
    assert image is not None and image.shape == (3, 3)
    assert image[:, 1].tolist() == pytest.approx([0.4, 0.6, 0.0])
    assert [t.get_text() for t in below.get_yticklabels()] == ["ape", "bee", "cat"]


def test_the_roc_of_the_bank_stands_beside_the_curve() -> None:
    figure = draw(curve(5, 20, 40), roc=Roc.of([0.0, 1.0], [0.5, 3.0]))
    lines = [str(line.get_label()) for axes in figure.axes for line in axes.get_lines()]
    assert "of all answers (T)" in lines
    assert any(line.startswith("AUROC: 0.75 (") for line in lines)
    assert len(figure.axes) == len(draw(curve(5, 20, 40)).axes) + 1


def test_many_classes_have_no_names() -> None:
    figure = draw(curve(5, 20, 40, classes=40))
    assert [t.get_text() for t in figure.axes[1].get_yticklabels()] == []


def test_groups_have_a_mean_and_a_range() -> None:
    figure = draw_groups(
        {"clean": [curve(0, 10, 20), curve(10, 20, 40)], "patch": [curve(9, 9, 9)]}
    )
    (axes,) = figure.axes
    lines = {
        str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()
    }
    assert lines["clean (2)"] == pytest.approx([0.1, 0.3, 0.6])
    assert lines["patch (1)"] == pytest.approx([0.18] * 3)
    first = next(c for c in axes.collections if isinstance(c, PolyCollection))
    assert first.get_datalim(axes.transData).y1 == pytest.approx(0.8)
    with pytest.raises(InputError, match="at least one curve"):
        draw_groups({"clean": []})


def test_roc_curves_say_their_area() -> None:
    roc = Roc.of([0.0, 1.0], [0.5, 3.0])
    (axes,) = draw_roc({"all": roc}).axes
    (line,) = (one for one in axes.get_lines() if str(one.get_label()).startswith("all: 0.75 ("))
    assert np.asarray(line.get_xdata()).tolist() == [*roc.false_alarms, 1]
    assert np.asarray(line.get_ydata()).tolist() == [*roc.found, 1]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_files(tmp_path: Path, kind: str) -> None:
    heads = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    before = dict(matplotlib.rcParams)
    save(draw(curve(1, 2, 3)), tmp_path / f"a.{kind}")
    assert (tmp_path / f"a.{kind}").read_bytes().startswith(heads[kind])
    assert dict(matplotlib.rcParams) == before


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="png, svg, pdf"):
        save(draw(curve(1, 2, 3)), tmp_path / "a.gif")
