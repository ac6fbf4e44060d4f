"""The loop: decisions and counts do not depend on slots, order or company; every job ends as it
should.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.apgd import APGD
from torchproof.attack.ascend import ascend
from torchproof.attack.cases import Jobs
from torchproof.attack.combine import Attack, Chain, EveryTarget, Restarts
from torchproof.attack.fab import FAB
from torchproof.attack.fgsm import FGSM
from torchproof.attack.l1_apgd import L1APGD
from torchproof.attack.oracle import Plain
from torchproof.attack.pgd import PGD, MomentumPGD, NoisyPGD
from torchproof.attack.queue import Queue
from torchproof.attack.run import Run
from torchproof.attack.square import Square
from torchproof.attack.starts import Start, Zero
from torchproof.core.errors import ModelError
from torchproof.core.norms import L1, L2, Linf
from torchproof.core.objectives import (
    DLR,
    Alternating,
    CrossEntropy,
    Margin,
    TargetedDLR,
    TargetedMargin,
)
from torchproof.core.sites import Latent, Universal
from torchproof.core.threats import Threat
from torchproof.train.n_fgsm import NoiseStep

LINF = Threat(Linf(), 0.12)
L2_ = Threat(L2(), 0.35)
L1_ = Threat(L1(), 1.0)

ATTACKS: dict[str, Any] = {
    "fgsm": Attack(LINF, CrossEntropy(), FGSM()),
    "pgd": Attack(LINF, CrossEntropy(), PGD(5)),
    "pgd l2 restarts": Restarts(Attack(L2_, DLR(), PGD(3)), 3),
    "apgd": Attack(LINF, CrossEntropy(), APGD(8)),
    "apgd l2": Attack(L2_, Alternating((CrossEntropy(), DLR())), APGD(8)),
    "apgd-t": EveryTarget(Attack(LINF, TargetedDLR(), APGD(4)), 3),
    "fab-t": EveryTarget(Attack(LINF, TargetedMargin(), FAB(5)), 3),
    "fab-t l2": EveryTarget(Attack(L2_, TargetedMargin(), FAB(5)), 2),
    "square": Attack(LINF, Margin(), Square(12)),
    "square l2": Attack(L2_, Margin(), Square(12)),
    "square l1": Attack(L1_, Margin(), Square(12)),
    "l1-apgd-t": EveryTarget(Attack(L1_, TargetedDLR(), L1APGD(8)), 2),
    "fab-t l1": EveryTarget(Attack(L1_, TargetedMargin(), FAB(5)), 2),
    "latent": Attack(Threat(L2(), 0.3, site=Latent("bn")), CrossEntropy(), PGD(4)),
    "chain": Chain((Attack(LINF, CrossEntropy(), FGSM()), Attack(LINF, Margin(), Square(8)))),
}
each_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


@each_attack
def test_slots_and_order_change_no_decision_and_no_count(attack: Any, make_problem: Any) -> None:
    """In float64, to the last evaluation; but which target of FAB came closest may differ for an
    example: two are as near, and products of matrices of other sizes round as the processor likes.
    """
    p = make_problem(n=13, k=4, dtype=torch.float64, wrong=1)
    expected = attack(p.model, p.x, p.y, run=Run(seed=3))
    assert 1 < int(expected.lost.sum()) < 13, "an attack that breaks some examples is wanted here"
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    for slots, ids in ((1, order), (7, torch.arange(13)), (7, order)):
        run = Run(seed=3, slots=slots, ids=ids)
        found = attack(p.model, p.x[ids], p.y[ids], run=run)
        assert torch.equal(found.lost, expected.lost[ids])
        assert torch.equal(found.spent, expected.spent[ids])
        differ = int((found.by != expected.by[ids]).any(1).sum())
        assert differ <= ("FAB(" in repr(attack))
        assert torch.allclose(found.score, expected.score[ids])


@each_attack
def test_an_example_does_not_depend_on_its_company(attack: Any, make_problem: Any) -> None:
    """Two shards give what one run gives."""
    p = make_problem(n=9, k=4, dtype=torch.float64)
    whole = attack(p.model, p.x, p.y, run=Run(seed=1))
    for shard in (torch.arange(9)[::2], torch.arange(9)[1::2]):
        part = attack(p.model, p.x[shard], p.y[shard], run=Run(seed=1, ids=shard))
        assert torch.equal(part.lost, whole.lost[shard])
        assert torch.equal(part.spent, whole.spent[shard])


def test_the_seed_matters_and_so_does_the_id(make_problem: Any) -> None:
    p = make_problem(n=3)
    values = [
        ATTACKS["pgd"](p.model, p.x, p.y, run=run).value
        for run in (
            Run(seed=0, last=True),
            Run(seed=1, last=True),
            Run(ids=torch.tensor([5, 6, 7]), last=True),
        )
    ]
    assert not torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


# ---- training: the last iterate, the friendly one


@dataclass(frozen=True)
class Given(Start):
    """Starts where the test says."""

    points: Any
    random: ClassVar[bool] = True

    def __call__(self, set: Any, key: Tensor) -> Tensor:
        out: Tensor = self.points.clone()
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_madry_training_is_a_naive_loop_bit_for_bit(dtype: torch.dtype, make_problem: Any) -> None:
    p, eps, steps = make_problem(n=6, dtype=dtype), 0.125, 7
    start = (
        torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(3)).to(dtype) * 2 - 1
    ) * eps
    start = start.clamp(0 - p.x, 1 - p.x)
    attack = Attack(
        Threat(Linf(), eps), CrossEntropy(), PGD(steps, length=0.25, start=Given(start))
    )
    found = attack(p.model, p.x, p.y, run=Run(last=True, patience=math.inf))
    low, high = (0 - p.x).clamp_min(-eps), (1 - p.x).clamp_max(eps)
    delta = start.clone()
    for _ in range(steps):
        at = (p.x + delta).requires_grad_()
        loss = nn.functional.cross_entropy(p.model(at), p.y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, at)
        delta = (delta + eps / 4 * grad.sign()).clamp(low, high)
    assert torch.equal(found.value, delta)
    assert found.spent.tolist() == [[steps, steps]] * 6


@pytest.mark.parametrize(
    "attack",
    [
        Attack(LINF, CrossEntropy(), PGD(4, 0.5)),
        Attack(L2_, Margin(), MomentumPGD(3)),
        Attack(LINF, CrossEntropy(), NoisyPGD(3, noise=0.01)),
        Attack(Threat(L2(), 0.3, site=Latent("bn")), CrossEntropy(), PGD(2)),
        Attack(LINF, CrossEntropy(), FGSM()),
        Attack(LINF, CrossEntropy(), NoiseStep(2.0, 1.0)),
    ],
    ids=["pgd", "momentum", "noisy", "latent", "fgsm", "n-fgsm"],
)
def test_the_queue_and_the_loop_without_one_agree(attack: Attack, make_problem: Any) -> None:
    """Training starts all examples at once and needs no queue; seven slots do."""
    p = make_problem(n=9, k=4, dtype=torch.float64, wrong=1)
    run = Run(seed=5, ids=torch.arange(9) + 20, last=True, patience=math.inf)
    at_once = attack(p.model, p.x, p.y, run=run)
    queued = attack(p.model, p.x, p.y, run=replace(run, slots=7))
    assert torch.allclose(at_once.value, queued.value, atol=1e-12)
    assert int(at_once.lost.sum()) > 0
    for name in ("lost", "spent", "by", "done", "undefined", "score"):
        assert torch.equal(getattr(at_once, name), getattr(queued, name)), name


def test_a_run_without_a_queue_stops_when_told(make_problem: Any) -> None:
    p, asked = make_problem(n=4), iter((False, False, True))
    run = Run(last=True, patience=math.inf, stop=lambda: next(asked))
    found = Attack(LINF, CrossEntropy(), PGD(5))(p.model, p.x, p.y, run=run)
    assert found.spent.tolist() == [[2, 2]] * 4 and not found.done.any()
    assert found.by.tolist() == [[-1, -1]] * 4 and not found.lost.any()


def test_training_refuses_answers_that_are_not_finite(make_problem: Any) -> None:
    """Though it looks at no score."""
    p = make_problem(n=4)
    run = Run(last=True, patience=math.inf)
    attack = Attack(LINF, CrossEntropy(), PGD(2))
    for bad in (torch.nan, torch.tensor([0.0, *[-torch.inf] * 4])):
        with pytest.raises(ModelError, match="NaN or infinity"):
            attack(lambda x, bad=bad: p.model(x) + bad, p.x, p.y * 0, run=run)


def test_jobs_in_another_order_and_other_searches_take_the_queue(make_problem: Any) -> None:
    class Curious(PGD):
        """Looks at scores, which training does not make for searches that are even."""

        def step(self, set: Any, key: Tensor, state: Any, point: Any) -> Any:
            assert not torch.equal(point.score, point.loss)
            return super().step(set, key, state, point)

    p, run = make_problem(n=4, dtype=torch.float64), Run(seed=1, last=True, patience=math.inf)
    plain, curious = (Attack(LINF, CrossEntropy(), s) for s in (PGD(3), Curious(3)))
    expected = plain(p.model, p.x, p.y, run=run).value
    assert torch.allclose(curious(p.model, p.x, p.y, run=run).value, expected)
    one = Jobs.one_each(4)
    turned = one.rows(torch.tensor([2, 0, 3, 1]))
    oracle, site = Plain(p.model, LINF.site, CrossEntropy()), LINF.site
    found = [
        ascend(oracle, PGD(3), site, lambda x: LINF.set(p.model, x), p.x, p.y, jobs, run).value
        for jobs in (one, turned)
    ]
    assert torch.allclose(found[0], found[1])


@pytest.mark.parametrize("tau", [0, 1, 2, 5, 100])
@pytest.mark.parametrize("slots", [1, 4, 128])
def test_patience_is_friendly_training_in_its_authors_order(
    tau: int, slots: int, make_problem: Any
) -> None:
    """Zhang et al. 2020, algorithm 1: a misclassified iterate is kept when tau is used up, else tau
    falls by one.
    """
    p, eps, steps = make_problem(n=12, dtype=torch.float64, wrong=3), 0.25, 8
    attack = Attack(Threat(Linf(), eps), CrossEntropy(), PGD(steps, length=0.15, start=Zero()))
    found = attack(p.model, p.x, p.y, run=Run(last=True, patience=tau, slots=slots))
    early = 0
    for i in range(12):
        x, left, asked = p.x[i : i + 1], tau, 0
        low, high = (0 - x).clamp_min(-eps), (1 - x).clamp_max(eps)
        delta = torch.zeros_like(x)
        for _ in range(steps):
            at = (x + delta).requires_grad_()
            z = p.model(at)
            asked += 1
            if int(z.argmax()) != int(p.y[i]):
                if left == 0:
                    early += 1
                    break
                left -= 1
            (grad,) = torch.autograd.grad(nn.functional.cross_entropy(z, p.y[i : i + 1]), at)
            delta = (delta + 0.15 * eps * grad.sign()).clamp(low, high)
        assert torch.allclose(found.value[i : i + 1], delta, atol=1e-12)
        assert int(found.spent[i, 0]) == asked
    assert early >= 3 if tau < 5 else early <= 12


def test_evaluation_returns_the_worst_point_and_training_the_last() -> None:
    """A loss that rises and falls again: the worst point is in the middle."""

    def model(x: Tensor) -> Tensor:
        away = (x.flatten(1)[:, 0] - 0.6).abs()
        return torch.stack([1 + 0 * away, 0.5 - away], 1) + 0.05 * x.flatten(1)[
            :, :1
        ] * torch.tensor([0.0, 1.0])

    x, y = torch.full((1, 1, 1, 1), 0.45), torch.zeros(1).long()
    attack = Attack(Threat(Linf(), 0.4), Margin(), PGD(2, length=0.3, start=Zero()))
    best = attack(model, x, y)
    last = attack(model, x, y, run=Run(last=True, patience=math.inf))
    asked = [float(model(x + d)[0, 1] - model(x + d)[0, 0]) for d in (0.0, 0.12, 0.24)]
    assert asked.index(max(asked)) == 1
    assert float(best.value) == pytest.approx(0.12) and float(best.score) == pytest.approx(
        max(asked)
    )
    assert float(last.value) == pytest.approx(0.24)


def test_a_won_point_counts_more_than_any_score() -> None:
    """Ranked by (won, score): with patience the worst of the won points comes back, never a lost
    one.
    """

    def model(x: Tensor) -> Tensor:
        return torch.stack([0.2 - x.flatten(1)[:, 0], x.flatten(1)[:, 0] - 0.9], 1)

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1).long()
    attack = Attack(Threat(Linf(), 0.4), CrossEntropy(), PGD(8, length=0.125, start=Zero()))
    first = attack(model, x, y)
    worst = attack(model, x, y, run=Run(patience=math.inf))
    assert bool(first.lost) and bool(worst.lost)
    assert float(first.score) < float(worst.score)
    assert float(worst.value) == pytest.approx(0.4)


# ---- the queue


def test_an_example_has_one_job_in_flight_and_its_jobs_in_order() -> None:
    jobs = Jobs(torch.tensor([0, 0, 1, 1, 1, 2]), torch.arange(6), torch.zeros(6).long())
    queue = Queue(jobs)
    assert queue.pop(10) == [0, 2, 5] and queue.pop(10) == []
    assert queue.land([2], [False]) == [2]
    assert queue.land([1], [False]) == []
    assert queue.pop(10) == [3]
    assert queue.land([1, 0], [True, False]) == [1]
    assert queue.pop(10) == [1]
    assert queue.land([0], [False]) == [0]
    assert queue.pop(10) == []


def test_jobs_multiply() -> None:
    jobs = Jobs.one_each(2, torch.tensor([4, 5])).repeated(3)
    assert jobs.problem.tolist() == [0, 0, 0, 1, 1, 1]
    assert jobs.target.tolist() == [4, 4, 4, 5, 5, 5]
    assert jobs.restart.tolist() == [0, 1, 2, 0, 1, 2]


# ---- chains


def test_a_chain_is_the_union_of_its_attacks_on_survivors(make_problem: Any) -> None:
    p = make_problem(n=15, k=4, dtype=torch.float64)
    first = Attack(Threat(Linf(), 0.05), CrossEntropy(), FGSM())
    second = Attack(Threat(Linf(), 0.12), Margin(), PGD(4, start=Zero()))
    one, two = first(p.model, p.x, p.y), second(p.model, p.x, p.y)
    both = Chain((first, second))(p.model, p.x, p.y)
    assert 0 < int(one.lost.sum()) < int((one.lost | two.lost).sum()) < 15
    assert torch.equal(both.lost, one.lost | two.lost)
    expected = one.spent + two.spent * (~one.lost)[:, None]
    assert torch.equal(both.spent, expected)
    assert torch.equal(both.value[one.lost], one.value[one.lost])
    with torch.no_grad():
        wrong = p.model(p.x + both.value).argmax(1) != p.y
    assert torch.equal(wrong, both.lost)


def test_a_chain_of_shared_perturbations_is_about_all_examples(make_problem: Any) -> None:
    p = make_problem(n=6, dtype=torch.float64)
    threat = Threat(Linf(), 0.05, site=Universal())
    first, second = (
        Attack(threat, CrossEntropy(), FGSM()),
        Attack(threat, Margin(), PGD(4, start=Zero())),
    )
    both = Chain((first, second))(p.model, p.x, p.y)
    assert not bool(both.lost)
    assert torch.equal(both.spent, first(p.model, p.x, p.y).spent + second(p.model, p.x, p.y).spent)
