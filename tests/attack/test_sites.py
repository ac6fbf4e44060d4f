"""Threats at other sites than the input, against worst cases in closed form or taken by hand."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.apgd import APGD
from torchproof.attack.combine import Attack
from torchproof.attack.fgsm import FGSM
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.core.norms import L1, L2, Linf
from torchproof.core.objectives import CrossEntropy, Goal, Margin, TargetedMargin
from torchproof.core.sites import Latent, Universal, Weights
from torchproof.core.threats import Both, Free, Region, Relative, Threat

FULL = Run(patience=math.inf)


def data(n: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return 0.3 + 0.4 * torch.rand(n, 1, 2, 3, generator=g, dtype=torch.float64), torch.randint(
        3, (n,), generator=g
    )


def mlp() -> nn.Sequential:
    g = torch.Generator().manual_seed(1)
    model = nn.Sequential(
        OrderedDict(flat=nn.Flatten(), body=nn.Linear(6, 5), act=nn.Tanh(), head=nn.Linear(5, 3))
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
    return model


def test_universal_fgsm_is_the_sign_of_the_mean_gradient() -> None:
    model, (x, y) = mlp(), data()
    v = torch.zeros(1, 1, 2, 3).double().requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(x + v), y), v)
    found = Attack(Threat(Linf(), 0.1, site=Universal()), CrossEntropy(), FGSM())(
        model, x, y, run=FULL
    )
    assert torch.allclose(found.value, 0.1 * grad.sign())
    assert found.spent.tolist() == [[2 * 6, 6]], "counted in examples"
    assert torch.allclose(
        found.score, Margin().score(model(x + found.value), _goal(y)).mean()[None]
    )


def _goal(y: Tensor) -> Any:
    return Goal(y, y, torch.zeros(len(y)))


def test_universal_perturbations_are_seen_through_the_box() -> None:
    """x + v is cut to [0, 1]: beyond the box a pixel changes nothing."""
    seen: list[Tensor] = []

    def model(z: Tensor) -> Tensor:
        seen.append(z.detach())
        return z.flatten(1)[:, :3]

    x, y = data()
    Attack(Threat(Linf(), 0.9, site=Universal()), CrossEntropy(), PGD(3))(model, x, y, run=FULL)
    assert all(bool((z >= 0).all() and (z <= 1).all()) for z in seen)


def test_a_universal_perturbation_wins_when_it_fools_everyone() -> None:
    def model(z: Tensor) -> Tensor:
        first = z.flatten(1)[:, 0]
        return torch.stack([0.5 + 0 * first, first], 1)

    x = torch.tensor([0.45, 0.2]).reshape(2, 1, 1, 1)
    for eps, lost in ((0.1, False), (0.29, False), (0.31, True)):
        attack = Attack(Threat(Linf(), eps, site=Universal()), Margin(), FGSM())
        assert bool(attack(model, x, torch.zeros(2).long()).lost) is lost


@pytest.mark.parametrize("norm", [L2(), Linf(), L1()], ids=["l2", "linf", "l1"])
def test_weights_move_by_their_steepest_direction_layer_by_layer(norm: Any) -> None:
    model, (x, y) = mlp(), data()
    loss = nn.functional.cross_entropy(model(x), y)
    names = ["body.weight", "head.weight"]
    grads = dict(
        zip(names, torch.autograd.grad(loss, [model.get_parameter(n) for n in names]), strict=True)
    )
    found = Attack(Relative(0.05, norm), CrossEntropy(), FGSM())(model, x, y, run=FULL)
    assert set(found.value) == set(names)
    for name, g in grads.items():
        w = model.get_parameter(name).detach()
        if isinstance(norm, L2):
            expected = 0.05 * w.norm() * g / g.norm()
        elif isinstance(norm, Linf):
            expected = 0.05 * w.abs().max() * g.sign()
        else:
            expected = torch.zeros_like(g)
            top = g.abs().argmax()
            expected.view(-1)[top] = 0.05 * w.abs().sum() * g.view(-1)[top].sign()
        assert torch.allclose(found.value[name][0], expected)


def test_chosen_weights_only() -> None:
    model, (x, y) = mlp(), data()
    site = Weights(keep=lambda name, p: name == "head.bias")
    found = Attack(Relative(0.1, site=site), CrossEntropy(), PGD(3))(model, x, y, run=FULL)
    assert set(found.value) == {"head.bias"}
    v, b = found.value["head.bias"][0], model.get_parameter("head.bias").detach()
    assert 0 < float(v.norm()) <= 0.1 * float(b.norm()) * (1 + 1e-9)


def square_layer(seed: int) -> nn.Linear:
    g = torch.Generator().manual_seed(seed)
    layer = nn.Linear(6, 6).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
    return layer


@pytest.mark.parametrize("how", ["one module in two places", "one parameter in two modules"])
def test_tied_weights_move_together_and_come_back(how: str) -> None:
    one = square_layer(0)
    two = one if how == "one module in two places" else square_layer(0)
    two.weight = one.weight
    model = nn.Sequential(OrderedDict(flat=nn.Flatten(), one=one, act=nn.Tanh(), two=two))
    x, y = data()
    before, weight = {n: t.clone() for n, t in model.state_dict().items()}, one.weight
    found = Attack(Relative(0.1), CrossEntropy(), FGSM())(model, x, y, run=FULL)
    assert set(found.value) == {"one.weight"}
    assert one.weight is weight and two.weight is weight, "the parameter itself is back in place"
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    w = weight.detach() + found.value["one.weight"][0]
    z = (x.flatten(1) @ w.T + one.bias).tanh() @ w.T + two.bias
    assert torch.allclose(found.score, Margin().score(z.detach(), _goal(y)).mean()[None])


def test_latent_fgsm_is_the_gradient_at_the_layer() -> None:
    model, (x, y) = mlp(), data()
    h = model[:2](x).detach().requires_grad_()
    loss = nn.functional.cross_entropy(model[2:](h), y, reduction="sum")
    (grad,) = torch.autograd.grad(loss, h)
    found = Attack(Threat(Linf(), 0.2, site=Latent("body")), CrossEntropy(), FGSM())(
        model, x, y, run=FULL
    )
    assert torch.allclose(found.value, 0.2 * grad.sign())


def test_latent_problems_are_those_of_their_examples() -> None:
    """In any company: each example's latent perturbation starts and ends as it does alone."""
    model, (x, y) = mlp(), data()
    attack = Attack(Threat(L2(), 0.5, site=Latent("act")), CrossEntropy(), PGD(4))
    whole = attack(model, x, y, run=Run(slots=4))
    for i in range(6):
        alone = attack(model, x[i : i + 1], y[i : i + 1], run=Run(ids=torch.tensor([i])))
        assert torch.allclose(alone.value, whole.value[i : i + 1])


