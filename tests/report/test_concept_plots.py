"""Pictures of concepts: bars, scores and sheets show what they are given."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure

from torchproof.concept import Concept, Examined, Margin, Plan, Quality, Shown, Tcav
from torchproof.core.errors import InputError
from torchproof.report.concept_plots import draw, draw_images


def concept() -> Concept:
    def way(name: str, recall: float, spent: float) -> Examined:
        each = tuple(Quality(recall + s / 50, spent + s / 60, 0.93) for s in (-1, 0, 1))
        return Examined(name, each, (Quality(recall, spent, 0.94),), (0.1, 0.2, 0.1))

    scores = (
        Tcav(0, 40, (0.9, 0.95, 0.85), (0.4, 0.6, 0.5), (1.0, 1.1, 0.9), 0.01, 2),
        Tcav(1, 31, (0.5, 0.6, 0.4), (0.4, 0.6, 0.5), (0.0, 0.1, 0.0), 0.9, 2),
    )
    shown = tuple(Shown(i, 2.0 - i) for i in range(4))
    return Concept(
        layer="net.act2", width=64, n_concept=50, n_concept_held=25, n_random=50,
        n_random_held=90, unit=1.0, plan=Plan(draws=3, margin=Margin()),
        ways=(way("CAV", 0.8, 0.1), way("CAV, logistic", 0.84, 0.12), way("A-CAV", 0.9, 0.2)),
        tcav=scores, tcav_adversarial=scores, most=shown, least=shown[::-1], vector=(), bias=0.0,
        cautions=(),
    )  # fmt: skip


def rendered(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def test_bars_of_every_way_and_score() -> None:
    found = concept()
    figure = draw(found, ("zebra", "tiger"), "stripes")
    quality, scores = figure.axes
    names = [label.get_text() for label in quality.get_yticklabels()]
    assert names == [
        "CAV", "CAV,\nmean of 3", "CAV, logistic", "CAV, logistic,\nmean of 3", "A-CAV",
        "A-CAV,\nmean of 3",
    ]  # fmt: skip
    widths = [bar.get_width() for bar in quality.patches]
    assert sorted(set(round(w, 6) for w in widths if w)) == pytest.approx(
        [0.1, 0.12, 0.2, 0.8, 0.84, 0.9, 0.93, 0.94]
    )
    assert [label.get_text() for label in scores.get_yticklabels()] == [
        "zebra *\nn = 40", "tiger\nn = 31",
    ]  # fmt: skip
    assert rendered(figure).startswith(b"\x89PNG")
    alone = draw(replace(found, tcav=()))
    assert len(alone.axes) == 1


def test_a_sheet_shows_the_images_in_their_order() -> None:
    x = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8) / 4
    found = concept()
    figure = draw_images(x, found.most, found.least[:3], {0: "zebra", 1: "a very long class name"})
    shown = [float(axes.images[0].get_array().max()) for axes in figure.axes if axes.images]
    assert shown == pytest.approx([0, 0.25, 0.5, 0.75, 0.75, 0.5, 0.25])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["zebra\n+2.00", "a very long c…\n+1.00"] and titles[4] == "-1.00"
    grey = draw_images(x[:, :1], found.most, (), {})
    assert rendered(grey).startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no images"):
        draw_images(x, (), (), {})
