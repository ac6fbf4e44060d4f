"""Pictures of tail indices: what is drawn is what was found."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

from torchproof.core import keys
from torchproof.diagnose.stable import Estimate
from torchproof.diagnose.tail_index import LayerTails, TailIndex, Tails, TailTrack, tails
from torchproof.report.tail_index_plots import (
    READINGS,
    WORDS,
    draw_layers,
    draw_tails,
    draw_track,
    histogram,
    stable_line,
)


@cache
def found() -> Tails:
    noise = keys.normal(keys.mix("picture", torch.arange(60)), 0, (200,))
    return tails(noise - noise.mean(0))


def lines(figure: Figure, axes: int, label: str) -> list[np.ndarray]:
    """The points of all lines of that label."""
    every = figure.axes[axes].lines
    return [np.asarray(line.get_xydata()) for line in every if line.get_label() == label]


def test_tails_show_every_reading_and_the_fitted_laws() -> None:
    figure = draw_tails(found(), "a title")
    left, middle, right = figure.axes
    assert [t.get_text() for t in right.get_yticklabels()][: len(WORDS)] == list(WORDS.values())
    dots = [line for line in right.lines if line.get_marker() == "o"]
    arrows = [line for line in right.lines if line.get_marker() == ">"]
    shown = [getattr(found(), name).alpha for name in WORDS] + [e.alpha for e in found().scaling]
    inside = [v for v in shown if v <= 3]
    assert [float(line.get_xdata()[0]) for line in dots] == pytest.approx(inside)
    assert len(arrows) == len(shown) - len(inside) >= 1  # Hill
    names = [t.get_text() for t in middle.get_legend().get_texts()]
    assert names[0] == "noise, levelled" and "Gaussian law" in names and "stable law" in names[1]
    assert len(left.get_legend().get_texts()) == 3


def test_the_histogram_and_the_laws_are_densities() -> None:
    axes = Figure().add_subplot()
    at = np.logspace(-2, 3, 51)
    stable_line(axes, tuple(at), 2.0, "k")
    middle, density = np.asarray(axes.lines[0].get_xydata()).T
    near = middle < 3
    law = stats.halfnorm(scale=1 / stats.norm.ppf(0.75))
    assert density[near] == pytest.approx(law.pdf(middle[near]), rel=0.03)
    histogram(axes, tuple(at), tuple(law.sf(at)), "seen", "C0")
    (outline,) = [p for p in axes.patches if p.get_label() == "seen"]
    values = outline.get_data().values
    assert (values * np.diff(at))[at[:-1] < 3].sum() == pytest.approx(
        law.cdf(3.16) - law.cdf(0.01), abs=0.01
    )


def test_layers_and_tracks() -> None:
    heavy = replace(found(), filtered=Estimate(1.25, 1.2, 1.3, 9000))
    layers = (LayerTails("one", heavy), LayerTails("none", None, "too few"))
    figure = draw_layers(TailIndex(found(), layers, 4))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["all", "one"]
    for name, (label, _) in READINGS.items():  # the published reading and all controls
        first = lines(figure, 0, label)[0]
        assert float(first[0, 0]) == pytest.approx(getattr(found(), name).alpha), name
    words = READINGS["filtered"][0]
    shown = [float(p[0, 0]) for p in lines(figure, 0, words)]
    assert shown == pytest.approx([found().filtered.alpha, 1.25])
    figure = draw_track(TailTrack((0, 50), (found(), heavy), (100,)))
    (line,) = lines(figure, 0, words)
    assert line.tolist() == pytest.approx(np.array([[0, found().filtered.alpha], [50, 1.25]]))
    assert len(figure.axes[0].collections) == len(READINGS)
