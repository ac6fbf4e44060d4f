"""Oracles and starts against defences: each is held against its own formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.bpda import BPDA
from torchproof.attack.cases import Cases
from torchproof.attack.catalogue import apgd, averaged, pgd, square
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.elsewhere import Elsewhere
from torchproof.attack.nes import NES
from torchproof.attack.oracle import Plain
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.scheduled import Scheduled
from torchproof.attack.selective import Orthogonal, about, orthogonal, selective
from torchproof.attack.smoothed import Smoothed
from torchproof.attack.substitutes import SoftMedian, Staircase, learnt
from torchproof.attack.through import Through
from torchproof.core.errors import InputError
from torchproof.core.norms import L2, Linf
from torchproof.core.objectives import CrossEntropy, Margin, TargetedMargin
from torchproof.core.rejection import Heedless, Rejecting
from torchproof.core.selective import Accepted, Selective
from torchproof.core.sites import Input
from torchproof.core.threats import Threat
from torchproof.core.two_stage import TwoStage
from torchproof.core.unaware import Unaware

THREAT = Threat(Linf(), 0.2)
RULE = Rejecting(Margin(), threshold=0.5)


class Guarded(nn.Module):
    """Two linear logits, and a linear detector that objects to the way across."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.head = torch.randn(16, 2, generator=draw, dtype=torch.float64)
        other = torch.randn(16, generator=draw, dtype=torch.float64)
        self.seen = self.head[:, 0] - self.head[:, 1] + other

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        flat = x.flatten(1)
        return {"logits": flat @ self.head, "reject": (flat - 0.5) @ self.seen}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()


def cases(x: Tensor, y: Tensor, threat: Threat = THREAT) -> Cases:
    key, none = torch.arange(len(x)), torch.full((len(x),), -1)
    return Cases(x, y, none, threat.set(nn.Identity(), x), key)


def plain(model: nn.Module) -> Plain:
    return Plain(model, Input(), RULE)


def test_orthogonal_gradients_are(images: Tensor) -> None:
    model = Guarded()
    y = model(images)["logits"].argmax(1)
    y[:6] = 1 - y[:6]  # half of them count as crossed already
    here, zero = cases(images, y), torch.zeros_like(images)
    point = Orthogonal(plain(model), Margin(), RULE)(here, zero, True, torch.zeros(12))
    away = about(plain(model), Unaware(Margin(), RULE))(here, zero, True, torch.zeros(12)).grad
    hide = about(plain(model), Accepted(RULE))(here, zero, True, torch.zeros(12)).grad
    for row in range(12):
        a, b, g = (t[row].flatten() for t in (away, hide, point.grad))  # type: ignore[index]
        kept, lost = (b, a) if row < 6 else (a, b)
        wanted = kept - (kept @ lost) / (lost @ lost) * lost
        torch.testing.assert_close(g, wanted)
        assert abs(float(g @ lost)) < 1e-12
    assert point.cost == (2, 2)
    asked = Orthogonal(plain(model), Margin(), RULE)(here, zero, False, torch.zeros(12))
    assert asked.cost == (1, 0) and asked.grad is None


ORACLES: dict[str, Callable[[Any], Any]] = {
    "orthogonal": lambda o: Orthogonal(o, Margin(), RULE),
    "orthogonal of NES": lambda o: Orthogonal(NES(o, 3, 0.05), Margin(), RULE),
    "orthogonal of smoothed": lambda o: Orthogonal(Smoothed(o, 2), Margin(), RULE),
    "through": lambda o: Through(o, Guarded(), Input(), RULE),
    "scheduled": lambda o: Scheduled((NES(o, 4, 0.05), o), (0.3, 1.0)),
}


@pytest.mark.parametrize("wrap", ORACLES.values(), ids=ORACLES)
@pytest.mark.parametrize("search", [PGD(15), apgd(THREAT, 15).search], ids=["PGD", "APGD"])
def test_every_oracle_drives_every_search(images: Tensor, wrap: Any, search: Any) -> None:
    model = Guarded()
    y = model(images)["logits"].argmax(1)
    whole, alone = (
        Attack(THREAT, RULE, search, wrap=wrap)(model, images, y, run=Run(slots=slots))
        for slots in (12, 5)
    )
    assert torch.equal(whole.lost, alone.lost)
    moved = images + whole.value
    out = model(moved)
    won = (out["logits"].argmax(1) != y) & (out["reject"] <= RULE.threshold)
    assert bool((won >= whole.lost).all()) and int(whole.lost.sum()) >= 1


def test_attacks_by_name_get_past_a_linear_detector(images: Tensor) -> None:
    model = Guarded()
    y = model(images)["logits"].argmax(1)
    naive = Attack(THREAT, Unaware(Margin(), RULE), PGD(30))(model, images, y)
    apart = orthogonal(THREAT, RULE, 30, 0.05)(model, images, y)
    one = selective(THREAT, RULE, 30)(model, images, y)
    lost = [int(found.lost.sum()) for found in (naive, one, apart)]
    # the detector objects to the way across, so steps that cost it nothing are what is needed
    assert lost[0] <= lost[1] and lost[0] + 3 <= lost[2]
    staged = EveryTarget(pgd(THREAT, 30, objective=TwoStage(RULE)), 1)
    assert int(staged(model, images, y).lost.sum()) >= int(naive.lost.sum())
    targeted = orthogonal(THREAT, RULE, 30, 0.05, objective=TargetedMargin())
    assert int(EveryTarget(targeted, 1)(model, images, y).lost.sum()) == lost[2]


