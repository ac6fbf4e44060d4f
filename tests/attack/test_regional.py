"""Regional attacks against the published algorithm as a naive loop, and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.combine import EveryTarget
from torchproof.attack.masks import Boxes, Centre, Mask, Patches, Salient, Scattered
from torchproof.attack.regional import (
    Regions,
    account,
    drawn_classes,
    regional,
    until_fooled,
)
from torchproof.attack.run import Run
from torchproof.core.errors import InputError
from torchproof.core.norms import L0, L1, L2, Linf
from torchproof.core.sites import Universal
from torchproof.core.threats import Region, Threat, parse

MASK = torch.tensor([[0, 1, 1, 0]] * 4, dtype=torch.bool)


def published(
    source: nn.Module,
    judge: nn.Module,
    x: Tensor,
    y: int,
    c: int,
    mask: Tensor,
    alpha: float,
    steps: int,
) -> tuple[Tensor, bool]:
    """x (1, C, H, W): steps of the sign inside the mask until the judge errs; and does it?"""
    moved = x.clone()
    for _ in range(steps + 1):
        if int(judge(moved).argmax()) != y:
            return moved, True
        live = moved.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(source(live), torch.tensor([c])), live)
        moved = (moved - alpha * grad.sign() * mask).clamp(0, 1)
    return moved, False


@pytest.mark.parametrize("transferred", [False, True], ids=["white-box", "transfer"])
def test_the_published_algorithm(make_problem: Any, transferred: bool) -> None:
    source = make_problem(n=16, k=5, dtype=torch.float64)
    judge = make_problem(n=1, k=5, dtype=torch.float64, seed=0).model
    if transferred:
        with torch.no_grad():
            for p in judge.parameters():
                p.add_(0.08 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        y = source.y
        kept = (judge(source.x).argmax(1) == y).nonzero()[:, 0]
    x, y, ids = source.x[kept], y[kept], kept
    assert len(x) >= 6
    target = drawn_classes(y, 5, ids, seed=3)
    alpha, steps = 0.02, 25
    attack = regional(Region(parse("linf:1"), MASK), steps, alpha, targets=0)
    asked = until_fooled(attack, judge) if transferred else attack
    found = asked(source.model, x, y, target=target, run=Run(ids=ids, slots=4))
    outcomes = []
    for i in range(len(x)):
        moved, fooled = published(
            source.model, judge if transferred else source.model, x[i : i + 1], int(y[i]),
            int(target[i]), MASK, alpha, steps,
        )  # fmt: skip
        outcomes.append(fooled)
        assert bool(found.lost[i]) == fooled
        if fooled:
            assert torch.allclose(x[i] + found.value[i], moved[0], atol=1e-12)
    assert not bool(found.value[..., ~MASK].any()), "something changed outside the mask"
    assert sum(outcomes) >= 4, "the comparison is about nothing"


class Linear(nn.Module):
    """K classes, z = W x + b."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T + self.b


