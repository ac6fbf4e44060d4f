"""Wrappers around oracles and models: EOT, BPDA, 8-bit perturbations."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.bpda import BPDA
from torchproof.attack.cases import Cases, Point
from torchproof.attack.combine import Attack
from torchproof.attack.fgsm import FGSM
from torchproof.attack.oracle import EOT, Plain, Quantised
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import forked
from torchproof.core.errors import InputError
from torchproof.core.grid import on_grid
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import CrossEntropy, Margin
from torchproof.core.sites import Input, Latent, Universal
from torchproof.core.threats import Relative, Threat
from torchproof.core.values import leaves

LINF = Threat(Linf(), 0.2)


def cases(problem: Any, threat: Any = LINF) -> Cases:
    n = len(problem.x)
    allowed = threat.set(problem.model, problem.x)
    return Cases(problem.x, problem.y, problem.target, allowed, torch.arange(n))


# ---- EOT


class Jitter(nn.Module):
    """Adds noise drawn from the global generator to its input."""

    def __init__(self, inner: nn.Module, sigma: float) -> None:
        super().__init__()
        self.inner, self.sigma = inner, sigma

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x + self.sigma * torch.randn_like(x))
        return out


def test_eot_is_the_mean_of_its_draws_at_their_cost(make_problem: Any, counted: Any) -> None:
    problem = make_problem(dtype=torch.float64)
    model = counted(Jitter(problem.model, 0.3))
    plain, delta = Plain(model, Input(), CrossEntropy()), torch.zeros_like(problem.x)
    with forked(7, torch.device("cpu")):
        draws = [plain(cases(problem), delta, True, torch.zeros(4)) for _ in range(5)]
    model.forwards = model.backwards = 0
    with forked(7, torch.device("cpu")):
        point = EOT(plain, 5)(cases(problem), delta, True, torch.zeros(4))
    assert not torch.equal(draws[0].loss, draws[1].loss)
    for name in ("loss", "score", "grad"):
        mean = sum(getattr(d, name) for d in draws) / 5
        assert torch.allclose(getattr(point, name), mean, atol=1e-12)
    votes = sum(d.won.long() for d in draws)
    assert torch.equal(point.won, votes >= 3)
    assert point.cost == (5, 5) == (model.forwards // 4, model.backwards // 4)
    assert EOT(plain, 5)(cases(problem), delta, False, torch.zeros(4)).cost == (5, 0)


@dataclasses.dataclass(frozen=True)
class Scripted:
    """An oracle that has won in some of its draws."""

    wins: list[bool]

    def __call__(self, cases: Any, delta: Tensor, gradient: bool, progress: Tensor) -> Point:
        won = torch.tensor([self.wins.pop(0)])
        return Point(
            torch.zeros(1), torch.zeros(1), won, torch.ones(1, 2) if gradient else None, (1, 1)
        )


@pytest.mark.parametrize(("wins", "won"), [(1, False), (2, False), (3, True), (4, True)])
def test_eot_wins_by_more_than_half(wins: int, won: bool) -> None:
    script = [k < wins for k in range(4)]
    point = EOT(Scripted(script), 4)(None, torch.zeros(1, 2), True, torch.zeros(1))  # type: ignore[arg-type]
    assert point.won.tolist() == [won]


def test_the_loop_counts_every_draw(make_problem: Any, counted: Any) -> None:
    problem = make_problem(n=3)
    model = counted(Jitter(problem.model, 0.1))
    attack = Attack(LINF, CrossEntropy(), PGD(4), wrap=lambda o: EOT(o, 3))
    found = attack(model, problem.x, problem.y, run=Run(patience=float("inf")))
    assert (
        found.spent.sum(0).tolist() == [model.forwards, model.backwards] == [3 * 5 * 3, 3 * 4 * 3]
    )


def test_eot_works_at_every_site(make_problem: Any) -> None:
    problem = make_problem(n=3)
    sites = (
        Threat(Linf(), 0.1, site=Universal()),
        Threat(L2(), 1.0, site=Latent("bn")),
        Relative(0.1),
    )
    for threat in sites:
        plain = Attack(threat, CrossEntropy(), FGSM())(problem.model, problem.x, problem.y)
        wrapped = Attack(threat, CrossEntropy(), FGSM(), wrap=lambda o: EOT(o, 2))
        found = wrapped(problem.model, problem.x, problem.y)
        pairs = zip(leaves(plain.value), leaves(found.value), strict=True)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


@pytest.mark.parametrize("samples", [0, -1])
def test_eot_needs_samples(samples: int, make_problem: Any) -> None:
    with pytest.raises(InputError):
        EOT(Plain(make_problem().model, Input(), CrossEntropy()), samples)


# ---- BPDA


class Square8(nn.Module):
    """Rounds to 8 levels: no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 7).round() / 7


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.sin()


