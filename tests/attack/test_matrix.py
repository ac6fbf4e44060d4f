"""The conformance matrix: every search at every site and set under every objective that may meet.

Adding a search, a threat or an objective is one row; it inherits all tests below. Which meet is
written down here,
independently of what the parts say of themselves.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.adam import Adam
from torchproof.attack.apgd import APGD
from torchproof.attack.carlini_wagner import CarliniWagner
from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.ddn import DDN
from torchproof.attack.deepfool import DeepFool
from torchproof.attack.fab import FAB
from torchproof.attack.fgsm import FGSM
from torchproof.attack.fmn import FMN
from torchproof.attack.gama import FrankWolfe
from torchproof.attack.hop_skip_jump import HopSkipJump
from torchproof.attack.l1_apgd import L1APGD
from torchproof.attack.masks import Centre
from torchproof.attack.multi_targeted import DecayingAdam
from torchproof.attack.pgd import PGD, MomentumPGD, NesterovPGD, NoisyPGD
from torchproof.attack.regional import Regions, Towards
from torchproof.attack.run import Run
from torchproof.attack.search import Search
from torchproof.attack.square import Square
from torchproof.attack.starts import Corner, Gaussian, Sphere, Uniform, Zero
from torchproof.attack.variance_tuning import VarianceTuning
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import L0, L1, L2, Linf
from torchproof.core.objectives import (
    DLR,
    KL,
    Alternating,
    CrossEntropy,
    Hypocritical,
    Margin,
    Objective,
    Targeted,
    TargetedDLR,
    TargetedMargin,
)
from torchproof.core.sites import Latent, Universal
from torchproof.core.threats import AnyThreat, Both, Free, Region, Relative, Threat
from torchproof.core.values import leaves, tree

SEARCHES: dict[str, Search] = {
    "fgsm": FGSM(),
    "pgd": PGD(2),
    "pgd zero": PGD(2, start=Zero()),
    "pgd corner": PGD(2, start=Corner()),
    "momentum": MomentumPGD(2, length=0.5, start=Gaussian(0.01)),
    "nesterov": NesterovPGD(2, length=0.5, start=Sphere()),
    "noisy": NoisyPGD(2, length=0.5, noise=0.01),
    "apgd": APGD(3),
    "apgd uniform": APGD(2, start=Uniform()),
    "l1-apgd": L1APGD(5),
    "fab": FAB(3),
    "fab sphere": FAB(3, start=Sphere()),
    "square": Square(4),
    "adam": Adam(2, start=Uniform()),
    "decaying adam": DecayingAdam(2, start=Uniform()),
    "frank-wolfe": FrankWolfe(2),
    "vmi": VarianceTuning(MomentumPGD(2, length=0.5, start=Gaussian(0.01)), samples=2),
    "hop": HopSkipJump(12, first=3),
    "deepfool": DeepFool(3),
    "ddn": DDN(3),
    "fmn": FMN(3),
    "fmn sphere": FMN(3, start=Sphere()),
    "cw": CarliniWagner(2, 2),
}

MASK = torch.tensor([[1, 1, 0, 0]] * 4, dtype=torch.bool)
MIDDLE = torch.tensor([[0] * 4, [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4], dtype=torch.bool)


@dataclass(frozen=True)
class Row:
    """A threat and an independent account of it: P = 1?, the outputs at v, is v allowed?"""

    threat: AnyThreat
    norm: str
    image: bool
    shared: bool
    outputs: Callable[[nn.Module, Tensor, Any], Tensor]
    allowed: Callable[[nn.Module, Tensor, Any], bool]


def length(norm: str, d: Tensor) -> Tensor:
    """Textbook lengths of the rows, in float64."""
    d = d.double().flatten(1)
    return {
        "linf": d.abs().amax(1),
        "l2": d.pow(2).sum(1).sqrt(),
        "l1": d.abs().sum(1),
        "l0": (d != 0).sum(1),
    }[norm]


def at_input(model: nn.Module, x: Tensor, v: Tensor) -> Tensor:
    out: Tensor = model(x + v)
    return out


def in_ball(
    norm: str, eps: float, mask: Tensor | None = None
) -> Callable[[nn.Module, Tensor, Any], bool]:
    def allowed(model: nn.Module, x: Tensor, v: Tensor) -> bool:
        boxed = bool(((x + v) >= 0).all() and ((x + v) <= 1).all())
        closed = mask is None or not bool(v[..., ~mask].any())
        return boxed and closed and bool((length(norm, v) <= eps * (1 + 1e-5)).all())

    return allowed


def on_inputs(norm: Any, name: str, eps: float, mask: Tensor | None = None) -> Row:
    threat = Threat(norm, eps) if mask is None else Region(Threat(norm, eps), mask)
    return Row(threat, name, True, False, at_input, in_ball(name, eps, mask))


def universally(model: nn.Module, x: Tensor, v: Tensor) -> Tensor:
    assert v.shape[0] == 1
    return at_input(model, (x + v).clamp(0, 1), torch.zeros(()))


def on_all_inputs(norm: Any, name: str, eps: float) -> Row:
    def allowed(model: nn.Module, x: Tensor, v: Tensor) -> bool:
        return bool((length(name, v) <= eps * (1 + 1e-5)).all())

    return Row(Threat(norm, eps, site=Universal()), name, False, True, universally, allowed)


def after_bn(model: Any, x: Tensor, v: Tensor) -> Tensor:
    """The layers by hand, v added to the output of the second one."""
    layers = list(model)
    h = layers[1](layers[0](x)) + v
    for layer in layers[2:]:
        h = layer(h)
    return h


def latent(norm: Any, name: str, eps: float) -> Row:
    def allowed(model: nn.Module, x: Tensor, v: Tensor) -> bool:
        return v.shape == (len(x), 4, 4, 4) and bool((length(name, v) <= eps * (1 + 1e-5)).all())

    return Row(Threat(norm, eps, site=Latent("bn")), name, False, False, after_bn, allowed)


def shifted(model: nn.Module, x: Tensor, v: dict[str, Tensor]) -> Tensor:
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, d in v.items():
            if name:
                moved.get_parameter(name).add_(d[0])
    return at_input(moved, x + v[""][0] if "" in v else x, torch.zeros(()))


def near_weights(name: str, gamma: float) -> Callable[[nn.Module, Tensor, Any], bool]:
    def allowed(model: nn.Module, x: Tensor, v: dict[str, Tensor]) -> bool:
        assert set(v) - {""} == {"conv.weight", "head.weight"}
        own = {n: length(name, model.get_parameter(n).detach()[None]) for n in v if n}
        return all(bool((length(name, v[n]) <= gamma * own[n] * (1 + 1e-5)).all()) for n in own)

    return allowed


def relative(norm: Any, name: str, gamma: float) -> Row:
    return Row(Relative(gamma, norm), name, False, True, shifted, near_weights(name, gamma))


def jointly(norm: Any, name: str, eps: float, gamma: float) -> Row:
    def allowed(model: nn.Module, x: Tensor, v: dict[str, Tensor]) -> bool:
        inputs = in_ball(name, eps)(model, x, v[""][0])
        return v[""].shape == (1, *x.shape) and inputs and near_weights("l2", gamma)(model, x, v)

    return Row(Both(Threat(norm, eps), Relative(gamma)), "product", False, True, shifted, allowed)


THREATS: dict[str, Row] = {
    "linf": on_inputs(Linf(), "linf", 0.1),
    "l2": on_inputs(L2(), "l2", 0.5),
    "l1": on_inputs(L1(), "l1", 2.0),
    "l0": on_inputs(L0(), "l0", 3.0),
    "linf region": on_inputs(Linf(), "linf", 0.3, MASK),
    "l2 region": on_inputs(L2(), "l2", 0.5, MASK),
    "linf regions": Row(
        Regions(Threat(Linf(), 0.3), Centre(2)),
        "linf",
        True,
        False,
        at_input,
        in_ball("linf", 0.3, MIDDLE),
    ),
    "universal linf": on_all_inputs(Linf(), "linf", 0.1),
    "universal l2": on_all_inputs(L2(), "l2", 0.5),
    "latent l2": latent(L2(), "l2", 1.0),
    "latent free": Row(Free(Latent("bn"), 0.5), "l2", False, False, after_bn, lambda m, x, v: True),
    "weights l2": relative(L2(), "l2", 0.1),
    "weights linf": relative(Linf(), "linf", 0.1),
    "joint": jointly(Linf(), "linf", 0.1, 0.05),
}


def others_best(z: Tensor, y: Tensor) -> Tensor:
    return torch.stack(
        [torch.cat([r[:k], r[k + 1 :]]).max() for r, k in zip(z, y.tolist(), strict=True)]
    )


def own(z: Tensor, y: Tensor) -> Tensor:
    return torch.stack([r[k] for r, k in zip(z, y.tolist(), strict=True)])


def margins(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
    return others_best(z, y) - own(z, y)


@dataclass(frozen=True)
class Goal:
    """An objective, its yardstick and verdict, and what it needs."""

    objective: Objective
    score: Callable[[Tensor, Tensor, Tensor], Tensor] = margins
    won: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda z, y, t: z.argmax(1) != y
    targeted: bool = False
    soft: bool = False
    boundary: bool = False


GOALS: dict[str, Goal] = {
    "cross-entropy": Goal(CrossEntropy()),
    "margin": Goal(Margin(), boundary=True),
    "dlr": Goal(DLR()),
    "targeted margin": Goal(TargetedMargin(), targeted=True, boundary=True),
    "targeted dlr": Goal(TargetedDLR(), targeted=True),
    "kl": Goal(KL(), soft=True),
    "hypocritical": Goal(
        Hypocritical(), lambda z, y, t: -margins(z, y, t), lambda z, y, t: z.argmax(1) == y
    ),
    "targeted": Goal(
        Targeted(),
        lambda z, y, t: -margins(z, t, t),
        lambda z, y, t: z.argmax(1) == t,
        targeted=True,
    ),
    "alternating": Goal(Alternating((CrossEntropy(), DLR()))),
    "towards": Goal(Towards(), targeted=True),
}


def may_meet(search: str, row: Row, goal: Goal) -> bool:
    """What the documentation says: written without asking the parts."""
    kind, free = search.split()[0], isinstance(row.threat, Free)
    if kind == "fgsm" and free:
        return False  # the maximiser of an unbounded set is nowhere
    if goal.soft and search in ("fgsm", "pgd zero", "fab", "ddn"):
        return False  # KL has no gradient at the clean point
    if kind == "l1-apgd":
        return row.image and row.norm == "l1"
    if kind == "fab":
        return goal.boundary and row.image and row.norm in ("linf", "l2", "l1")
    if kind == "deepfool":
        return goal.boundary and row.image and row.norm in ("linf", "l2", "l1")
    if kind == "fmn":
        return goal.boundary and row.image
    if kind in ("ddn", "cw"):
        return (goal.boundary or kind == "ddn") and row.image and row.norm == "l2"
    if kind in ("adam", "decaying", "vmi"):
        return row.image
    if kind == "frank-wolfe":
        return not free and row.norm in ("linf", "l2", "l1")
    if kind == "hop":
        return row.image and row.norm in ("linf", "l2")
    if kind == "square":
        return row.image and row.norm in ("linf", "l2", "l1")
    return True


# "pgd zero" and such are searches with another start: under one objective of each kind is enough
VARIANTS = {"pgd zero", "pgd corner", "apgd uniform", "fab sphere", "fmn sphere"}
TRIPLES = [
    (s, t, g)
    for s, t, g in itertools.product(SEARCHES, THREATS, GOALS)
    if s not in VARIANTS or g == "targeted margin" or (g == "kl" and t == "linf")
]
# and objectives that are judged as another one is, at one set of each site
KIN = {"dlr", "targeted dlr", "alternating"}
SITES = {"linf", "linf regions", "universal linf", "latent l2", "weights l2", "joint"}
ALLOWED = [t for t in TRIPLES if may_meet(t[0], THREATS[t[1]], GOALS[t[2]])]
MEET = [t for t in ALLOWED if t[2] not in KIN or t[1] in SITES or t[0] == "l1-apgd"]
NEVER = [t for t in TRIPLES if t not in set(ALLOWED)]


def by_pair(triples: list[tuple[str, str, str]]) -> Any:
    """One test for each search and threat, of all their objectives."""
    goals: dict[tuple[str, str], list[str]] = {}
    for search, threat, goal in triples:
        goals.setdefault((search, threat), []).append(goal)
    return pytest.mark.parametrize(
        ("search", "threat", "goals"),
        [(*pair, found) for pair, found in goals.items()],
        ids=["-".join(pair) for pair in goals],
    )


@by_pair(NEVER)
def test_what_cannot_meet_is_refused_at_construction(
    search: str, threat: str, goals: list[str]
) -> None:
    for goal in goals:
        with pytest.raises(InputError) as caught:
            Attack(THREATS[threat].threat, GOALS[goal].objective, SEARCHES[search])
        assert caught.value.given and caught.value.expected and caught.value.remedy, goal


@by_pair(MEET)
def test_what_is_found_is_allowed_and_what_is_said_of_it_true(
    search: str, threat: str, goals: list[str], make_problem: Any
) -> None:
    problem = make_problem(n=3, k=5)
    for goal in goals:
        said_and_done(search, threat, goal, problem)


def said_and_done(search: str, threat: str, goal: str, problem: Any) -> None:
    row, aim = THREATS[threat], GOALS[goal]
    model, x, y, target = problem.model, problem.x, problem.y, problem.target
    if goal == "hypocritical":
        y = target
    labels = model(x).softmax(1).detach() if aim.soft else y
    attack = Attack(row.threat, aim.objective, SEARCHES[search])
    count = 1 if row.shared else 3
    if row.shared:  # one perturbation has one target
        target = target[:1].expand(3)
    given = target[:count].clone() if aim.targeted else None
    found = attack(model, x, labels, target=given, run=Run(seed=1, slots=2))
    assert found.lost.shape == found.score.shape == found.done.shape == (count,)
    assert found.lost.dtype == torch.bool and bool(found.done.all())
    assert all(len(leaf) == count and not leaf.requires_grad for leaf in leaves(found.value))
    assert not found.score.requires_grad and bool((found.spent[:, 0] > 0).all())
    assert row.allowed(model, x, found.value)
    with torch.no_grad():
        z = row.outputs(model, x, found.value)
    score, won = aim.score(z, y, target), aim.won(z, y, target)
    if row.shared:
        score, won = score.mean()[None], won.all()[None]
    assert torch.allclose(score, found.score, atol=1e-4), (score, found.score)
    assert torch.equal(won, found.lost)


# ---- states: rows are replaced in place, so no two leaves may share storage


def answer(delta: Any, rows: int, seed: int) -> Point:
    """An answer as an oracle would give it."""
    g = torch.Generator().manual_seed(seed)
    grad = tree(lambda d: torch.randn(d.shape, generator=g, dtype=d.dtype), delta)
    loss = torch.randn(rows, generator=g)
    return Point(loss, loss.clone(), loss > 0, grad, (1, 1))


STATEFUL = [
    (s, t)
    for s, t in itertools.product(SEARCHES, THREATS)
    if may_meet(s, THREATS[t], GOALS["targeted margin"])
]


@pytest.mark.parametrize(("search", "threat"), STATEFUL, ids=["-".join(p) for p in STATEFUL])
def test_leaves_of_a_state_have_storage_of_their_own(
    search: str, threat: str, make_problem: Any
) -> None:
    problem = make_problem(n=3)
    allowed = THREATS[threat].threat.set(problem.model, problem.x)
    rows = 1 if THREATS[threat].shared else 3
    key = keys.mix(0, torch.arange(rows))
    kept_key, kept_set = key.clone(), [leaf.clone() for leaf in leaves(allowed)]
    look = SEARCHES[search]
    state = look.init(allowed, key)
    for number in range(min(look.steps, 3)):
        parts = [*leaves(state), *leaves(allowed), key]
        own_storage = [t.untyped_storage().data_ptr() for t in leaves(state)]
        others = {t.untyped_storage().data_ptr() for t in parts[len(own_storage) :]}
        assert len(set(own_storage)) == len(own_storage), "two leaves of the state share storage"
        assert not others & set(own_storage), "the state shares storage with the set or the keys"
        assert all(len(leaf) == rows for leaf in leaves(state)), (
            "a leaf without one row per problem"
        )
        point = answer(state.delta, rows, number)
        state = look.step(allowed, key, state, point)
        asked = [t.untyped_storage().data_ptr() for t in leaves(next(leaves(point.grad)))]
        assert not set(asked) & {t.untyped_storage().data_ptr() for t in leaves(state)}
    assert torch.equal(key, kept_key)
    assert all(torch.equal(a, b) for a, b in zip(leaves(allowed), kept_set, strict=True)), (
        "the set was changed"
    )


MANY = [(s, t) for s, t in STATEFUL if not THREATS[t].shared]


@pytest.mark.parametrize(("search", "threat"), MANY, ids=["-".join(p) for p in MANY])
def test_a_search_treats_rows_independently(search: str, threat: str, make_problem: Any) -> None:
    """Two rows taken out of a state go on as they would have gone on in company."""
    problem = make_problem(n=3, dtype=torch.float64)
    look, pick = SEARCHES[search], torch.tensor([2, 0])
    whole = THREATS[threat].threat.set(problem.model, problem.x)
    part = THREATS[threat].threat.set(problem.model, problem.x[pick])
    key = keys.mix(0, torch.arange(3))
    one, two = look.init(whole, key), look.init(part, key[pick])
    for number in range(min(look.steps, 3)):
        assert torch.allclose(one.delta[pick], two.delta, atol=1e-12)
        point = answer(one.delta, 3, number)
        grad = point.grad
        assert isinstance(grad, Tensor)
        picked = Point(
            point.loss[pick], point.score[pick], point.won[pick], grad[pick].clone(), (1, 1)
        )
        one, two = look.step(whole, key, one, point), look.step(part, key[pick], two, picked)
    assert torch.allclose(one.delta[pick], two.delta, atol=1e-12)
