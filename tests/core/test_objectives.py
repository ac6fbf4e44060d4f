"""Every objective against its formula, written out naively, one example at a time.

Adding an objective is one row of `ROWS`: its formula for one example, its verdict, what it reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.objectives import (
    DLR,
    KL,
    Alternating,
    CrossEntropy,
    Goal,
    Hypocritical,
    Margin,
    Objective,
    Targeted,
    TargetedDLR,
    TargetedMargin,
    margin,
)

Row = list[float]


def cross_entropy(z: Row, y: int, t: int, p: Row) -> float:
    return math.log(sum(math.exp(v) for v in z)) - z[y]


def plain_margin(z: Row, y: int, t: int, p: Row) -> float:
    return max(v for k, v in enumerate(z) if k != y) - z[y]


def targeted_margin(z: Row, y: int, t: int, p: Row) -> float:
    return z[t] - z[y]


def dlr(z: Row, y: int, t: int, p: Row) -> float:
    s = sorted(z, reverse=True)
    return plain_margin(z, y, t, p) / (s[0] - s[2] if len(z) > 2 else 1)


def targeted_dlr(z: Row, y: int, t: int, p: Row) -> float:
    s = sorted(z, reverse=True)
    third = (s[2] + s[3]) / 2 if len(z) > 3 else s[2] if len(z) == 3 else s[0] - 1
    return (z[t] - z[y]) / (s[0] - third)


def kl(z: Row, y: int, t: int, p: Row) -> float:
    return sum(a * (math.log(a) + cross_entropy(z, k, t, p)) for k, a in enumerate(p))


def best(z: Row) -> int:
    return z.index(max(z))


@dataclass(frozen=True)
class Case:
    """An objective, its formula (z, y, target, probabilities), its verdict and its yardstick."""

    objective: Objective
    loss: Callable[[Row, int, int, Row], float]
    won: Callable[[Row, int, int], bool] = lambda z, y, t: best(z) != y
    score: Callable[[Row, int, int, Row], float] = plain_margin
    shift: bool = True  # does adding a number to all logits leave the loss as it is?
    scale: bool = False  # does multiplying all logits? (from three classes on)


ROWS = {
    "cross-entropy": Case(CrossEntropy(), cross_entropy),
    "margin": Case(Margin(), plain_margin),
    "targeted margin": Case(TargetedMargin(), targeted_margin),
    "dlr": Case(DLR(), dlr, scale=True),
    "targeted dlr": Case(TargetedDLR(), targeted_dlr, scale=True),
    "kl": Case(KL(), kl),
    "hypocritical": Case(
        Hypocritical(),
        lambda z, y, t, p: -cross_entropy(z, y, t, p),
        lambda z, y, t: best(z) == y,
        lambda z, y, t, p: -plain_margin(z, y, t, p),
    ),
    "hypocritical margin": Case(
        Hypocritical(Margin()),
        lambda z, y, t, p: -plain_margin(z, y, t, p),
        lambda z, y, t: best(z) == y,
        lambda z, y, t, p: -plain_margin(z, y, t, p),
    ),
    "targeted": Case(
        Targeted(),
        lambda z, y, t, p: -cross_entropy(z, t, t, p),
        lambda z, y, t: best(z) == t,
        lambda z, y, t, p: -plain_margin(z, t, t, p),
    ),
    "one stage": Case(Alternating((DLR(),)), dlr, scale=True),
}
each_objective = pytest.mark.parametrize("case", ROWS.values(), ids=ROWS.keys())
classes = pytest.mark.parametrize("k", [2, 3, 4, 10])


@dataclass(frozen=True)
class Batch:
    z: Tensor
    y: Tensor
    target: Tensor
    p: Tensor

    def goal(self, soft: bool, progress: float = 0.0) -> Goal:
        return Goal(self.p if soft else self.y, self.target, torch.full((len(self.y),), progress))


def draw(k: int, n: int = 12, dtype: torch.dtype = torch.float64) -> Batch:
    g = torch.Generator().manual_seed(k)
    z = torch.randn(n, k, generator=g, dtype=dtype) * 3
    y = torch.randint(k, (n,), generator=g)
    target = (y + torch.randint(1, k, (n,), generator=g)) % k
    p = torch.randn(n, k, generator=g, dtype=dtype).softmax(1)
    p[torch.arange(n), y] += 2  # the likeliest class is the label, so that both readings agree
    return Batch(z, y, target, p / 3)


@each_objective
@classes
def test_loss_score_and_verdict_are_the_formulas(case: Case, k: int) -> None:
    b = draw(k)
    goal = b.goal(case.objective.soft)
    loss, score, won = (
        f(b.z, goal) for f in (case.objective.loss, case.objective.score, case.objective.won)
    )
    assert loss.shape == score.shape == won.shape == (len(b.y),) and won.dtype == torch.bool
    for i, (z, p) in enumerate(zip(b.z.tolist(), b.p.tolist(), strict=True)):
        y, t = int(b.y[i]), int(b.target[i])
        assert float(loss[i]) == pytest.approx(case.loss(z, y, t, p), abs=1e-9)
        assert float(score[i]) == pytest.approx(case.score(z, y, t, p), abs=1e-9)
        assert bool(won[i]) is case.won(z, y, t)


@each_objective
@classes
def test_examples_do_not_mix(case: Case, k: int) -> None:
    """The gradient of the summed losses is each row's own: one backward serves all rows."""
    b = draw(k)
    z = b.z.clone().requires_grad_()
    (together,) = torch.autograd.grad(case.objective.loss(z, b.goal(case.objective.soft)).sum(), z)
    for i in range(len(z)):
        row = b.z[i : i + 1].clone().requires_grad_()
        goal = Goal(*(part[i : i + 1] for part in b.goal(case.objective.soft)[:3]))
        (alone,) = torch.autograd.grad(case.objective.loss(row, goal).sum(), row)
        assert torch.allclose(together[i], alone[0], atol=1e-12)


