"""Variance tuning against the paper's loop, written out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.cases import Point
from torchproof.attack.catalogue import mi_fgsm
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD, MomentumPGD
from torchproof.attack.run import Run
from torchproof.attack.square import Square
from torchproof.attack.starts import Zero
from torchproof.attack.variance_tuning import VarianceTuning, vmi_fgsm
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import CrossEntropy, Margin
from torchproof.core.sites import Universal
from torchproof.core.threats import Region, Threat

LINF = Threat(Linf(), 0.1)


@dataclass(frozen=True)
class Waves:
    """loss(d) = sum sin(3 d + place): a gradient that varies; notes where it was asked."""

    place: Tensor
    asked: list[Tensor] = field(default_factory=list)

    def slope(self, d: Tensor) -> Tensor:
        return 3 * (3 * d + self.place).cos()

    def point(self, d: Tensor) -> Point:
        self.asked.append(d.clone())
        loss = (3 * d + self.place).sin().flatten(1).sum(1)
        return Point(loss, loss.clone(), loss > 1e9, self.slope(d), (1, 1))


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=["linf", "l2"])
def test_variance_tuning_is_the_papers_loop(norm: Any) -> None:
    """Where it asks, against the algorithm written out, with the neighbours that it drew."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 2, 2, generator=g, dtype=torch.float64)
    allowed, key = Threat(norm, 0.2).set(nn.Identity(), x), keys.mix(0, torch.arange(3))
    waves = Waves(torch.rand(3, 1, 2, 2, generator=g, dtype=torch.float64) * 6)
    inner = MomentumPGD(4, length=0.3, start=Zero(), decay=0.7)
    search = VarianceTuning(inner, samples=5, reach=1.5)
    state = search.init(allowed, key)
    for _ in range(search.steps):
        state = search.step(allowed, key, state, waves.point(state.delta))
    assert bool((state.t == search.steps).all()) and search.steps == 3 * 6 + 1 == len(waves.asked)

    base = Threat(norm, 0.2).set(nn.Identity(), x)
    at, velocity, variance = (torch.zeros_like(x) for _ in range(3))
    for turn in range(4):
        asked = waves.asked[turn * 6 : turn * 6 + 6]
        assert torch.allclose(asked[0], at, atol=1e-12)
        for near in asked[1:]:
            size = norm.length(near - at)
            assert bool((size <= 0.3 + 1e-12).all()) and bool((size > 0).all())
        slope = waves.slope(at)
        total = slope + variance
        scaled = total / total.abs().flatten(1).mean(1)[:, None, None, None]
        velocity = 0.7 * velocity + scaled
        variance = sum((waves.slope(near) for near in asked[1:]), torch.zeros_like(x)) / 5 - slope
        at = base.advance(at, velocity, 0.3)  # type: ignore[arg-type, assignment]
    assert torch.allclose(state.delta, at, atol=1e-12), "it ends at the search's own point"


def test_a_constant_gradient_has_no_variance() -> None:
    """On a linear classifier VMI-FGSM is MI-FGSM."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(16, generator=g, dtype=torch.float64)

    def model(z: Tensor) -> Tensor:
        total = z.flatten(1) @ weight
        return torch.stack([torch.full_like(total, 99.0), total], 1)

    x = torch.rand(3, 1, 4, 4, generator=g, dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.int64)
    kinds = (mi_fgsm(LINF, 5, objective=Margin()), vmi_fgsm(LINF, 5, samples=3, objective=Margin()))
    one, two = (a(model, x, y, run=Run(last=True, patience=99)).value for a in kinds)
    assert torch.allclose(one, two, atol=1e-12)


def test_neighbours_never_count_and_examples_do_not_wait_for_each_other(make_problem: Any) -> None:
    p = make_problem(n=7, dtype=torch.float64)
    attack = vmi_fgsm(Threat(Linf(), 0.05), 6, 0.3, samples=3)
    one, two, three = (attack(p.model, p.x, p.y, run=Run(slots=s)) for s in (1, 3, 64))
    assert 0 < int(one.lost.sum()) < 7
    assert bool((one.value.abs() <= 0.05 + 1e-12).all())
    for other in (two, three):
        assert torch.equal(one.lost, other.lost) and torch.equal(one.spent, other.spent)
        assert torch.allclose(one.value, other.value, atol=1e-9)
    survivor = int((~one.lost).nonzero()[0])
    assert one.spent[survivor].tolist() == [5 * 4 + 2, 5 * 4 + 1]


def test_neighbours_stay_in_the_region(make_problem: Any) -> None:
    p = make_problem(n=3)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3] = True
    allowed = Region(LINF, mask).set(p.model, p.x)
    search, key = VarianceTuning(PGD(2), samples=2), torch.arange(3)
    state = search.init(allowed, key)
    value = torch.zeros(3)
    for _ in range(2):
        grad = torch.ones_like(p.x)
        state = search.step(allowed, key, state, Point(value, value, value > 0, grad, (1, 1)))
        assert bool(state.delta[:, :, mask].any()) and not bool(state.delta[:, :, ~mask].any())


def test_what_variance_tuning_refuses() -> None:
    with pytest.raises(InputError, match="reads gradients"):
        VarianceTuning(Square(5))
    with pytest.raises(InputError):
        VarianceTuning(PGD(), samples=0)
    with pytest.raises(InputError, match="image"):
        Attack(Threat(Linf(), 0.1, site=Universal()), CrossEntropy(), VarianceTuning(PGD()))
