"""L1-APGD: the iteration as published, its stages, its sparse steps, and the bound it reaches."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.apgd import APGD
from torchproof.attack.catalogue import apgd, apgd_ce, apgd_dlr, apgd_t
from torchproof.attack.combine import Attack
from torchproof.attack.l1_apgd import L1APGD, sparse_sign
from torchproof.attack.run import Run
from torchproof.attack.starts import Gaussian, Uniform, Zero
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.core.objectives import CrossEntropy, Margin, TargetedDLR
from torchproof.core.sets import Ball
from torchproof.core.sites import Input, Latent
from torchproof.core.threats import Free, Relative, Threat

Array = np.ndarray


# ---- the algorithm, written down as a loop over one image


def bisected(d: Array, radius: float, low: Array, high: Array) -> Array:
    """The nearest point of the L1 ball and the box, by bisection on the shrinkage."""

    def shrunk(by: float) -> Array:
        return np.clip(np.sign(d) * np.maximum(np.abs(d) - by, 0), low, high)

    least, most = 0.0, float(np.abs(d).max())
    if np.abs(shrunk(0.0)).sum() <= radius:
        return shrunk(0.0)
    for _ in range(200):
        middle = (least + most) / 2
        least, most = (middle, most) if np.abs(shrunk(middle)).sum() > radius else (least, middle)
    return shrunk(most)


def by_hand(
    ask: Callable[[Array], tuple[float, Array]], start: Array, eps: float, low: Array, high: Array,
    lengths: tuple[int, ...] = (6, 6, 8), radii: tuple[float, ...] = (3, 2, 1),
) -> tuple[Array, int, int]:  # fmt: skip
    """The last point, and how often the search went back and was denied it; one checkpoint per
    step, which is what 4 % of fewer than 50 steps come to.
    """
    d, back, denied = start, 0, 0
    for number, (length, times) in enumerate(zip(lengths, radii, strict=True)):
        radius = times * eps
        d = bisected(d, radius, low, high)
        loss, grad = ask(d)
        best, changed, step = (loss, d, grad), np.count_nonzero(d), radius
        final = number == len(lengths) - 1
        for _ in range(length if final else length - 1):
            count = max(math.ceil(changed / 1.5), 1)
            least = np.sort(np.abs(grad))[-count]
            sign = np.sign(grad) * (np.abs(grad) >= least)
            d = bisected(d + step * sign / max(np.abs(sign).sum(), 1), radius, low, high)
            loss, grad = ask(d)
            if loss > best[0]:
                best = (loss, d, grad)
            now = np.count_nonzero(best[1])
            if now < 0.95 * changed:
                step, d, grad, back = radius, best[1], best[2], back + 1
            else:
                step, denied = max(step / 1.5, radius / 10), denied + 1
            changed = now
        d = d if final else best[1]
    return d, back, denied


def rippled(seed: int, size: int) -> Callable[[Tensor], Tensor]:
    """Three logits with waves on top of a linear map; float64."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, size, generator=g, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        z = x.flatten(1)
        waves = [(9 * z).sin().sum(1), (7 * z).cos().sum(1), 0 * z[:, 0]]
        return z @ weight.T + torch.stack(waves, 1)

    return model


@pytest.mark.parametrize("seed", range(4))
def test_the_iteration_as_published(seed: int) -> None:
    model, size, eps = rippled(seed, 40), 40, 0.4
    g = torch.Generator().manual_seed(seed + 100)
    x = torch.rand(1, 1, 5, 8, generator=g, dtype=torch.float64)
    y = torch.tensor([0])
    threat = Threat(L1(), eps)
    attack = Attack(threat, CrossEntropy(), L1APGD(20))
    # a last iterate is asked for one answer more, so that it follows from all twenty
    found = attack(model, x, y, run=Run(seed=seed, last=True, patience=math.inf))

    def ask(d: Array) -> tuple[float, Array]:
        at = (x + torch.tensor(d).reshape(x.shape)).requires_grad_()
        loss = nn.functional.cross_entropy(model(at), y)
        return float(loss.detach()), torch.autograd.grad(loss, at)[0].flatten().numpy()

    low, high = (-x).flatten().numpy(), (1 - x).flatten().numpy()
    key = keys.mix(seed, torch.tensor([0]), torch.tensor([-1]), torch.tensor([0]))
    start = keys.normal(key, 0, (1, 5, 8), 0, torch.float64).flatten().numpy()
    expected, back, denied = by_hand(ask, start, eps, low, high)
    assert back > 0 and denied > 0
    assert np.allclose(found.value.flatten().numpy(), expected, atol=1e-9)
    assert len(expected) == size


# ---- its parts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 7, 3072])
def test_the_projection_against_bisection(dtype: torch.dtype, size: int) -> None:
    rng = np.random.default_rng(size)
    for scale, eps in ((1.0, 0.5), (1.0, 12.0), (0.01, 2.0), (30.0, 1.0)):
        x = rng.choice([0.0, 1.0, rng.random()], size=(3, size))
        d = rng.normal(size=(3, size)) * scale * rng.integers(0, 2, size=(3, size))
        box = [torch.tensor(t, dtype=dtype) for t in (-x, 1 - x)]
        ball = Ball.of(L1(), torch.full((3,), eps, dtype=dtype), box[0], box[1])
        got = ball.project(torch.tensor(d, dtype=dtype)).double().numpy()
        assert np.abs(got).sum(1).max() <= eps * (1 + 5e-6)
        for i in range(3):
            want = bisected(d[i], eps, -x[i], 1 - x[i])
            assert np.abs(got[i] - want).max() <= (1e-5 if dtype == torch.float32 else 1e-11)


