"""MultiTargeted, GAMA, MD and ODI: configurations of one engine, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.adam import Adam
from torchproof.attack.catalogue import ATTACKS, NAMES, averaged
from torchproof.attack.combine import Attack, Chain, Restarts
from torchproof.attack.gama import (
    FrankWolfe,
    GuidedMargin,
    GuidedTargetedMargin,
    gama_fw,
    gama_mt,
    gama_pgd,
)
from torchproof.attack.masks import Centre
from torchproof.attack.md import OwnLogit, RivalLogit, TargetLogit, md, mdmt
from torchproof.attack.multi_targeted import DecayingAdam, multi_targeted
from torchproof.attack.odi import RandomDirection, odi
from torchproof.attack.pgd import PGD
from torchproof.attack.regional import Regions
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.attack.with_clean import Informed
from torchproof.core import keys
from torchproof.core.errors import InputError, UnknownName
from torchproof.core.expression import parse
from torchproof.core.norms import L0, L1, L2, Linf
from torchproof.core.objectives import Goal, Margin
from torchproof.core.schedules import Constant
from torchproof.core.sites import Latent, Universal
from torchproof.core.threats import Both, Free, Region, Relative, Threat
from torchproof.evaluate import Member, evaluate

EPS = 0.1
LINF = Threat(Linf(), EPS)
LAST = Run(last=True, patience=math.inf)
Loss = Callable[[int, Tensor, int], Tensor]


def climb(problem: Any, loss: Loss, lengths: list[float]) -> Tensor:
    """The last iterate of projected sign steps in Linf from the clean images; `loss` is that of
    one row of logits at a step, lengths are in units of eps.
    """
    x, labels = problem.x, problem.y.tolist()
    d = torch.zeros_like(x)
    for step, length in enumerate(lengths):
        at = (x + d).detach().requires_grad_()
        z = problem.model(at)
        total = sum(loss(step, row, i) for i, row in enumerate(z))
        assert isinstance(total, Tensor) and len(labels) == len(z)
        (grad,) = torch.autograd.grad(total, at)
        d = (d + length * EPS * grad.sign()).clamp(-EPS, EPS)
        d = (x + d).clamp(0, 1) - x
    return d


def last(attack: Attack, problem: Any, target: Tensor | None = None) -> Tensor:
    found = attack(problem.model, problem.x, problem.y, target=target, run=LAST)
    assert isinstance(found.value, Tensor)
    return found.value


def lead(z: Tensor, y: int) -> Tensor:
    return max(v for k, v in enumerate(z) if k != y) - z[y]


# ---- GAMA


def guided(problem: Any, steps: int, target: Tensor | None = None) -> Loss:
    """The formula of the paper, from the probabilities of one image."""
    with torch.no_grad():
        before = problem.model(problem.x).softmax(1)

    def loss(step: int, z: Tensor, i: int) -> Tensor:
        p, y = z.softmax(0), int(problem.y[i])
        first = lead(p, y) if target is None else p[int(target[i])] - p[y]
        weight = max(0.0, 50 * (1 - step / (0.25 * steps)))
        away = sum((p[k] - before[i, k]) ** 2 for k in range(len(p)))
        return first + weight * away

    return loss


def test_gama_pgd_is_the_published_loop(make_problem: Any) -> None:
    problem = make_problem(n=3, dtype=torch.float64)
    lengths = [2.0 if t < 60 else 0.2 if t < 85 else 0.02 for t in range(100)]
    expected = climb(problem, guided(problem, 100), lengths)
    assert torch.allclose(last(gama_pgd(LINF, start=Zero()), problem), expected, atol=1e-9)


def test_gama_mt_climbs_towards_its_target(make_problem: Any) -> None:
    problem = make_problem(n=3, dtype=torch.float64)
    lengths = [2.0 if t < 12 else 0.2 if t < 17 else 0.02 for t in range(20)]
    attack = Informed(LINF, GuidedTargetedMargin(), gama_mt(LINF, 20, start=Zero()).search)
    expected = climb(problem, guided(problem, 20, problem.target), lengths)
    assert torch.allclose(last(attack, problem, problem.target), expected, atol=1e-9)
    assert gama_mt(LINF).targets == 9 and gama_mt(LINF).objective == GuidedTargetedMargin()


def test_gama_fw_is_the_published_loop(make_problem: Any) -> None:
    """In the middle of the box, where the maximisers of the ball, and of ball and box, agree."""
    problem = make_problem(n=3, dtype=torch.float64)
    x = problem.x * 0.4 + 0.3
    problem = type(problem)(problem.model, x, problem.y, problem.target)
    loss, d = guided(problem, 100), torch.zeros_like(x)
    for t in range(100):
        at = (x + d).detach().requires_grad_()
        total = sum(loss(t, row, i) for i, row in enumerate(problem.model(at)))
        assert isinstance(total, Tensor)
        (grad,) = torch.autograd.grad(total, at)
        rate = 0.5 if t < 60 else 0.1 if t < 85 else 0.02
        d = (1 - rate) * d + rate * EPS * grad.sign()
    assert torch.allclose(last(gama_fw(LINF, start=Zero()), problem), d, atol=1e-9)


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=lambda n: type(n).__name__)
def test_frank_wolfe_nears_the_maximum_of_a_linear_loss(norm: Any) -> None:
    """After n steps of rate g the distance to the maximiser has shrunk by (1 - g)^n, exactly."""
    g = torch.Generator().manual_seed(1)
    w = torch.randn(2, 6, generator=g, dtype=torch.float64)
    layer = nn.Linear(6, 2, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(w)
    model = nn.Sequential(nn.Flatten(), layer)
    x = torch.rand(4, 1, 1, 6, generator=g, dtype=torch.float64)
    threat, y = Threat(norm, 0.4), torch.zeros(4).long()
    search = FrankWolfe(5, 0.5, Zero(), Constant())
    found = Attack(threat, Margin(), search)(model, x, y, run=LAST)
    best = threat.set(model, x).maximiser((w[1] - w[0]).expand(4, 1, 1, 6))
    assert torch.allclose(found.value, (1 - 0.5**5) * best, atol=1e-12)


@pytest.mark.parametrize(
    "threat",
    [Threat(L0(), 3), Free(Latent("bn")), Both(LINF, Relative(0.1))],
    ids=lambda t: type(t).__name__ + type(t.site).__name__,
)
def test_frank_wolfe_refuses_what_has_no_convex_bounded_set(threat: Any) -> None:
    with pytest.raises(InputError):
        Attack(threat, Margin(), FrankWolfe(3))


def test_the_clean_answer_is_asked_for_once_per_run(make_problem: Any, counted: Any) -> None:
    problem = make_problem(n=4, wrong=0)
    model = counted(problem.model)
    attack = gama_pgd(Threat(Linf(), 0.01), steps=6, restarts=2)
    found = attack(model, problem.x, problem.y)
    assert not bool(found.lost.any())
    assert found.spent.tolist() == [[2 * (1 + 6 + 1), 2 * 6]] * 4
    assert model.forwards == 4 * 16 and model.backwards == 4 * 12


def test_the_clean_answers_stay_with_their_rows(make_problem: Any) -> None:
    """Rows are refilled and dropped; each must be compared with its own clean image."""
    problem = make_problem(n=6, dtype=torch.float64, wrong=2)
    attack = gama_pgd(Threat(Linf(), 0.05), steps=8, restarts=2)
    whole = attack(problem.model, problem.x, problem.y, run=Run(patience=math.inf))
    for order, slots in ((torch.tensor([5, 0, 3]), 2), (torch.tensor([2]), 1)):
        run = Run(ids=order, slots=slots, patience=math.inf)
        part = attack(problem.model, problem.x[order], problem.y[order], run=run)
        assert torch.allclose(part.value, whole.value[order], atol=1e-9)
        assert torch.equal(part.lost, whole.lost[order])


def test_guided_attacks_fit_regions_and_wrappers(make_problem: Any) -> None:
    problem = make_problem(n=3)
    mask = torch.tensor([[1, 1, 0, 0]] * 4, dtype=torch.bool)
    found = averaged(gama_pgd(Region(LINF, mask), steps=5), 2)(problem.model, problem.x, problem.y)
    assert isinstance(found.value, Tensor) and not bool(found.value[..., ~mask].any())
    assert bool(found.value[..., mask].any())
    found = gama_pgd(Regions(LINF, Centre(2)), steps=5)(problem.model, problem.x, problem.y)
    assert isinstance(found.value, Tensor) and not bool(found.value[..., 0, :].any())


@pytest.mark.parametrize(
    "threat", [Threat(Linf(), 0.1, site=Universal()), Threat(L2(), 1.0, site=Latent("bn")),
               Relative(0.1), Free(Latent("bn")), Both(LINF, Relative(0.1))],
    ids=lambda t: type(t).__name__ + type(t.site).__name__
)  # fmt: skip
def test_clean_answers_are_kept_for_single_inputs_only(threat: Any) -> None:
    with pytest.raises(InputError, match="each input by itself"):
        gama_pgd(threat)


def test_a_guided_attack_is_evaluated_like_any_other(make_problem: Any) -> None:
    problem = make_problem(n=6)
    member = Member("GAMA", gama_pgd(LINF, steps=10))
    report = evaluate(problem.model, (problem.x, problem.y), LINF, [member])
    found = member.attack(problem.model, problem.x, problem.y)
    assert member.attack.threat == LINF
    broken = [example.status == "broken" for example in report.examples]
    assert sum(broken) >= int(found.lost.sum()) > 0


def test_guidance_without_clean_answers_is_refused(make_problem: Any) -> None:
    problem = make_problem(n=2)
    with pytest.raises(InputError, match="Informed"):
        Attack(LINF, GuidedMargin(), PGD(2))(problem.model, problem.x, problem.y)
    with pytest.raises(InputError, match="logits"):
        gama_pgd(LINF)(lambda x: {"logits": problem.model(x)}, problem.x, problem.y)
    with pytest.raises(InputError, match="rate"):
        FrankWolfe(rate=1.5)


# ---- MD


@pytest.mark.parametrize("run", [0, 1])
@pytest.mark.parametrize("size", ["constant", "cosine"])
def test_md_is_the_published_loop(run: int, size: str, make_problem: Any) -> None:
    problem = make_problem(n=3, dtype=torch.float64)

    def loss(step: int, z: Tensor, i: int) -> Tensor:
        y = int(problem.y[i])
        rival = max(v for k, v in enumerate(z) if k != y)
        if step < 1:
            return z[y]
        return (rival if run else -z[y]) if step < 20 else rival - z[y]

    lengths = [2.0] * 20 + [0.25] * 20
    if size == "cosine":
        lengths = [1 + math.cos(math.pi * (t % 20) / 20) for t in range(40)]
    attack = md(LINF, start=Zero(), step_size=size).attacks[run]
    assert torch.allclose(last(attack, problem), climb(problem, loss, lengths), atol=1e-9)


def test_mdmt_takes_the_target_in_place_of_the_best_other(make_problem: Any) -> None:
    problem = make_problem(n=3, dtype=torch.float64)

    def loss(step: int, z: Tensor, i: int) -> Tensor:
        y, t = int(problem.y[i]), int(problem.target[i])
        return z[y] if step < 1 else z[t] if step < 4 else z[t] - z[y]

    second = mdmt(LINF, steps=10, change=4, start=Zero()).attacks[1]
    single = Attack(LINF, second.objective, second.search)
    expected = climb(problem, loss, [2.0] * 4 + [0.25] * 6)
    assert torch.allclose(last(single, problem, problem.target), expected, atol=1e-9)


def test_both_runs_are_made_of_an_example(make_problem: Any) -> None:
    problem = make_problem(n=4)
    small = Threat(Linf(), 0.01)
    model, x, y = problem.model, problem.x, problem.y
    found = md(small, steps=6, change=3, restarts=2)(model, x, y)
    assert found.spent.tolist() == [[2 * 2 * 7, 2 * 2 * 6]] * 4
    found = mdmt(small, steps=6, change=3)(model, x, y)
    assert found.spent.tolist() == [[2 * (4 * 7 + 1), 2 * 4 * 6]] * 4  # of 5 classes, 4 are wrong


def test_the_terms_of_the_margin() -> None:
    z = torch.tensor([[1.0, 5.0, 2.0], [4.0, 0.5, 3.0]])
    y, t = torch.tensor([1, 0]), torch.tensor([0, 2])
    goal = Goal(y, t, torch.zeros(2))
    assert OwnLogit().loss(z, goal).tolist() == [-5.0, -4.0]
    assert OwnLogit(1.0).loss(z, goal).tolist() == [5.0, 4.0]
    assert RivalLogit().loss(z, goal).tolist() == [2.0, 3.0]
    assert TargetLogit().loss(z, goal).tolist() == [1.0, 3.0]
    assert RivalLogit().score(z, goal).tolist() == [-3.0, -1.0]


def test_md_where_it_cannot_change() -> None:
    for change in (0, 41):
        with pytest.raises(InputError, match="change"):
            md(LINF, change=change)
    with pytest.raises(UnknownName, match="cosine"):
        md(LINF, step_size="linear")


# ---- ODI


def direction(key: int, k: int = 5) -> Tensor:
    """The direction of one key, read off the gradient."""
    z = torch.zeros(1, k, dtype=torch.float64, requires_grad=True)
    goal = Goal(*[torch.zeros(1).long()] * 3, torch.tensor([key]))
    return torch.autograd.grad(RandomDirection().loss(z, goal).sum(), z)[0][0]


def test_odi_is_the_published_loop(make_problem: Any) -> None:
    problem = make_problem(n=3, dtype=torch.float64)
    own = [direction(int(keys.mix(0, torch.tensor([i]), -1, 0))) for i in range(3)]

    def loss(step: int, z: Tensor, i: int) -> Tensor:
        return (own[i] * z).sum() if step < 2 else lead(z, int(problem.y[i]))

    with pytest.raises(InputError, match="random start"):
        odi(LINF, start=Zero())
    attack = odi(LINF, restarts=1, start=Zero())
    expected = climb(problem, loss, [1.0] * 2 + [0.25] * 20)
    assert torch.allclose(last(attack, problem), expected, atol=1e-9)


def test_directions_are_uniform_and_belong_to_the_key() -> None:
    z = torch.zeros(4000, 5, dtype=torch.float64, requires_grad=True)
    key = keys.mix(0, torch.arange(4000))
    zeros = torch.zeros(4000).long()
    goal = Goal(zeros, zeros, zeros, key)
    (w,) = torch.autograd.grad(RandomDirection().loss(z, goal).sum(), z)
    assert -1 < float(w.min()) < -0.99 and 0.99 < float(w.max()) < 1
    assert float(w.mean().abs()) < 0.02 and abs(float(w.var()) - 1 / 3) < 0.01
    correlation = torch.corrcoef(w.T) - torch.eye(5)
    assert float(correlation.abs().max()) < 0.08
    assert torch.equal(w[17], direction(int(key[17])))
    assert torch.allclose(RandomDirection().loss(z + 2.0, goal), 2 * w.sum(1))


def test_every_example_and_restart_has_a_direction_of_its_own(make_problem: Any) -> None:
    """On logits that are the pixels themselves, one step of ODI goes along the signs of w."""
    x = torch.full((6, 1, 1, 8), 0.5, dtype=torch.float64)
    y = torch.zeros(6).long()
    attack = odi(LINF, steps=1, length=1e-9, first=1, restarts=1, start=Zero())
    corners = [
        attack(nn.Flatten(), x, y, run=Run(seed=seed, last=True, patience=9)).value
        for seed in (0, 0, 1)
    ]
    assert torch.equal(corners[0], corners[1]) and not torch.equal(corners[0], corners[2])
    assert len({tuple(d.flatten().sign().tolist()) for d in corners[0]}) == 6
    order, run = torch.tensor([4, 1]), Run(ids=torch.tensor([4, 1]), last=True, patience=9)
    part = attack(nn.Flatten(), x[order], y[order], run=run)
    assert torch.equal(part.value, corners[0][order])


def test_company_does_not_change_the_directions(make_problem: Any) -> None:
    problem = make_problem(n=6, dtype=torch.float64)
    attack = odi(Threat(Linf(), 0.05), steps=4, restarts=3)
    whole = attack(problem.model, problem.x, problem.y, run=Run(patience=math.inf))
    order = torch.tensor([3, 5, 0])
    run = Run(ids=order, slots=2, patience=math.inf)
    part = attack(problem.model, problem.x[order], problem.y[order], run=run)
    assert torch.allclose(part.value, whole.value[order], atol=1e-9)


def test_at_a_shared_site_all_examples_have_one_direction(make_problem: Any) -> None:
    problem = make_problem(n=5)
    attack = odi(Threat(Linf(), 0.1, site=Universal()), steps=3, restarts=2)
    assert attack(problem.model, problem.x, problem.y).value.shape == (1, 1, 4, 4)
    with pytest.raises(InputError, match="random keys"):
        RandomDirection().loss(torch.zeros(1, 3), Goal(*[torch.zeros(1).long()] * 3))


# ---- MultiTargeted


def test_decaying_adam_is_the_textbook_recursion(make_problem: Any) -> None:
    problem = make_problem(n=3, dtype=torch.float64)
    x, d = problem.x, torch.zeros_like(problem.x)
    m, v = torch.zeros_like(x), torch.zeros_like(x)
    rows = torch.arange(3)
    for t in range(20):
        at = (x + d).detach().requires_grad_()
        z = problem.model(at)
        (grad,) = torch.autograd.grad((z[rows, problem.target] - z[rows, problem.y]).sum(), at)
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        step = m / (1 - 0.9 ** (t + 1)) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
        rate = EPS / 3 * (1 if t < 10 else 0.1 if t < 15 else 0.01)
        d = (x + (d + rate * step).clamp(-EPS, EPS)).clamp(0, 1) - x
    whole = multi_targeted(LINF, steps=20, start=Zero())
    single = Attack(LINF, whole.objective, whole.search)
    assert torch.allclose(last(single, problem, problem.target), d, atol=1e-9)
    plain = Attack(LINF, whole.objective, DecayingAdam(20, 1 / 3, schedule=Constant()))
    same = Attack(LINF, whole.objective, Adam(20, 1 / 3))
    assert torch.equal(last(plain, problem, problem.target), last(same, problem, problem.target))


def test_multi_targeted_tries_every_wrong_class(make_problem: Any) -> None:
    problem = make_problem(n=4)
    found = multi_targeted(Threat(Linf(), 0.01), steps=3)(problem.model, problem.x, problem.y)
    assert found.spent.tolist() == [[1 + 4 * 4, 4 * 3]] * 4
    found = multi_targeted(Threat(Linf(), 0.3), steps=10)(problem.model, problem.x, problem.y)
    with torch.no_grad():
        broken = problem.model(problem.x + found.value).argmax(1) != problem.y
    assert torch.equal(broken, found.lost) and bool(broken.any())


# ---- all of them


NEW = ("Alternating-PGD", "MultiTargeted", "GAMA-PGD", "GAMA-FW", "GAMA-MT", "MD", "MDMT", "ODI")


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("threat", [LINF, Threat(L2(), 0.4), Threat(L1(), 1.5)], ids=str)
def test_what_is_found_is_allowed_and_true(name: str, threat: Threat, make_problem: Any) -> None:
    problem = make_problem(n=4, seed=1)
    more = {"MD": ", change=5", "MDMT": ", change=5", "ODI": ", restarts=2"}.get(name, "")
    made = parse(f"{name}(steps=10{more})", NAMES, threat=threat)
    assert isinstance(made, Chain if name[:2] == "MD" else Attack) and name in ATTACKS
    found = made(problem.model, problem.x, problem.y)
    assert isinstance(found.value, Tensor)
    assert bool(threat.set(problem.model, problem.x).inside(found.value).all())
    with torch.no_grad():
        z = problem.model(problem.x + found.value)
    assert torch.equal(z.argmax(1) != problem.y, found.lost)
    margins = [float(lead(row, int(y))) for row, y in zip(z, problem.y, strict=True)]
    assert found.score.tolist() == pytest.approx(margins, abs=1e-4)
    with torch.no_grad():
        before = problem.model(problem.x)
    clean = [float(lead(row, int(y))) for row, y in zip(before, problem.y, strict=True)]
    assert bool((found.score > torch.tensor(clean)).all())


def test_restarts_of_the_staged_attacks_are_different_runs() -> None:
    for name in NEW[1:5] + NEW[7:]:
        assert Restarts(ATTACKS[name](LINF), 2).search.random
