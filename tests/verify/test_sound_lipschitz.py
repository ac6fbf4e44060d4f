"""Lipschitz constants that are rounded up, compared with exact rational numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.threats import Threat
from torchproof.verify import graph_of
from torchproof.verify.lipschitz.spectral import conv_bound, gram_bound
from torchproof.verify.methods import METHODS
from torchproof.verify.sound import sound_margins


def test_spectral_norms_are_not_below_the_exact_ones() -> None:
    """Of single rows, where Gram iteration has no excess of its own; half of plain values are."""
    g = torch.Generator().manual_seed(0)
    for size in (1, 2, 5, 30):
        rows = torch.randn(40, 1, size, generator=g, dtype=torch.float64) * 10.0**size
        for row, bound in zip(rows, gram_bound(rows), strict=True):
            exact = sum(Fraction(v) ** 2 for v in row[0].tolist())
            assert exact <= Fraction(float(bound)) ** 2 <= exact * (1 + Fraction(1e-11))
    assert float(gram_bound(torch.zeros(3, 4))) < 1e-100
    # a kernel of one entry is a multiple of the identity
    weights = torch.randn(20, 1, 1, 1, 1, generator=g, dtype=torch.float64)
    for weight in weights:
        bound = float(conv_bound(weight, (6, 5)))
        assert abs(float(weight)) <= bound <= abs(float(weight)) * (1 + 1e-11)


class Affine(nn.Module):
    """A normalisation and two layers: the map of a margin is composed of three."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 30), nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(self.a(((x - 0.4) / 0.3).flatten(1)))
        return logits


@pytest.mark.parametrize("method", ["op-norm", "fast-lip"])
def test_on_affine_maps_they_are_the_exact_least_margins(method: str) -> None:
    """Less the error they are below these, and by little; without it some are above."""
    torch.manual_seed(0)
    net = Affine().double().eval().requires_grad_(False)
    x, y, eps = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64), torch.tensor([0]), 0.1
    graph, above = graph_of(net, x), 0
    for seed in range(6):
        g = torch.Generator().manual_seed(seed)
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
        found = sound_margins(graph, x, y, Threat(Linf(), eps), method)
        usual = METHODS[method](graph, x, y, Threat(Linf(), eps)).lower
        for t in (1, 2):
            exact = _least(net, x, t, Fraction(eps))
            value, error = (Fraction(float(part[0, t - 1])) for part in (found.lower, found.error))
            assert value - error <= exact < value - error + Fraction(1e-9)
            above += Fraction(float(usual[0, t - 1])) > exact
    assert above


def _least(net: Affine, x: Tensor, t: int, eps: Fraction) -> Fraction:
    """The margin of 0 over t at x, less eps times the sum of the map's absolute entries."""
    ours, other = net.b.weight[0].tolist(), net.b.weight[t].tolist()
    last = [Fraction(p) - Fraction(q) for p, q in zip(ours, other, strict=True)]
    margin = Fraction(float(net.b.bias[0])) - Fraction(float(net.b.bias[t]))
    row = [Fraction(0)] * 4
    for k, (weights, bias) in enumerate(
        zip(net.a.weight.tolist(), net.a.bias.tolist(), strict=True)
    ):
        margin += last[k] * Fraction(bias)
        row = [r + last[k] * Fraction(w) / Fraction(0.3) for r, w in zip(row, weights, strict=True)]
    margin += sum(r * (Fraction(float(v)) - Fraction(0.4))
                  for r, v in zip(row, x.flatten(), strict=True))  # fmt: skip
    return margin - eps * sum(abs(r) for r in row)


@pytest.mark.parametrize("norm", [Linf(), L2(), L1(), L0()])
def test_they_are_nearly_those_without_an_error(norm: Norm) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, 1, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3),
        nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(8, 3),
    ).double().eval().requires_grad_(False)  # fmt: skip
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    graph, y, about = (
        graph_of(net, x),
        net(x).argmax(1),
        Threat(norm, 1.0 if isinstance(norm, L0) else 0.05),
    )
    for method in ("fast-lip",) if isinstance(norm, L0) else ("op-norm", "fast-lip"):
        found = sound_margins(graph, x, y, about, method)
        usual = METHODS[method](graph, x, y, about).lower
        assert float((usual - found.lower).abs().max()) < 1e-9
        assert float(found.error.min()) > 0 and float(found.error.max()) < 1e-9