@each_objective
@classes
def test_adding_a_number_to_all_logits_changes_nothing(case: Case, k: int) -> None:
    b = draw(k)
    goal = b.goal(case.objective.soft)
    moved = case.objective.loss(b.z + 17.5, goal)
    assert torch.allclose(moved, case.objective.loss(b.z, goal), atol=1e-9) is case.shift


@each_objective
@pytest.mark.parametrize("k", [3, 4, 10])
@pytest.mark.parametrize("factor", [1e-4, 0.5, 100.0])
def test_dlr_does_not_care_for_the_scale(case: Case, k: int, factor: float) -> None:
    b = draw(k)
    goal = b.goal(case.objective.soft)
    same = torch.allclose(
        case.objective.loss(b.z * factor, goal), case.objective.loss(b.z, goal), atol=1e-6
    )
    assert same is case.scale


@each_objective
@classes
def test_gradients_are_finite_even_for_extreme_logits(case: Case, k: int) -> None:
    b = draw(k, dtype=torch.float32)
    for scale in (0.0, 1e-6, 1.0, 300.0, 1e4):
        z = (b.z * scale).requires_grad_()
        loss = case.objective.loss(z, b.goal(case.objective.soft))
        (grad,) = torch.autograd.grad(loss.sum(), z)
        assert bool(loss.isfinite().all()) and bool(grad.isfinite().all())


def test_dlr_is_at_least_minus_one_and_positive_only_when_won() -> None:
    for k in (3, 4, 10):
        b = draw(k, n=200)
        loss, won = DLR().loss(b.z, b.goal(False)), DLR().won(b.z, b.goal(False))
        assert float(loss.min()) >= -1 and bool(((loss > 0) == won).all())


def test_margin_is_positive_where_another_class_is_better() -> None:
    z = torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]])
    assert margin(z, torch.tensor([0, 0, 0])).tolist() == [-1.0, 1.0, 0.0]


@pytest.mark.parametrize("objective", [CrossEntropy(), Margin(), DLR(), Hypocritical()], ids=repr)
def test_probabilities_serve_as_labels(objective: Objective) -> None:
    """One-hot probabilities mean the label itself."""
    b = draw(4)
    hot = torch.nn.functional.one_hot(b.y, 4).double()
    progress = torch.zeros(len(b.y)).double()
    soft, hard = Goal(hot, b.target, progress), Goal(b.y, b.target, progress)
    for question in (objective.loss, objective.score, objective.won):
        assert torch.allclose(question(b.z, soft).double(), question(b.z, hard).double())


def test_cross_entropy_to_mixed_labels_is_the_mixture() -> None:
    b = draw(5)
    expected = [
        sum(w * cross_entropy(z, k, 0, p) for k, w in enumerate(p))
        for z, p in zip(b.z.tolist(), b.p.tolist(), strict=True)
    ]
    loss = CrossEntropy().loss(b.z, b.goal(True))
    assert torch.allclose(loss, torch.tensor(expected, dtype=torch.float64))


def test_kl_is_zero_with_zero_gradient_where_the_model_answers_the_same() -> None:
    z = draw(4).z.requires_grad_()
    goal = Goal(z.detach().softmax(1), torch.zeros(12).long(), torch.zeros(12))
    loss = KL().loss(z, goal)
    (grad,) = torch.autograd.grad(loss.sum(), z)
    assert float(loss.detach().abs().max()) < 1e-12 and float(grad.abs().max()) < 1e-12


def test_kl_refuses_labels() -> None:
    b = draw(3)
    with pytest.raises(InputError, match="probabilities"):
        KL().loss(b.z, b.goal(False))


@pytest.mark.parametrize("inner", [TargetedMargin(), TargetedDLR(), Targeted()], ids=repr)
def test_an_objective_made_of_targeted_ones_is_targeted(inner: Objective) -> None:
    """Otherwise nobody asks for targets, and class -1 is read."""
    assert Alternating((Margin(), inner)).targeted
    assert Hypocritical(inner).targeted


def test_an_objective_made_of_soft_ones_is_soft() -> None:
    """Otherwise KL inside it silently starts at its zero gradient."""
    assert Alternating((KL(), Margin())).soft
    assert Hypocritical(KL()).soft
    assert not Alternating((Margin(),)).soft and not Hypocritical().soft
