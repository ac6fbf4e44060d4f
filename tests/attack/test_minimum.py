"""Minimum-norm attacks: closed-form distances, brute force, what is kept and what it costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.carlini_wagner import CarliniWagner, cw
from torchproof.attack.cases import Cases, Found, Point
from torchproof.attack.catalogue import fab_t, pgd
from torchproof.attack.combine import Attack, Chain, EveryTarget, Restarts
from torchproof.attack.ddn import ddn
from torchproof.attack.deepfool import deepfool
from torchproof.attack.fab import FAB
from torchproof.attack.fmn import FMN, fmn
from torchproof.attack.minimum import ByLength, MinimumNorm, Unlimited
from torchproof.attack.oracle import Quantised
from torchproof.attack.run import Run
from torchproof.attack.starts import Sphere
from torchproof.core.errors import InputError
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.objectives import Margin, Targeted, TargetedMargin
from torchproof.core.sites import Universal
from torchproof.core.threats import Threat

NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2(), "l1": L1(), "l0": L0()}


def aimed(threat: Any) -> Attack:
    """FMN at every class: towards the runner-up alone it may end in a corner of the box."""
    return EveryTarget(Attack(threat, TargetedMargin(), FMN(100)), 2)


def weighed(threat: Any) -> Attack:
    """Few constants, the first near the right one: most rounds win and are carried through."""
    return Attack(threat, Margin(), CarliniWagner(4, 200, constant=0.3))


# name, norm, how to make it, by how much it may exceed the true distance on a linear model
CASES: list[tuple[str, str, Callable[[Any], Attack], float]] = [
    ("fmn", "linf", aimed, 0.002),
    ("fmn", "l2", aimed, 0.1),
    ("fmn", "l1", aimed, 0.1),
    ("fmn", "l0", aimed, 0.5),
    ("fab-t", "linf", lambda t: fab_t(t, 30), 0.01),
    ("fab-t", "l2", lambda t: fab_t(t, 30), 0.01),
    ("fab-t", "l1", lambda t: fab_t(t, 30), 0.01),
    ("deepfool", "linf", deepfool, 0.0201),
    ("deepfool", "l2", deepfool, 0.0201),
    ("deepfool", "l1", deepfool, 0.0201),
    ("ddn", "l2", ddn, 0.05),
    ("cw", "l2", weighed, 0.12),
]
each_case = pytest.mark.parametrize(
    ("norm", "make", "slack"), [c[1:] for c in CASES], ids=[f"{c[0]}-{c[1]}" for c in CASES]
)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """Logits W x + b of the flattened image."""
    layer = nn.Linear(weight.shape[1], weight.shape[0]).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer)


def problem(seed: int, wide: bool, n: int = 6, size: int = 16) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model of three classes, images, labels; some pixels saturated unless `wide`."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, size, generator=g, dtype=torch.float64)
    x = torch.rand(n, 1, 1, size, generator=g, dtype=torch.float64)
    if not wide:
        x = (1.6 * x - 0.3).clamp(0, 1)
    model = linear(weight)
    return model, x, model(x).argmax(1)


def most(norm: str, w: np.ndarray, room: np.ndarray, eps: float) -> float:
    """The largest <w, d> over |d| <= eps with 0 <= sign(w) d <= room, by hand for each norm."""
    size = np.abs(w)
    if norm == "linf":
        return float(size @ np.minimum(eps, room))
    if norm == "l0":
        return float(np.sort(size * room)[::-1][: int(eps)].sum())
    if norm == "l1":
        total = 0.0
        for i in np.argsort(-size):
            step = min(room[i], eps)
            total, eps = total + size[i] * step, eps - step
        return total
    low, high = 0.0, 1e9  # l2: the d that follows w until the box, as long as eps
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):  # no number is between them
            break
        fits = np.linalg.norm(np.minimum(middle * size, room)) <= eps
        low, high = (middle, high) if fits else (low, middle)
    return float(size @ np.minimum(low * size, room))


def distance(norm: str, model: nn.Module, x: Tensor, label: int, box: float) -> float:
    """The true distance of the nearest adversarial input of the linear model, by bisection."""
    layer: Any = list(model.children())[1]
    w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    flat, found = x.flatten().numpy(), []
    for k in range(len(w)):
        if k == label:
            continue
        v, gap = w[k] - w[label], (w[label] - w[k]) @ flat + b[label] - b[k]
        room = np.where(v > 0, 1 + box - flat, flat + box)
        low, high = 0.0, 100.0
        if norm == "l0":
            found += [
                next((k for k in range(len(v) + 1) if most(norm, v, room, k) > gap), math.inf)
            ]
            continue
        if most(norm, v, room, high) <= gap:
            continue
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if most(norm, v, room, middle) >= gap else (middle, high)
        found.append(high)
    return min(found, default=math.inf)


@functools.cache
def distances(norm: str, wide: bool, box: float) -> np.ndarray:
    """The true distances of the images of `problem(3, wide)`."""
    model, x, y = problem(3, wide)
    return np.array([distance(norm, model, x[i], int(y[i]), box) for i in range(len(x))])


def length(norm: str, d: Tensor) -> np.ndarray:
    """Textbook lengths."""
    order = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
    out: np.ndarray = np.linalg.norm(d.flatten(1).double().numpy(), order, axis=1)
    return out


@each_case
@pytest.mark.parametrize("wide", [True, False], ids=["no box", "box"])
def test_distances_on_a_linear_model(
    norm: str, make: Callable[[Any], Attack], slack: float, wide: bool
) -> None:
    """Never below the true distance, and hardly above it."""
    box = 2.0 if wide and norm != "l0" else 0.0
    model, x, y = problem(3, wide)
    near = MinimumNorm(make(Unlimited(NORMS[norm], -box, 1 + box)))(model, x, y)
    true = distances(norm, wide, box)
    moved = x + near.found.value
    assert bool((model(moved).argmax(1) != y).all())
    assert float(moved.min()) >= -box and float(moved.max()) <= 1 + box
    assert np.allclose(length(norm, near.found.value), near.distance.numpy(), rtol=1e-9)
    ratio = near.distance.numpy() / true
    assert ratio.min() >= 1 - 1e-9, "nearer than is possible"
    assert ratio.max() <= 1 + slack, ratio
    assert np.median(ratio) <= 1 + min(slack, 0.08), ratio


def curved(seed: int) -> nn.Module:
    """A small network of two pixels and three classes."""
    g = torch.Generator().manual_seed(seed)

    def layer(rows: int, columns: int) -> nn.Linear:
        made = nn.Linear(columns, rows).double()
        with torch.no_grad():
            made.weight.copy_(torch.randn(rows, columns, generator=g, dtype=torch.float64) * 2)
            made.bias.copy_(torch.randn(rows, generator=g, dtype=torch.float64))
        return made

    return nn.Sequential(nn.Flatten(), layer(8, 2), nn.Tanh(), layer(3, 8))


SIDE = 401  # of the grid over all images of two pixels


@functools.cache
def nearest(norm: str) -> list[float]:
    """How far the nearest image of another class is from each of `pixels()`, by brute force."""
    model, x, y = pixels()
    axis = torch.linspace(0, 1, SIDE, dtype=torch.float64)
    grid, found = torch.cartesian_prod(axis, axis), []
    with torch.no_grad():
        answers = model(grid).argmax(1)
    for i in range(len(x)):
        if norm == "l0":  # one pixel: only grid lines through the image itself count
            lines = torch.cat([torch.stack([axis, x[i, 0, 0, 1].expand(SIDE)], 1),
                               torch.stack([x[i, 0, 0, 0].expand(SIDE), axis], 1)])  # fmt: skip
            found.append(1.0 if bool((model(lines).argmax(1) != y[i]).any()) else 2.0)
        else:
            found.append(float(length(norm, (grid - x[i].flatten())[answers != y[i]]).min()))
    return found


@functools.cache
def pixels() -> tuple[nn.Module, Tensor, Tensor]:
    """The small network, and images of two pixels with its answers."""
    model = curved(1)
    x = torch.rand(24, 1, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@each_case
def test_brute_force_on_a_network_of_two_pixels(
    norm: str, make: Callable[[Any], Attack], slack: float
) -> None:
    """A grid over all images knows the truth: no attack is below it, and most reach it."""
    model, x, y = pixels()
    found = MinimumNorm(make(Unlimited(NORMS[norm])))(model, x, y).distance.numpy()
    true = np.array(nearest(norm))
    assert bool((found >= true - (0 if norm == "l0" else 4 / SIDE)).all())
    ratios = found / true
    # DeepFool follows planes to the boundary, not to its nearest point
    assert np.median(ratios) <= (1.2 if make is deepfool else 1.04 + min(slack, 0.02)), ratios


def test_ddn_as_a_naive_loop_finds_it() -> None:
    """Rony et al.'s Algorithm 1 on one image at a time, with autograd and textbook operations."""
    model, x, y = problem(7, wide=False, n=3)
    near = MinimumNorm(ddn(Unlimited(L2()), 30))(model, x, y)
    for i in range(len(x)):
        d, eps, best = torch.zeros_like(x[i : i + 1]), 1.0, math.inf
        for k in range(31):
            point = d.clone().requires_grad_(True)
            z = model(x[i : i + 1] + point)
            won = int(z.argmax()) != int(y[i])
            best = min(best, float(d.norm())) if won else best
            (g,) = torch.autograd.grad(nn.functional.cross_entropy(z, y[i : i + 1]), point)
            alpha = 0.01 + 0.99 * (1 + math.cos(math.pi * k / 30)) / 2
            eps *= 0.95 if won else 1.05
            d = d + alpha * g / g.norm()
            d = (x[i : i + 1] + eps * d / d.norm()).clamp(0, 1) - x[i : i + 1]
        assert float(near.distance[i]) == pytest.approx(best, abs=1e-9)