def test_on_a_linear_model_steps_and_lengths_in_closed_form() -> None:
    """Each step moves the margin by alpha times the sum of |w_t - w_y| inside the region."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(2, 16, generator=g, dtype=torch.float64)
    x = 0.5 + 0.05 * torch.rand(6, 1, 4, 4, generator=g, dtype=torch.float64)
    model = Linear(w, torch.zeros(2, dtype=torch.float64))
    y = model(x).argmax(1).detach()
    alpha, region = 0.01, MASK.flatten()
    found = regional(Region(parse("linf:1"), MASK), 40, alpha)(model, x, y, run=Run())
    for i in range(6):
        gap = w[1 - y[i]] - w[y[i]]
        margin = float(-(gap @ x[i].flatten()))
        steps = math.floor(margin / (alpha * float(gap[region].abs().sum()))) + 1
        expected = (alpha * steps * gap.sign() * region).reshape(1, 4, 4)
        assert bool(found.lost[i]) and torch.allclose(found.value[i], expected, atol=1e-12)
    seen = account(found.value, MASK)
    assert torch.allclose(seen.share, torch.full((6,), 0.5, dtype=torch.float64))
    assert torch.allclose(seen.image.l0, seen.share)
    assert torch.allclose(seen.image.l2, seen.image.linf * 8**0.5)


@pytest.mark.parametrize("norm", [Linf(), L2(), L1(), L0()], ids=lambda n: type(n).__name__)
@pytest.mark.parametrize(
    "mask",
    [Centre(2), Scattered(0.3), Boxes(2, 2), Patches(2, 2), Salient(2)],
    ids=lambda m: type(m).__name__,
)
def test_nothing_outside_the_region_changes_bit_for_bit(
    norm: Any, mask: Mask, make_problem: Any
) -> None:
    problem = make_problem(n=5, k=4)
    threat = Regions(Threat(norm, 3.0), mask)
    found = regional(threat, 6, 0.5)(problem.model, problem.x, problem.y, run=Run(slots=2))
    open_ = mask(problem.model, problem.x).expand_as(found.value)
    assert bool((found.value[~open_] == 0).all())
    assert torch.equal((problem.x + found.value)[~open_], problem.x[~open_])
    assert bool((norm.length(found.value) <= 3.0 * (1 + 1e-5)).all())


def test_restarts_targets_and_slots_keep_each_image_its_mask(make_problem: Any) -> None:
    """Slots that are refilled in other compositions: masks go with the images."""
    problem = make_problem(n=6, k=5)
    threat = Regions(parse("linf:0.05"), Boxes(2, seed=4))
    attack = EveryTarget(regional(threat, 4, 0.02), 3)
    found = [
        attack(problem.model, problem.x, problem.y, run=Run(slots=slots)) for slots in (1, 4, 6)
    ]
    open_ = Boxes(2, seed=4)(problem.model, problem.x).expand_as(problem.x)
    for other in found:
        assert bool((other.value[~open_] == 0).all())
        assert torch.equal(other.lost, found[0].lost)
        assert torch.allclose(other.value, found[0].value, atol=1e-6)


def test_the_judge_is_left_as_it_was_and_counted(
    make_problem: Any, watch: Any, counted: Any
) -> None:
    source = make_problem(n=4, k=5)
    judge = make_problem(n=4, k=5, seed=2, noisy=True).model
    judge.train()
    with torch.no_grad():
        y = judge.eval()(source.x).argmax(1)
    judge.train()
    counter = counted(judge)
    seen, own = watch(counter, source.x), counted(source.model)
    attack = regional(parse("linf:1"), 3, 1e-4)
    found = until_fooled(attack, counter)(own, source.x, y, run=Run())
    seen.check()
    assert not bool(found.lost.any())
    assert int(found.spent[:, 0].sum()) == own.forwards + counter.forwards
    assert int(found.spent[:, 1].sum()) == own.backwards and counter.backwards == 0


def test_classes_are_drawn_evenly_and_by_id() -> None:
    ids = torch.arange(6000)
    y = ids % 5
    drawn = drawn_classes(y, 5, ids, seed=1)
    assert not bool((drawn == y).any()) and int(drawn.min()) == 0 and int(drawn.max()) == 4
    for label in range(5):
        counts = torch.bincount(drawn[y == label], minlength=5).double()
        others = counts[torch.arange(5) != label]
        assert float(((others - 300) ** 2 / 300).sum()) < 16.3  # chi squared, 3 degrees, 0.1 %
    order = torch.tensor([77, 3, 4000])
    assert torch.equal(drawn_classes(y[order], 5, ids[order], seed=1), drawn[order])
    assert not torch.equal(drawn_classes(y, 5, ids, seed=2), drawn)
    with pytest.raises(InputError):
        drawn_classes(y, 1, ids)


def test_the_account_against_numpy() -> None:
    g = torch.Generator().manual_seed(0)
    delta = torch.randn(3, 2, 4, 4, generator=g)
    delta[:, :, 0] = 0
    delta[0, 1] = 0
    seen = account(delta, MASK)
    d, inner = delta.numpy().astype(np.float64), MASK.numpy()
    for i in range(3):
        changed = (d[i] != 0).any(0)
        for part, where in (
            (seen.inside, inner), (seen.outside, ~inner), (seen.image, np.ones_like(inner))
        ):  # fmt: skip
            values = d[i][:, where]
            assert float(part.l0[i]) == changed[where].mean()
            assert np.isclose(float(part.l2[i]), np.sqrt((values**2).sum()))
            assert np.isclose(float(part.linf[i]), np.abs(values).max())
        assert float(seen.share[i]) == inner.mean()
    nowhere = account(delta, torch.zeros(4, 4, dtype=torch.bool))
    assert float(nowhere.inside.l0.sum()) == 0 and float(nowhere.share.sum()) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: Regions(Threat(Linf(), 1.0, site=Universal()), Centre(2)),
        lambda: Regions(Region(Threat(Linf(), 1.0), MASK), Centre(2)),  # type: ignore[arg-type]
        lambda: regional(parse("linf:1"), alpha=0.0),
        lambda: regional(parse("linf:1"), steps=0),
    ],
)
def test_refused(make: Any) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.given and caught.value.expected and caught.value.remedy
