"""Estimated gradients: right on average, with the right spread, keyed, and never over budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.adam import Adam
from torchproof.attack.cases import Cases, Point
from torchproof.attack.combine import Attack
from torchproof.attack.nes import NES, SPSA, nes, spsa
from torchproof.attack.oracle import Plain
from torchproof.attack.pgd import PGD, MomentumPGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import CrossEntropy, Margin
from torchproof.core.sets import Ball
from torchproof.core.sites import Input, Universal
from torchproof.core.threats import Relative, Threat

ESTIMATORS = [NES, SPSA]
each = pytest.mark.parametrize("kind", ESTIMATORS)
SHAPE = (1, 2, 3)


@dataclass(frozen=True)
class Quadratic:
    """loss(d) = <slope, d> + <d, curve d> / 2, and a list of what it was asked."""

    slope: Tensor
    curve: Tensor
    asked: list[Tensor] = field(default_factory=list)

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        assert not gradient, "values are all that is asked for"
        assert len(delta) == len(cases.x) == len(cases.key) == len(progress)
        self.asked.append(delta.clone())
        d = delta.flatten(1)
        loss = d @ self.slope + 0.5 * ((d @ self.curve) * d).sum(1)
        return Point(loss, loss.clone(), loss > 1e9, None, (1, 0))


@pytest.fixture
def quadratic() -> Quadratic:
    g = torch.Generator().manual_seed(3)
    a = torch.randn(6, 6, generator=g, dtype=torch.float64)
    return Quadratic(torch.randn(6, generator=g, dtype=torch.float64), a + a.T)


def cases(n: int) -> Cases:
    x = torch.full((n, *SHAPE), 0.5, dtype=torch.float64)
    ball = Ball.of(Linf(), torch.ones(n, dtype=torch.float64), -x, 1 - x)
    y = torch.zeros(n, dtype=torch.int64)
    return Cases(x, y, y - 1, ball, keys.mix(0, torch.arange(n)))


def truth(q: Quadratic, at: Tensor) -> Tensor:
    return (q.slope + at.flatten() @ q.curve).reshape(SHAPE)


@each
def test_the_mean_is_the_gradient_and_the_spread_what_theory_says(
    kind: Any, quadratic: Quadratic
) -> None:
    """(g.u) u has mean g; its variance is |g|^2 + g_i^2 for normal u, |g|^2 - g_i^2 for signs."""
    n = 20_000
    at = torch.linspace(-0.3, 0.2, 6, dtype=torch.float64).reshape(SHAPE)
    point = kind(quadratic, pairs=1, sigma=0.05)(
        cases(n), at.expand(n, *SHAPE), True, torch.zeros(n)
    )
    g = truth(quadratic, at)
    side = 1 if kind is NES else -1
    variance = g.square().sum() + side * g.square()
    mean, spread = point.grad.mean(0), point.grad.var(0)
    assert bool(((mean - g).abs() < 4.5 * (variance / n).sqrt()).all())
    assert torch.allclose(spread, variance, rtol=0.1)


@each
def test_the_estimate_is_the_textbook_sum_over_what_was_asked(
    kind: Any, quadratic: Quadratic
) -> None:
    n, pairs, sigma = 3, 4, 0.1
    at = torch.rand(n, *SHAPE, dtype=torch.float64)
    point = kind(quadratic, pairs, sigma)(cases(n), at, True, torch.full((n,), 0.25))
    first, *rest = quadratic.asked
    assert torch.equal(first, at), "the verdict is about the point itself"
    assert len(rest) == 2 * pairs
    for i in range(n):
        total = torch.zeros(SHAPE, dtype=torch.float64)
        for up, down in zip(rest[::2], rest[1::2], strict=True):
            assert torch.allclose(up[i] + down[i], 2 * at[i]), "antithetic pairs"
            u = (up[i] - down[i]) / (2 * sigma)
            if kind is SPSA:
                assert torch.allclose(u.abs(), torch.ones_like(u))
            total += (truth(quadratic, at[i]) * u).sum() * u  # exact for quadratics
        assert torch.allclose(point.grad[i], total / pairs)
    assert point.cost == (2 * pairs + 1, 0)


@each
@pytest.mark.parametrize("room", [1, 2, 7, 64])
def test_company_and_grouping_change_no_bit_of_an_estimate(
    kind: Any, room: int, quadratic: Quadratic
) -> None:
    at, progress = torch.rand(5, *SHAPE, dtype=torch.float64), torch.linspace(0, 0.8, 5)
    whole = kind(quadratic, 6, 0.1)(cases(5), at, True, progress).grad
    rows = torch.tensor([3, 0])
    c = cases(5)
    ball = Ball.of(Linf(), c.set.radius[rows], c.set.low[rows], c.set.high[rows])  # type: ignore[union-attr]
    few = Cases(c.x[rows], c.y[rows], c.target[rows], ball, c.key[rows])
    part = kind(quadratic, 6, 0.1, room)(few, at[rows], True, progress[rows]).grad
    assert torch.allclose(part, whole[rows], rtol=1e-12, atol=0)
    assert max(len(asked) for asked in quadratic.asked) <= max(room, 5)


@each
def test_noise_differs_between_examples_and_steps_only(kind: Any, quadratic: Quadratic) -> None:
    at = torch.zeros(4, *SHAPE, dtype=torch.float64)
    estimate = kind(quadratic, 2, 0.1)
    one, again, later = (
        estimate(cases(4), at, True, torch.full((4,), t)).grad for t in (0.1, 0.1, 0.2)
    )
    assert torch.equal(one, again)
    assert not torch.allclose(one, later)
    assert len({tuple(row.flatten().tolist()) for row in one}) == 4


@each
def test_without_a_gradient_it_is_one_question(kind: Any, quadratic: Quadratic) -> None:
    point = kind(quadratic)(
        cases(2), torch.zeros(2, *SHAPE, dtype=torch.float64), False, torch.zeros(2)
    )
    assert point.cost == (1, 0) and point.grad is None and len(quadratic.asked) == 1


@pytest.mark.parametrize(("make", "pairs"), [(nes, 3), (spsa, 5)])
@pytest.mark.parametrize("queries", [12, 29, 30, 100])
def test_no_example_is_asked_more_often_than_allowed(
    make: Any, pairs: int, queries: int, make_problem: Any, counted: Any
) -> None:
    p = make_problem(n=3)
    model = counted(p.model)
    found = make(Threat(Linf(), 1e-6), queries, pairs)(model, p.x, p.y, run=Run(slots=2))
    assert not bool(found.lost.any()), "so small a ball breaks nothing, so all queries are used"
    turn = 2 * pairs + 1
    expected = (queries - 1) // turn * turn + 1
    assert found.spent.tolist() == [[expected, 0]] * 3 and expected <= queries
    assert (model.forwards, model.backwards) == (3 * expected, 0)


@pytest.mark.parametrize("make", [nes, spsa])
def test_a_run_has_a_budget_of_its_own(make: Any, make_problem: Any) -> None:
    p = make_problem(n=2)
    found = make(Threat(Linf(), 1e-6), 500, 4)(p.model, p.x, p.y, run=Run(budget=100))
    assert bool((found.spent.sum(1) <= 100).all() and (found.spent.sum(1) > 100 - 9).all())


@pytest.mark.parametrize("make", [nes, spsa])
def test_a_linear_classifier_is_pushed_to_the_corner(make: Any) -> None:
    """With many pairs the signs are those of the weights: the closed-form worst case, nearly."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(16, generator=g, dtype=torch.float64)
    weight += weight.sign()

    def model(z: Tensor) -> Tensor:
        total = z.flatten(1) @ weight
        return torch.stack([torch.full_like(total, 99.0), total], 1)

    x = torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64)
    y = torch.zeros(2, dtype=torch.int64)
    found = make(Threat(Linf(), 0.1), 4000, 40, objective=Margin())(model, x, y)
    best = x.flatten(1) @ weight + 0.1 * weight.abs().sum() - 99
    assert torch.allclose(found.score, best, atol=0.02 * float(weight.abs().sum()) * 0.1)


