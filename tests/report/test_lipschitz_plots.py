"""Pictures of local Lipschitz constants."""

from __future__ import annotations

import io

import pytest

from torchproof.diagnose.lipschitz import LayerAlpha, Layers, LipschitzCurve
from torchproof.report.lipschitz_plots import draw, draw_layers


def curve(output: str, bound: tuple[float, ...] = (3.0, 3.0, 3.0)) -> LipschitzCurve:
    return LipschitzCurve(
        output, 2, (0.0, 1.0), (0.5, 1.0, 2.0), (0.1, 0.2, 0.1), (1.0, 1.2, 0.7), bound,
        ((1.0, 0.5), (1.2, 0.6), (0.7, 0.7)), 5, 5, 1,
    )  # fmt: skip


def test_lines_are_the_largest_so_far_and_marks_each_radius() -> None:
    axes = draw(curve("softmax")).axes[0]
    drawn = [tuple(line.get_ydata()) for line in axes.lines]
    assert drawn[:5] == [
        (1.0, 1.2, 1.2), (1.0, 1.2, 0.7), (0.1, 0.2, 0.2), (0.1, 0.2, 0.1), (3.0, 3.0, 3.0),
    ]  # fmt: skip
    assert (drawn[5][0], drawn[5][-1]) == pytest.approx((2 * 2**0.5, 2**-0.5))
    assert axes.get_yscale() == "log"


def test_without_bound_and_for_logits_there_is_less_to_draw() -> None:
    assert len(draw(curve("logits", ())).axes[0].lines) == 4


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_several_networks_go_into_a_file(kind: str) -> None:
    figure, file = draw({"one": curve("logits"), "other": curve("logits")}), io.BytesIO()
    figure.savefig(file, format=kind)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels[0] == "one: gradient ascent" and len(labels) == 6
    assert len(file.getvalue()) > 3000


def test_layers_show_what_is_found_and_what_is_known() -> None:
    chain = (LayerAlpha("conv", 0.5, 0.4, 2.0, 2.5), LayerAlpha("norm", 1.0, 0.3, 0.9, None))
    (axes,) = draw_layers(Layers(chain, 5)).axes
    points = {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
    }
    assert points["random noise"] == ([0.4, 0.3], [0, 1])
    assert points["gradient ascent"] == ([2.0, 0.9], [0, 1])
    assert points["certified bound"] == ([2.5], [0])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["conv", "norm"]