def test_carlini_and_wagner_as_nested_loops_with_torchs_adam_find_it() -> None:
    """A loop over constants around a loop over Adam's steps, one image at a time."""
    model, x, y = problem(2, wide=False, n=3)
    rounds, steps, rate = 5, 30, 0.05
    search = CarliniWagner(rounds, steps, rate, constant=0.01)
    near = MinimumNorm(Attack(Unlimited(L2()), Margin(), search))(model, x, y)
    for i in range(len(x)):
        c, below, above, best = 0.01, 0.0, math.inf, math.inf
        for _ in range(rounds):
            w = torch.atanh((2 * x[i : i + 1] - 1) * 0.999999).requires_grad_(True)
            adam, won, before = torch.optim.Adam([w], rate), False, math.inf
            for k in range(steps):
                d = (torch.tanh(w) + 1) / 2 - x[i : i + 1]
                z = model(x[i : i + 1] + d)[0]
                rest = torch.cat([z[: y[i]], z[y[i] + 1 :]])
                if rest.max() > z[y[i]]:
                    won, best = True, min(best, float(d.detach().norm()))
                cost = d.square().sum() + c * (z[y[i]] - rest.max()).clamp_min(0)
                stuck = k % 3 == 0 and not won and cost.item() > 0.9999 * before
                before = cost.item() if k % 3 == 0 else before
                adam.zero_grad()
                cost.backward()
                adam.step()
                if stuck:
                    break
            below, above = (below, min(above, c)) if won else (max(below, c), above)
            c = c * 10 if above == math.inf else (below + above) / 2
        assert float(near.distance[i]) == pytest.approx(best, abs=1e-6)