def test_decisions_do_not_depend_on_slots(make_problem: Any) -> None:
    p = make_problem(n=9, dtype=torch.float64)
    attack = nes(Threat(Linf(), 0.08), 200, 4)
    one, two, three = (attack(p.model, p.x, p.y, run=Run(seed=5, slots=s)) for s in (1, 4, 64))
    assert 0 < int(one.lost.sum()) < 9
    for other in (two, three):
        assert torch.equal(one.lost, other.lost) and torch.equal(one.spent, other.spent)
        assert torch.allclose(one.value, other.value, atol=1e-9)


class Stepped(nn.Module):
    """A model that no gradient passes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.detach())
        return out


def test_models_without_gradients_are_attacked(make_problem: Any) -> None:
    p = make_problem(n=6)
    found = nes(Threat(Linf(), 0.3), 400, 6)(Stepped(p.model).eval(), p.x, p.y)
    assert int(found.lost.sum()) >= 4


def test_weights_and_shared_perturbations_have_estimates_too(make_problem: Any) -> None:
    """Every leaf has directions of its own; the mean over many is near the gradient."""
    p = make_problem(n=3, dtype=torch.float64)
    threat = Relative(0.1, L2())
    allowed = threat.set(p.model, p.x)
    plain = Plain(p.model, threat.site, CrossEntropy())
    one = Cases(p.x, p.y, p.target, allowed, keys.mix(0, torch.arange(1)))
    zero, progress = allowed.zero(), torch.zeros(1)
    exact, rough = (o(one, zero, True, progress).grad for o in (plain, NES(plain, 600, 1e-4)))
    assert set(exact) == set(rough)
    a, b = (torch.cat([g[k].flatten() for k in sorted(g)]) for g in (exact, rough))
    share = 600 / (600 + len(a))  # of the estimate's squared length that lies along the gradient
    assert float(torch.cosine_similarity(a, b, 0)) > share**0.5 - 0.1
    everywhere = nes(Threat(Linf(), 0.1, site=Universal()), 60, 4)(p.model, p.x, p.y)
    assert everywhere.value.shape == (1, 1, 4, 4) and int(everywhere.spent[0, 0]) == 3 * 55


@pytest.mark.parametrize("bad", [{"pairs": 0}, {"sigma": 0.0}, {"room": 0}])
@each
def test_settings_nobody_can_mean(kind: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="pairs >= 1"):
        kind(None, **bad)


def test_too_few_queries_for_a_step() -> None:
    with pytest.raises(InputError, match="at least 52 queries"):
        nes(Threat(Linf(), 0.1), queries=51)


# ---- Adam


def test_adam_walks_as_torchs_own() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 1, 2, 2, generator=g, dtype=torch.float64)
    inf = torch.full_like(x, torch.inf)
    unit = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    ball = Ball.of(L2(), torch.full_like(unit, torch.inf), -inf, inf, unit)
    search, key = Adam(5, length=0.1), torch.arange(3)
    state = search.init(ball, key)
    theirs = [torch.zeros_like(row, requires_grad=True) for row in x]
    rates = zip(theirs, unit.tolist(), strict=True)
    walks = [torch.optim.Adam([p], lr=0.1 * u, maximize=True) for p, u in rates]
    for _ in range(5):
        grad = torch.randn(x.shape, generator=g, dtype=torch.float64)
        value = torch.zeros(3, dtype=torch.float64)
        state = search.step(ball, key, state, Point(value, value, value > 0, grad, (1, 1)))
        for p, row, walk in zip(theirs, grad, walks, strict=True):
            p.grad = row.clone()
            walk.step()
    assert torch.allclose(state.delta, torch.stack([p.detach() for p in theirs]), atol=1e-9)


@pytest.mark.parametrize("bad", [{"length": 0.0}, {"betas": (0.9, 1.0)}, {"steps": 0}])
def test_adam_refuses(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Adam(**bad)


def test_any_gradient_search_runs_on_estimates(make_problem: Any) -> None:
    p = make_problem(n=4)
    for search in (PGD(4, start=Zero()), MomentumPGD(4, length=0.5, start=Zero()), Adam(4, 0.5)):
        attack = Attack(Threat(L2(), 1.0), Margin(), search, wrap=lambda o: SPSA(o, 8))
        found = attack(p.model, p.x, p.y)
        assert bool(found.lost.any()) and int(found.spent[:, 1].sum()) == 0
        assert isinstance(attack.threat.site, Input)
