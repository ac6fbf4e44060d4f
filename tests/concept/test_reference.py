"""captum's TCAV beside ours, where it is installed."""

from __future__ import annotations

import statistics
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.concept import (
    Cav,
    Plan,
    activations,
    captum_tcav,
    cav,
    concepts,
    derivatives,
)
from torchproof.core.errors import MissingExtra


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh())
        self.head = nn.Linear(64, 3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=g) / 3

    def forward(self, x: Tensor) -> Tensor:
        a = self.body(x).flatten(1)
        logits: Tensor = self.head(a * a)
        return logits


def images() -> tuple[Tensor, Tensor, Tensor]:
    """Of a concept, at random, and those asked about."""
    x = torch.rand(130, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return x[:40] * torch.linspace(0, 1, 6), x[40:80], x[80:]


def test_captum_and_ours_agree() -> None:
    pytest.importorskip("captum", reason="captum is not installed")
    up, down, asked = images()
    model = Small().train()
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    scores, theirs = captum_tcav(model, "body", up, down, [(asked, 1), (asked[:7], 2)])
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert (np.random.get_state()[1] == numbers).all()  # type: ignore[index]
    for score, x, target in zip(scores, (asked, asked[:7]), (1, 2), strict=True):
        along = derivatives(model, x, target, "body", theirs.vector[None])
        assert score == pytest.approx(float((along > 0).double().mean()))
    a, b = activations(model, up, "body"), activations(model, down, "body")
    ours = [cav(a, b, seed=seed) for seed in range(10)]
    cosines = [float(one.vector @ theirs.vector) for one in ours]
    among = [float(one.vector @ ours[0].vector) for one in ours[1:]]
    assert statistics.fmean(cosines) > 0.7 * statistics.fmean(among)
    assert isinstance(theirs, Cav)


def test_captum_in_the_record() -> None:
    pytest.importorskip("captum", reason="captum is not installed")
    up, down, asked = images()
    labels, plan = torch.arange(len(asked)) % 2, Plan(draws=2, n=20)
    given = (Small().eval(), "body", up, down, asked, labels, (0, 1), plan)
    found = concepts(*given, captum=True)
    assert [(one.target, one.n, len(one.scores)) for one in found.captum] == [
        (0, 25, 2),
        (1, 25, 2),
    ]
    assert all(c > 0.3 for c in found.captum[0].cosines), "of the same images, with another draw"
    assert concepts(*given).captum == ()


def test_without_captum_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.concept", None)
    x = torch.rand(4, 1, 6, 6)
    with pytest.raises(MissingExtra, match="captum"):
        captum_tcav(Small(), "body", x, x, [(x, 0)])