class Flat(nn.Module):
    """Answers as `inner`, and has no gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner((x * 1e6).round() / 1e6)
        return out


def test_a_surrogate_shows_the_way_and_the_defence_judges(make_problem: Any) -> None:
    problem = make_problem(12, 5)
    hidden, threat = Flat(problem.model), Threat(Linf(), 0.1)
    blind = pgd(threat, 10)(hidden, problem.x, problem.y)
    wrap = {"wrap": lambda o: Through(o, problem.model, Input(), CrossEntropy())}
    seeing = Attack(threat, CrossEntropy(), PGD(10), **wrap)(hidden, problem.x, problem.y)
    open_ = pgd(threat, 10)(problem.model, problem.x, problem.y)
    assert int(seeing.lost.sum()) == int(open_.lost.sum()) > int(blind.lost.sum())
    assert int(seeing.spent[:, 1].sum()) > 0


def test_through_keeps_the_best_iterate_of_the_judge(images: Tensor) -> None:
    # the surrogate wants the opposite: its own best point is the judge's worst
    model = Guarded()
    y = model(images)["logits"].argmax(1)
    wrap = {"wrap": lambda o: Through(o, lambda x: -model(x)["logits"], Input(), Margin())}
    objective = Unaware(Margin())
    found = Attack(THREAT, objective, PGD(10, start=PGD(3).start), **wrap)(model, images, y)
    start = pgd(THREAT, 1, 1e-6, objective=objective)(model, images, y)
    assert bool((found.score >= start.score - 1e-5).all())


def test_stages_take_their_turns(images: Tensor) -> None:
    model = Guarded()
    y = model(images)["logits"].argmax(1)
    few, many = NES(plain(model), 2, 0.1), NES(plain(model), 5, 0.1)
    both = Scheduled((few, many), (0.5, 1.0))
    here, zero = cases(images, y), torch.zeros_like(images)
    progress = torch.tensor([0.0, 0.9]).repeat(6)
    mixed = both(here, zero, True, progress)
    for oracle, rows in ((few, slice(0, None, 2)), (many, slice(1, None, 2))):
        one = oracle(here, zero, True, progress)
        torch.testing.assert_close(mixed.grad[rows], one.grad[rows])  # type: ignore[index]
        assert torch.equal(mixed.loss[rows], one.loss[rows])
    assert mixed.cost == (11, 0) and both.estimates
    assert both(here, zero, True, torch.zeros(12)).cost == (5, 0)
    with pytest.raises(InputError):
        Scheduled((few, many), (0.5, 0.9))


def test_a_start_from_the_nearest_image_of_another_class(images: Tensor) -> None:
    model = Guarded()

    def ask(x: Tensor) -> Tensor:
        found: Tensor = model(x)["logits"].argmax(1)
        return found

    draw = torch.Generator().manual_seed(5)
    bank = torch.rand(40, 1, 4, 4, generator=draw).double()
    threat = Threat(L2(), 0.5)
    start = Elsewhere(bank, ask(bank), ask)
    ball, key = threat.set(model, images), torch.arange(12)
    delta = start(ball, key)
    assert bool(ball.inside(delta).all())
    classes, own = ask(bank), ask(images)
    for row in range(12):
        others = bank[classes != own[row]]
        far = (others - images[row]).flatten(1).norm(dim=1)
        way = others[far.argmin()] - images[row]
        torch.testing.assert_close(delta[row], ball.project(way.expand_as(images))[row])
    several = Elsewhere(bank, classes, ask, nearest=5)
    drawn = {tuple(several(ball, key + 100 * i)[0].flatten().tolist()) for i in range(60)}
    assert len(drawn) == 5
    square_like = Attack(threat, Margin(), PGD(5, start=several), restarts=2)
    assert square_like.restarts == 2  # random, so that it may be restarted
    with pytest.raises(InputError):
        Elsewhere(bank, torch.zeros(40, dtype=torch.int64), ask)


def test_substitutes_stay_near_what_they_stand_for(images: Tensor) -> None:
    stairs = Staircase(3, sharpness=2000.0)
    torch.testing.assert_close(stairs(images), (images * 3).round() / 3, atol=0.02, rtol=0)
    live = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Staircase(3)(live).sum(), [live])
    assert bool((slope > 0).all())
    big = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    padded = nn.functional.pad(big, (1, 1, 1, 1), mode="reflect")
    naive = torch.stack([
        padded[:, 0, i : i + 3, j : j + 3].flatten(1).median(1).values
        for i in range(8) for j in range(8)
    ], 1).view_as(big)  # fmt: skip
    torch.testing.assert_close(SoftMedian(3, 1e-4)(big), naive, atol=1e-3, rtol=0)


class Coarse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1 - (x * 2).round() / 2


def test_a_learnt_substitute_learns(images: Tensor) -> None:
    x, state = images.float(), torch.get_rng_state()
    made = learnt(Coarse(), x, steps=150, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(made(x), learnt(Coarse(), x, steps=150, seed=1)(x))
    exact = Coarse()(x)
    assert float((made(x) - exact).square().mean()) < 0.2 * float((x - exact).square().mean())
    live = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(BPDA(Coarse(), made)(live).sum(), [live])
    assert float((slope < 0).float().mean()) > 0.6  # the identity would point the wrong way
    with pytest.raises(InputError):
        learnt(nn.Flatten(), x)


def test_averages_and_targets_go_together(images: Tensor) -> None:
    model = Guarded()
    y = model(images)["logits"].argmax(1)
    staged = averaged(EveryTarget(pgd(THREAT, 5, objective=TwoStage(RULE)), 1), 2)
    assert staged(model, images, y).done.all()
    assert square(THREAT, 30)(lambda x: model(x)["logits"], images, y).done.all()
    heedless = EveryTarget(pgd(THREAT, 5, objective=Heedless(RULE)), 1)
    assert heedless(model, images, y).done.all()
    assert Selective(TargetedMargin(), RULE).targeted and not Selective().targeted