def test_a_sparse_sign_is_the_steepest_direction_over_that_many_coordinates() -> None:
    g = torch.tensor([[3.0, -2.0, 0.5, -4.0], [1.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    two = sparse_sign(g, torch.tensor([1.2, 0.0, 9.0]))
    third = 1 / 3
    expected = [[0.5, 0.0, 0.0, -0.5], [third, third, -third, 0.0], [0.0] * 4]
    assert torch.allclose(two, torch.tensor(expected))


@pytest.mark.parametrize("steps", range(1, 12))
def test_short_searches_end_inside_and_ask_what_they_may(steps: int) -> None:
    model = rippled(3, 12)
    x, y = torch.full((2, 1, 3, 4), 0.5).double(), torch.tensor([0, 1])
    run = Run(patience=math.inf)
    found = Attack(Threat(L1(), 0.3), Margin(), L1APGD(steps))(model, x, y, run=run)
    assert found.spent.tolist() == [[steps + 1, steps]] * 2
    assert bool(found.score.isfinite().all())
    assert float(found.value.abs().sum((1, 2, 3)).max()) <= 0.3 * (1 + 1e-9)


def test_the_larger_balls_are_searched_first_and_do_not_count() -> None:
    """The boundary lies at 1.5 eps: it is crossed on the way, and the example stands."""
    weight, asked = torch.linspace(1, 2, 8).double(), []

    def model(x: Tensor) -> Tensor:
        d = x.flatten(1) - 0.5
        asked.append(float(d.detach().abs().sum()))
        z = d @ weight
        return torch.stack([torch.full_like(z, 2.0 * 0.45), z], 1)

    x, y = torch.full((1, 1, 2, 4), 0.5).double(), torch.tensor([0])
    found = Attack(Threat(L1(), 0.3), CrossEntropy(), L1APGD(100))(model, x, y)
    assert not bool(found.lost) and len(asked) == 101
    assert max(asked[:30]) == pytest.approx(0.9) and max(asked[30:60]) == pytest.approx(0.6)
    assert max(asked[60:]) == pytest.approx(0.3)
    assert 0.95 * 0.6 <= float(found.score) + 0.9 <= 0.6 + 1e-9
    asked.clear()
    assert bool(Attack(Threat(L1(), 0.5), CrossEntropy(), L1APGD(100))(model, x, y).lost)


def knapsack(w: Array, x: Array, eps: float) -> float:
    """max <w, d> over the L1 ball and the box, coordinate by coordinate."""
    total = 0.0
    for i in np.argsort(-np.abs(w)):
        part = min(eps, 1 - x[i] if w[i] > 0 else x[i])
        total, eps = total + part * abs(w[i]), eps - part
    return total


@pytest.mark.parametrize("seed", range(3))
def test_it_comes_near_the_maximum_of_a_linear_model(seed: int) -> None:
    """Not quite there: no step moves fewer coordinates, or is shorter, than the rule allows."""
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=192), rng.choice([0.0, 1.0, 0.3, 0.9], size=192)
    layer = nn.Linear(192, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.stack([0 * w, w])))
        layer.bias.copy_(torch.tensor([float(w @ x) + 1e3, 0.0], dtype=torch.float64))
    image = torch.tensor(x).reshape(1, 3, 8, 8)
    found = Attack(Threat(L1(), 4.0), Margin(), L1APGD(100))(
        nn.Sequential(nn.Flatten(), layer), image, torch.tensor([0])
    )
    best = knapsack(w, x, 4.0)
    assert 0.95 * best <= float(found.score) + 1e3 <= best * (1 + 1e-9)


# ---- refusals, and which attack a constructor makes


@pytest.mark.parametrize(
    ("radii", "until"),
    [((2.0,), (1.0,)), ((3.0, 1.0), (1.0,)), ((), ()), ((2.0, 1.0), (0.7, 0.7)),
     ((2.0, 1.0), (0.5, 0.9)), ((-2.0, 1.0), (0.5, 1.0)), ((2.0, 1.0), (0.0, 1.0))],
)  # fmt: skip
def test_stages_that_make_no_sense(radii: tuple[float, ...], until: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="radii"):
        L1APGD(radii=radii, until=until)


@pytest.mark.parametrize("norm", [Linf(), L2()])
def test_other_norms_are_refused(norm: Norm) -> None:
    with pytest.raises(InputError, match="L1APGD"):
        Attack(Threat(norm, 1.0), CrossEntropy(), L1APGD())


def test_constructors_choose_by_norm() -> None:
    one, two = Threat(L1(), 5.0), Threat(L2(), 0.5)
    for make in (apgd, apgd_ce, apgd_dlr, apgd_t):
        assert make(one, 50).search == L1APGD(50) and make(two, 50).search == APGD(50)
        assert make(Threat(L1(), 5.0, Latent("bn"))).search == APGD()
        assert make(Free(Input(), norm=L1())).search == APGD()
    assert apgd_ce(Relative(0.1, L1())).search == APGD()
    assert (apgd_ce(one).restarts, apgd_ce(two).restarts) == (5, 1)
    assert (apgd_t(one).targets, apgd_t(two).targets, apgd_t(one, targets=7).targets) == (5, 9, 7)
    assert isinstance(apgd_t(one).objective, TargetedDLR)
    assert apgd(one).search.start == Gaussian(1.0)  # type: ignore[attr-defined]
    assert apgd(one, start=Zero()).search == L1APGD(start=Zero())
    assert apgd(two, start=Uniform()).search == APGD(start=Uniform())
