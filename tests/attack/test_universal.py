"""Shared perturbations against closed forms on linear models and a naive loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.cases import Cases, Point
from torchproof.attack.hypocritical import hypocritical
from torchproof.attack.run import Run
from torchproof.attack.universal import Passes, Semantic, semantic, taken, universal
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import KL, CrossEntropy, Margin, Targeted, TargetedMargin
from torchproof.core.sites import Universal
from torchproof.core.threats import Threat


class Linear(nn.Module):
    """z = W x + b."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(classes, 12, generator=g, dtype=torch.float64))
        self.b = nn.Parameter(-0.5 * self.w.detach().sum(1))  # undecided at the grey image

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w.T + self.b


def data(n: int = 40, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Images far enough from 0 and 1 that no clipping takes part."""
    g = torch.Generator().manual_seed(1)
    x = 0.4 + 0.2 * torch.rand(n, 1, 3, 4, generator=g, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=g)


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=["linf", "l2"])
def test_of_a_linear_model_the_best_shared_perturbation_in_closed_form(norm: Any) -> None:
    """The mean of z_t - z_y is linear in v: its maximum over the ball is eps times the dual."""
    model, (x, _) = Linear(3), data()
    y = model(x).argmax(1).detach()
    others = (y != 2).nonzero()[:, 0]
    w = model.w.detach()
    slope = (w[2] - w[y[others]]).mean(0).reshape(1, 1, 3, 4)
    eps = 0.05 if isinstance(norm, Linf) else 0.2
    best = eps * (slope.sign() if isinstance(norm, Linf) else slope / slope.norm())
    attack = universal(Threat(norm, eps), 10, objective=TargetedMargin(), batch=None)
    found = attack(model, x[others], y[others], target=torch.tensor([2]))
    # TargetedMargin counts any misclassification as fooled
    path = [best * min(k * 0.25, 1.0) for k in range(11)]
    with torch.no_grad():
        answers = [model(x[others] + v).argmax(1) for v in path]
    shares = [float((answer != y[others]).double().mean()) for answer in answers]
    assert max(shares) > shares[0] + 0.1
    assert float(found.score[0]) == pytest.approx(max(shares))
    assert torch.allclose(found.value, path[shares.index(max(shares))], atol=1e-12)


@pytest.mark.parametrize("eps", [0.02, 0.1, 0.3])
def test_two_classes_one_target_in_closed_form(eps: float) -> None:
    """Towards class 1 the gradient of every example points along w_1 - w_0."""
    model, (x, y) = Linear(2, seed=4), data(60, 2)
    gap, rise = model.w[1] - model.w[0], model.b[1] - model.b[0]
    with torch.no_grad():
        model.b[1] -= rise + (gap @ x.flatten(1).T).quantile(0.9)  # nine in ten are of class 0
        rise = model.b[1] - model.b[0]
        reached = x.flatten(1) @ gap + rise + eps * gap.abs().sum() > 0
    attack = universal(Threat(Linf(), eps), 20, objective=Targeted(), batch=None)
    found = semantic(attack, model, x, y, [1])
    other = y != 1
    expected = float(reached[other].double().mean())
    assert found.values.shape == (1, 1, 3, 4) and found.classes.tolist() == [1]
    assert float(found.share[0]) == pytest.approx(expected)
    assert float(taken(model, x, y, found, attack.threat)[0]) == pytest.approx(expected)  # type: ignore[arg-type]
    if expected < 1:
        best = eps * gap.detach().sign().reshape(1, 3, 4)
        with torch.no_grad():
            same = (model(x + best).argmax(1) == 1)[other].double().mean()
        assert float(same) == pytest.approx(expected)


def test_a_mini_batch_step_is_the_naive_one() -> None:
    model, (x, y) = Linear(3), data(10)
    eps, alpha, steps, size = 0.2, 0.03, 7, 4
    attack = universal(Threat(Linf(), eps), steps, alpha, CrossEntropy(), batch=size)
    asked: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if images.requires_grad:
                asked.append(images.detach().clone())
            out: Tensor = model(images)
            return out

    found = attack(Watched(), x, y, run=Run(seed=3))
    v = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    shares = []
    for number, images in enumerate(asked):
        if number % 3 == 0:  # ten examples in batches of four: every third step begins a pass
            shares.append((float((model((x + v).clamp(0, 1)).argmax(1) != y).double().mean()), v))
        rows = [(x + v - image).flatten(1).abs().amax(1).argmin().item() for image in images]
        assert torch.allclose((x + v)[rows], images, atol=1e-12)
        live = v.clone().requires_grad_()
        loss = F.cross_entropy(model(x[rows] + live), y[rows])
        (grad,) = torch.autograd.grad(loss, live)
        v = (v + alpha * grad.sign()).clamp(-eps, eps)
        if number % 3 == 0:
            seen = set()
        assert not seen & set(rows), "an example twice in one pass"
        seen |= set(rows)
        if number % 3 == 2:
            assert seen == set(range(10))
    assert len(asked) == steps
    shares.append((float((model((x + v).clamp(0, 1)).argmax(1) != y).double().mean()), v))
    best = max(share for share, _ in shares)
    assert float(found.score[0]) == pytest.approx(best)
    first = next(value for share, value in shares if share == best)
    assert torch.allclose(found.value, first, atol=1e-12)
    batches = [4, 4, 2, 4, 4, 2, 4]
    assert found.spent[0].tolist() == [sum(batches) + 10 * (3 + 1), sum(batches)]


@dataclass(frozen=True)
class Recorder:
    """An oracle that notes which examples it is asked about."""

    asked: list[list[int]] = field(default_factory=list)

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        self.asked.append(sorted(int(v) for v in cases.x.flatten()))
        one = torch.ones(1)
        return Point(one, one, one > 0, torch.zeros_like(delta), (len(cases.x), len(cases.x)))


def test_every_pass_meets_every_example_once_in_an_order_of_its_own() -> None:
    x = torch.arange(7.0).reshape(7, 1, 1, 1)
    every = torch.zeros(7, dtype=torch.int64)
    cases = Cases(x, every, every, None, keys.mix(0, torch.zeros(1, dtype=torch.int64)))  # type: ignore[arg-type]
    inner = Recorder()
    oracle = Passes(inner, 3, 30)
    points = [
        oracle(cases, torch.zeros(1, 1, 1, 1), True, torch.tensor([t / 30])) for t in range(9)
    ]
    batches = [asked for asked in inner.asked if len(asked) < 7]
    assert [len(b) for b in batches] == [3, 3, 1] * 3
    for start in (0, 3, 6):
        assert sorted(i for b in batches[start : start + 3] for i in b) == list(range(7))
    assert len({str(b) for b in batches}) > 4
    judged = [bool(point.score.isfinite()) for point in points]
    assert judged == [True, False, False] * 3
    assert not any(bool(p.won) for p, whole in zip(points, judged, strict=True) if not whole)


def test_it_ends_when_enough_are_fooled() -> None:
    model, (x, _) = Linear(2, seed=4), data(60, 2)
    y = model(x).argmax(1).detach()
    x, y = x[y == 0], y[y == 0]
    given = {"objective": Margin(), "batch": None}
    whole = universal(Threat(Linf(), 0.3), 40, **given)(model, x, y)  # type: ignore[arg-type]
    early = universal(Threat(Linf(), 0.3), 40, enough=0.4, **given)(model, x, y)  # type: ignore[arg-type]
    assert bool(early.lost[0]) and 0.4 <= float(early.score[0]) < float(whole.score[0])
    assert int(early.spent.sum()) < int(whole.spent.sum())


def test_only_the_remaining_push() -> None:
    model, (x, y) = Linear(3), data(30)
    with torch.no_grad():
        fooled = model(x).argmax(1) != y
    assert 0 < int(fooled.sum()) < 30
    attack = universal(Threat(Linf(), 0.05), 1, 0.01, batch=None, remaining=True)
    found = attack(model, x, y)
    live = torch.zeros(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(model(x + live)[~fooled], y[~fooled])
    (grad,) = torch.autograd.grad(loss, live)
    moved = 0.01 * grad.sign()
    with torch.no_grad():
        before, after = (float((model(x + v).argmax(1) != y).double().mean()) for v in (0, moved))
    assert torch.allclose(found.value, moved if after > before else torch.zeros_like(moved))
    assert after != before


def test_inputs_are_clipped_after_the_perturbation_is_added() -> None:
    model, (x, y) = Linear(3), data(20)
    x = (x * 2.4 - 0.6).clamp(0.05, 0.98)
    threat = Threat(Linf(), 0.5, low=0.1, high=0.9)
    attack = universal(threat, 5, objective=TargetedMargin(), batch=None)
    assert isinstance(attack.threat.site, Universal)
    assert (attack.threat.site.low, attack.threat.site.high) == (0.1, 0.9)
    found = attack(model, x, y, target=torch.tensor([1]))
    with torch.no_grad():
        fooled = model((x + found.value).clamp(0.1, 0.9)).argmax(1) != y
    assert float(found.score[0]) == pytest.approx(float(fooled.double().mean()))


def test_one_perturbation_per_class(make_problem: Any, watch: Any) -> None:
    problem = make_problem(n=12, k=4, dtype=torch.float64)
    seen = watch(problem.model, problem.x)
    attack = universal(Threat(Linf(), 0.6), 15, 0.1, Targeted(), batch=5)
    found = semantic(attack, problem.model, problem.x, problem.y, [3, 0], seed=1)
    seen.check()
    assert isinstance(found, Semantic) and found.classes.tolist() == [3, 0]
    assert found.values.shape == (2, 1, 4, 4) and bool((found.values.abs() <= 0.6).all())
    for number, value, share in zip((3, 0), found.values, found.share, strict=True):
        others = problem.x[problem.y != number]
        with torch.no_grad():
            answer = problem.model((others + value).clamp(0, 1)).argmax(1)
        assert float(share) == pytest.approx(float((answer == number).double().mean()))
    again = semantic(attack, problem.model, problem.x, problem.y, [0], seed=1)
    assert torch.equal(again.values[0], found.values[1]), "a class does not depend on the others"


@pytest.mark.parametrize(
    "make",
    [
        lambda: universal(Threat(Linf(), 0.1), alpha=-1.0),
        lambda: universal(Threat(Linf(), 0.1), batch=0),
        lambda: universal(Threat(Linf(), 0.1), enough=0.0),
        lambda: universal(Threat(Linf(), 0.1), objective=KL()),
        lambda: semantic(universal(Threat(Linf(), 0.1)), Linear(3), *data(), [1]),
        lambda: semantic(hypocritical(Threat(Linf(), 0.1)), Linear(3), *data(), [1]),
        lambda: semantic(
            universal(Threat(Linf(), 0.1), objective=Targeted()), Linear(3), *data(), []
        ),
        lambda: semantic(
            universal(Threat(Linf(), 0.1), objective=Targeted()),
            Linear(3), data()[0], torch.ones(40, dtype=torch.int64), [1],
        ),
    ],
)  # fmt: skip
def test_refused(make: Any) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.given and caught.value.expected and caught.value.remedy