def test_a_win_is_kept_for_its_length() -> None:
    """Of the wins at 0.9, 0.3 and 0.6 the middle one stays; what is no win keeps its own score."""
    delta = torch.tensor([[0.9], [0.3], [0.6], [0.1]]).reshape(4, 1, 1, 1)
    score = torch.tensor([1.0, 2.0, 3.0, -0.7])

    def inner(cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        return Point(score, score, score > 0, None, (1, 0))

    allowed = Unlimited(L2()).set(lambda x: x, torch.zeros_like(delta))
    none = torch.full((4,), -1)
    cases = Cases(torch.zeros_like(delta), none, none, allowed, none)
    point = ByLength(inner)(cases, delta, False, torch.zeros(4))
    assert torch.allclose(point.score, torch.tensor([-0.9, -0.3, -0.6, -0.7]))
    assert torch.equal(point.won, score > 0)


def test_the_nearest_of_all_targets_and_restarts_is_kept() -> None:
    """As a naive loop over the classes finds it."""
    model, x, y = problem(5, wide=True)
    threat = Unlimited(L2(), -20, 21)
    attack = Attack(threat, TargetedMargin(), FAB(20, Sphere()))
    together = MinimumNorm(Restarts(EveryTarget(attack, 2), 2))(model, x, y, run=Run(seed=3))
    single = []
    for other in (1, 2):
        run, target = Run(seed=3), (y + other) % 3
        single.append(
            MinimumNorm(Restarts(attack, 2))(model, x, y, target=target, run=run).distance
        )
    assert torch.allclose(together.distance, torch.stack(single).amin(0), atol=1e-12)
    assert bool((single[0] != single[1]).all())


@pytest.mark.parametrize("norm", NORMS)
def test_neither_batches_nor_order_change_a_distance(norm: str, make_problem: Any) -> None:
    given = make_problem(n=7, k=4, dtype=torch.float64, wrong=1)
    attack = MinimumNorm(EveryTarget(Attack(
        Unlimited(NORMS[norm]), TargetedMargin(), FMN(8, start=Sphere())), 2))  # fmt: skip
    whole = attack(given.model, given.x, given.y, run=Run(seed=1))
    order = torch.tensor([4, 0, 6, 2, 1, 3, 5])
    other = attack(given.model, given.x[order], given.y[order], run=Run(seed=1, ids=order, slots=2))
    assert torch.allclose(whole.distance[order], other.distance, atol=1e-12)
    assert torch.equal(whole.found.spent[order], other.found.spent)


def test_what_is_wrong_already_costs_one_question(make_problem: Any, counted: Any) -> None:
    given = make_problem(n=6, k=4, wrong=2)
    model, told = counted(given.model), []

    def landed(found: Found, done: list[int]) -> None:
        told.extend(done)
        assert bool(found.done[done].all())

    near = MinimumNorm(fmn(Unlimited(L2()), 9))(
        model, given.x, given.y, run=Run(slots=4, on_done=landed)
    )
    assert near.distance[:2].tolist() == [0, 0]
    assert not bool(near.found.value[:2].any())
    assert near.found.spent.tolist() == [[1, 0]] * 2 + [[1 + 10, 9]] * 4
    assert [model.forwards, model.backwards] == near.found.spent.sum(0).tolist()
    assert sorted(told) == list(range(6)) and bool(near.found.done.all())


def test_failure_is_of_an_example_not_of_the_batch() -> None:
    """One image, known by its first pixel, has a threshold that no sum of four sigmoids reaches:
    its distance is inf, the others' are not.
    """

    class Guarded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            odd = ((flat[:, 0] - 0.25).abs() > 1e-9).to(x)  # steps without a slope
            return torch.stack([3.2 + odd, flat[:, 1:].sigmoid().sum(1)], 1)

    x = torch.tensor([[0.25] * 5, [1.0] + [0.5] * 4, [0.25] + [0.75] * 4]).double()
    x, y = x.reshape(3, 1, 1, 5), torch.zeros(3).long()
    for make in (fmn, deepfool, ddn):
        near = MinimumNorm(make(Unlimited(L2(), -9, 10)))(Guarded(), x, y)
        assert near.distance.isfinite().tolist() == [True, False, True]
        assert near.found.lost.tolist() == [True, False, True]
        assert not bool(near.found.value[[0, 2], 0, 0, 0].any())


def test_a_radius_limits_the_search() -> None:
    model, x, y = problem(3, wide=False)
    free = MinimumNorm(fmn(Unlimited(L2())))(model, x, y).distance
    eps = float(free.median())
    near = MinimumNorm(fmn(Threat(L2(), eps)))(model, x, y).distance
    assert torch.equal(near.isfinite(), free <= eps)


def test_where_the_gradient_is_zero_a_random_direction_is_tried() -> None:
    """A plateau around the clean image, a slope beyond it."""

    class Plateau(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            far = (x.flatten(1) - 0.5).square().sum(1)
            rise = (far - 0.05).clamp_min(0) * 10
            return torch.stack([torch.full_like(rise, 0.4), rise], 1)

    x, y = torch.full((3, 1, 2, 2), 0.5, dtype=torch.float64), torch.zeros(3).long()
    for make in (fmn, ddn):
        near = MinimumNorm(make(Unlimited(L2()), 60))(Plateau(), x, y).distance
        assert bool((near >= 0.3 - 1e-9).all()) and bool((near < 0.33).all())


def test_images_of_eight_bits() -> None:
    model, x, y = problem(3, wide=False)
    x = (x * 255).round() / 255
    y = model(x).argmax(1)
    exact = fmn(Unlimited(L2()))
    attack = Attack(exact.threat, exact.objective, exact.search, wrap=Quantised)
    near, free = MinimumNorm(attack)(model, x, y), MinimumNorm(exact)(model, x, y)
    levels = (x + near.found.value) * 255
    assert torch.allclose(levels, levels.round(), atol=1e-9)
    assert bool((near.distance >= free.distance * 0.99).all())
    assert bool((model(x + near.found.value).argmax(1) != y).all())


def test_a_targeted_verdict(make_problem: Any) -> None:
    """Only the wanted class counts: farther than any class, never nearer."""
    given = make_problem(n=4, k=3, dtype=torch.float64)
    threat = Unlimited(L2())
    free = MinimumNorm(ddn(threat, 40))(given.model, given.x, given.y)
    near = MinimumNorm(ddn(threat, 40, Targeted()))(
        given.model, given.x, given.y, target=given.target
    )
    moved = given.x + near.found.value
    found = near.distance.isfinite()
    assert bool(found.any())
    assert torch.equal(given.model(moved).argmax(1)[found], given.target[found])
    assert float(near.distance.mean()) > float(free.distance.mean())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MinimumNorm(Chain((pgd(Threat(L2(), 1.0)),))), "Chain"),
        (lambda: MinimumNorm(pgd(Threat(L2(), 1.0, site=Universal()))), "Universal"),
        (lambda: Unlimited("l2"), "norm 'l2'"),
        (lambda: Unlimited(L2(), 1.0, 0.0), "box"),
        (lambda: Unlimited(L2(), unit=0.0), "unit"),
        (lambda: ddn(Unlimited(Linf())), "DDN"),
        (lambda: cw(Unlimited(L1())), "CarliniWagner"),
        (lambda: deepfool(Unlimited(L0())), "DeepFool"),
        (lambda: fmn(Unlimited(L2()), objective=Targeted()), "boundary"),
        (lambda: Restarts(fmn(Unlimited(L2())), 2), "restarts"),
        (lambda: FMN(alpha=(0.1, 1.0)), "alpha"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_runs_that_cannot_be_meant_are_refused() -> None:
    model, x, y = problem(3, wide=False)
    near = MinimumNorm(fmn(Unlimited(L2())))
    with pytest.raises(InputError, match="last iterate"):
        near(model, x, y, run=Run(last=True))
    with pytest.raises(InputError, match="6 images and 5 labels"):
        near(model, x, y[:5])
    boundless = cw(Unlimited(L2(), -math.inf, math.inf))
    with pytest.raises(InputError, match="without a box"):
        MinimumNorm(boundless)(model, x, y)


def test_a_run_can_be_stopped_and_says_what_it_found() -> None:
    model, x, y = problem(3, wide=False)
    asked = iter(range(1000))
    near = MinimumNorm(fmn(Unlimited(L2())))(
        model, x, y, run=Run(slots=3, stop=lambda: next(asked) > 120)
    )
    assert near.found.done.tolist() == [True] * 3 + [False] * 3
    assert near.distance.isfinite().tolist() == near.found.done.tolist()


def test_fmn_is_no_farther_than_bisected_pgd(
    networks: Callable[[str], nn.Module], data_dir: Any
) -> None:
    """On a trained network: PGD at eps halved or raised eight times per image, by a naive loop."""
    from torchproof.data import load

    model = networks("cnn_a_adv")
    images = load("cifar10", data_dir=data_dir, split="test").take(10)
    x, y = images.x, images.y
    correct = model(x).argmax(1) == y
    x, y = x[correct], y[correct]
    low, high = torch.zeros(len(x)), torch.full((len(x),), 2.0)
    for _ in range(8):
        middle = (low + high) / 2
        lost = torch.stack([
            pgd(Threat(L2(), float(eps)), 10, objective=Margin())(model, x[i : i + 1], y[i : i + 1])
            .lost[0] for i, eps in enumerate(middle)
        ])  # fmt: skip
        low, high = torch.where(lost, low, middle), torch.where(lost, middle, high)
    near = MinimumNorm(fmn(Unlimited(L2()), 60))(model, x, y)
    assert bool((model(x + near.found.value).argmax(1) != y).all())
    assert float((near.distance / high).median()) <= 1.005
    assert bool((near.distance <= 1.1 * high).all())
