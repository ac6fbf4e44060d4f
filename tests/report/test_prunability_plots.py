"""Pictures of prunability."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from torchproof.diagnose.prunability import prunability
from torchproof.report.prunability_plots import draw


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    x = torch.rand(20, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    with torch.no_grad():
        y = model(x).argmax(1)
    ways = ("magnitude", "random")
    return {by: prunability(model, x, y, by=by, grid=10) for by in ways}  # type: ignore[arg-type]


def test_the_curve_and_mu_are_drawn(found: dict) -> None:  # type: ignore[type-arg]
    curve = found["magnitude"]
    axes = draw(curve).axes[0]
    line, dot = axes.lines[:2]
    assert tuple(line.get_xdata()) == curve.fractions
    assert tuple(line.get_ydata()) == curve.losses
    assert list(dot.get_xdata()) == [curve.fraction]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert axes.get_ylabel() == "loss on 20 training images, nats"
    assert labels == [f"magnitude: µ = {curve.fraction:.2f}", "allowed loss"]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_several_curves_go_into_a_file(found: dict, kind: str) -> None:  # type: ignore[type-arg]
    figure, file = draw(found), io.BytesIO()
    figure.savefig(file, format=kind)
    assert len(figure.axes[0].lines) == 5 and len(file.getvalue()) > 3000