@pytest.mark.parametrize("surrogate", [None, Twice()], ids=["identity", "another layer"])
def test_bpda_is_one_layer_forwards_and_another_backwards(surrogate: nn.Module | None) -> None:
    x = torch.rand(3, 4, dtype=torch.float64).requires_grad_()
    out = BPDA(Square8(), surrogate)(x)
    assert torch.allclose(out, Square8()(x), atol=1e-15)
    weight = torch.rand(3, 4, dtype=torch.float64)
    (grad,) = torch.autograd.grad((out * weight).sum(), x)
    expected = weight if surrogate is None else weight * 2 * x.detach().cos()
    assert torch.allclose(grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bpda_gives_the_layers_value_to_the_last_bit(dtype: torch.dtype) -> None:
    """A decision may hang on it: smooth + (exact - smooth) rounds, and must not show."""
    x = torch.rand(500, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(BPDA(Square8(), Twice())(x), Square8()(x))


def test_bpda_lets_gradients_through_a_quantised_model(make_problem: Any) -> None:
    problem = make_problem(n=8)
    direct = Attack(LINF, CrossEntropy(), PGD(5, start=Zero()))
    blocked = direct(nn.Sequential(Square8(), problem.model), problem.x, problem.y)
    through = direct(nn.Sequential(BPDA(Square8()), problem.model), problem.x, problem.y)
    assert int(through.lost.sum()) > int(blocked.lost.sum())


# ---- quantised perturbations


@pytest.mark.parametrize("levels", [1, 8, 16])
def test_whole_levels_stay_whole_whatever_the_rounding(levels: int) -> None:
    """8/255 computed in float32 must not be cut to 7/255."""
    delta = torch.full((1, 1, 1, 4), levels / 255) * torch.tensor([1.0, -1.0, 1.0, -1.0])
    ball = Threat(Linf(), levels / 255).set(lambda t: t, torch.full_like(delta, 100 / 255))
    assert torch.allclose(on_grid(ball, delta), delta, atol=1e-6)


def test_many_small_changes_survive_the_rounding() -> None:
    """A linear model of 3,072 pixels, where a level at a few hundred of them is all it takes."""
    w = torch.randn(3 * 32 * 32, generator=torch.Generator().manual_seed(0))
    eps = 0.15
    hand = float(w.abs().topk(int((eps * 255) ** 2)).values.sum()) / 255  # one level at each

    def model(x: Tensor) -> Tensor:
        z = (x - 128 / 255).flatten(1) @ w
        return torch.stack([z + 0.95 * hand, torch.zeros_like(z)], 1)

    x, y = torch.full((1, 3, 32, 32), 128 / 255), torch.zeros(1).long()
    attack = Attack(Threat(L2(), eps), Margin(), PGD(10, start=Zero()), wrap=Quantised)
    found = attack(model, x, y)
    level = (x + found.value) * 255
    assert bool(found.lost) and float((level - level.round()).abs().max()) < 1e-3
    assert float(L2().length(found.value)) <= eps * (1 + 1e-5)


@pytest.mark.parametrize("norm", [Linf(), L2()], ids=["linf", "l2"])
def test_what_a_quantised_attack_returns_survives_saving(norm: Any, make_problem: Any) -> None:
    """The returned perturbation is the one that was judged: saved as bytes, it still wins."""
    problem = make_problem(n=20)
    x = (problem.x * 255).round() / 255
    with torch.no_grad():
        y = problem.model(x).argmax(1)
    attack = Attack(Threat(norm, 0.1 if norm == Linf() else 0.4), Margin(), PGD(10), wrap=Quantised)
    found = attack(problem.model, x, y)
    saved = ((x + found.value) * 255).round().clamp(0, 255).to(torch.uint8)
    with torch.no_grad():
        z = problem.model(saved.float() / 255)
    assert int(found.lost.sum()) > 0
    assert torch.allclose(saved.float() / 255, x + found.value, atol=1e-5)
    assert torch.equal(z.argmax(1) != y, found.lost)


def test_a_wrapper_that_cannot_serve_the_site_says_so(make_problem: Any) -> None:
    problem = make_problem(n=3)
    for threat in (Relative(0.1), Threat(L2(), 1.0, site=Latent("bn"))):
        with pytest.raises(InputError):
            Attack(threat, CrossEntropy(), PGD(2), wrap=Quantised)(
                problem.model, problem.x, problem.y
            )