def test_free_latent_steps_have_their_unit() -> None:
    model, (x, y) = mlp(), data()
    attack = Attack(
        Free(Latent("body"), unit=0.3), CrossEntropy(), PGD(1, length=0.5, start=Zero())
    )
    found = attack(model, x, y, run=Run(last=True, patience=math.inf))
    assert torch.allclose(found.value.norm(dim=1), torch.full((6,), 0.15).double())
    far = Attack(Free(Latent("body"), unit=10.0), CrossEntropy(), PGD(30, length=1.0, start=Zero()))
    assert bool(
        (far(model, x, y, run=Run(last=True, patience=math.inf)).value.norm(dim=1) > 50).any()
    )


def test_joint_fgsm_is_both_steps_at_once() -> None:
    model, (x, y) = mlp(), data()
    at = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(at), y)
    names = ["body.weight", "head.weight"]
    grads = torch.autograd.grad(loss, [at, *(model.get_parameter(n) for n in names)])
    found = Attack(Both(Threat(Linf(), 0.1), Relative(0.05)), CrossEntropy(), FGSM())(
        model, x, y, run=FULL
    )
    assert torch.allclose(found.value[""][0], 0.1 * grads[0].sign())
    for name, g in zip(names, grads[1:], strict=True):
        expected = 0.05 * model.get_parameter(name).detach().norm() * g / g.norm()
        assert torch.allclose(found.value[name][0], expected)


@pytest.mark.parametrize("search", [PGD(5), APGD(8)], ids=["pgd", "apgd"])
def test_joint_is_worse_than_either(search: Any) -> None:
    """With the same search, an adversary with both hands does more than with one."""
    model, (x, y) = mlp(), data(12)
    inputs, weights = Threat(Linf(), 0.05), Relative(0.05)
    scores = [
        float(Attack(threat, CrossEntropy(), search)(model, x, y, run=FULL).score.mean())
        for threat in (Both(inputs, weights), inputs, weights)
    ]
    assert scores[0] > max(scores[1:])


def test_inside_a_region_the_corner_and_outside_nothing() -> None:
    model, (x, y) = mlp(), data()
    mask = torch.tensor([[True, False, True], [False, False, True]])
    at = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(at), y, reduction="sum"), at)
    for norm, eps in ((Linf(), 0.2), (L2(), 0.2)):
        found = Attack(Region(Threat(norm, eps), mask), CrossEntropy(), FGSM())(
            model, x, y, run=FULL
        )
        inner = grad * mask
        lengths = inner.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        expected = eps * inner.sign() if isinstance(norm, Linf) else eps * inner / lengths
        assert torch.allclose(found.value, expected)


def test_a_shared_perturbation_has_one_target() -> None:
    """Every example is pushed to the same class."""
    model, (x, y) = mlp(), data()
    attack = Attack(Threat(Linf(), 0.1, site=Universal()), TargetedMargin(), FGSM())
    found = attack(model, x, y, target=torch.tensor([2]), run=FULL)
    v = torch.zeros(1, 1, 2, 3).double().requires_grad_()
    z = model(x + v)
    (grad,) = torch.autograd.grad((z[:, 2] - z.gather(1, y[:, None])[:, 0]).mean(), v)
    assert torch.allclose(found.value, 0.1 * grad.sign())
