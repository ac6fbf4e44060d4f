"""Attacks where the answer is known: linear models, made-up loss sequences, the published toy
problem.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.apgd import APGD
from torchproof.attack.catalogue import mi_fgsm, ni_fgsm
from torchproof.attack.combine import Attack
from torchproof.attack.fgsm import FGSM
from torchproof.attack.pgd import PGD, MomentumPGD, NesterovPGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.attack.variance_tuning import vmi_fgsm
from torchproof.core import keys
from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.core.objectives import (
    DLR,
    Alternating,
    CrossEntropy,
    Hypocritical,
    Margin,
    Objective,
    Targeted,
)
from torchproof.core.threats import Threat


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """Logits W x + b of the flattened image."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return nn.Sequential(nn.Flatten(), layer)


def binary(seed: int = 0, size: int = 12) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A two-class linear model, images in the middle of the box, labels 0, and w, the gradient of
    the margin.
    """
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, size, generator=g, dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(4, 1, 1, size, generator=g, dtype=torch.float64)
    w = weight[1] - weight[0]
    shift = (x.flatten(1) @ w).max() + 0.2
    return linear(weight, torch.tensor([float(shift), 0.0]).double()), x, torch.zeros(4).long(), w


# ---- the worst point of a linear model


@pytest.mark.parametrize(
    "search",
    [FGSM(), PGD(10), PGD(4, start=Zero()), MomentumPGD(10), NesterovPGD(10), APGD(30)],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("objective", [CrossEntropy(), Margin(), DLR()], ids=repr)
def test_on_a_linear_model_every_search_finds_the_corner(search: Any, objective: Objective) -> None:
    model, x, y, w = binary()
    found = Attack(Threat(Linf(), 0.1), objective, search)(model, x, y, run=Run(patience=math.inf))
    assert torch.allclose(x + found.value, x + 0.1 * w.sign().reshape(1, 1, 1, -1), atol=1e-9)


@pytest.mark.parametrize("make", [mi_fgsm, ni_fgsm, vmi_fgsm])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_steps_of_transfer_attacks_add_up_to_the_radius(make: Any, steps: int) -> None:
    """alpha = eps / T (Dong et al. 2018), however many steps are asked for."""
    model, x, y, w = binary()
    attack = make(Threat(Linf(), 0.1), steps)
    found = attack(model, x, y, run=Run(patience=math.inf, last=True))
    assert torch.allclose(found.value, 0.1 * w.sign().reshape(1, 1, 1, -1), atol=1e-9)


@pytest.mark.parametrize(
    ("norm", "dual", "eps"), [(Linf(), 1, 0.1), (L2(), 2, 0.3), (L1(), math.inf, 0.35)]
)
@pytest.mark.parametrize(
    "search", [FGSM(), PGD(60, length=0.5), APGD(60)], ids=lambda s: type(s).__name__
)
def test_the_gain_on_a_linear_model_is_the_dual_norm(
    norm: Norm, dual: float, eps: float, search: Any
) -> None:
    model, x, y, w = binary(1)
    clean = model(x).detach()
    found = Attack(Threat(norm, eps), Margin(), search)(model, x, y, run=Run(patience=math.inf))
    gain = found.score - (clean[:, 1] - clean[:, 0])
    most = eps * torch.linalg.vector_norm(w, dual)
    assert bool((gain <= most * (1 + 1e-9)).all())
    assert bool((gain >= most * 0.999).all())


def test_descending_and_targeted_objectives_go_the_other_way() -> None:
    model, x, y, w = binary()
    corner = 0.1 * w.sign().reshape(1, 1, 1, -1).expand_as(x)
    kind = Attack(Threat(Linf(), 0.1), Hypocritical(), FGSM())
    assert torch.allclose(kind(model, x, 1 - y, run=Run(patience=9)).value, corner)
    best = Attack(Threat(Linf(), 0.1), Hypocritical(), FGSM())(
        model, x, y, run=Run(patience=9, last=True)
    )
    assert torch.allclose(best.value, -corner)
    aimed = Attack(Threat(Linf(), 0.1), Targeted(), FGSM())
    found = aimed(model, x, y, target=1 - y, run=Run(patience=9))
    assert torch.allclose(found.value, corner)


def test_momentum_is_the_published_recursion() -> None:
    """g' = mu g + grad / mean|grad|; x' = clip(x + a sign g') (Dong et al. 2018)."""
    g = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
    x, y = 0.5 + 0 * torch.rand(3, 1, 1, 6).double(), torch.tensor([0, 1, 2])
    eps, steps, mu = 0.2, 5, 0.7

    def grad_at(d: Tensor) -> Tensor:
        at = (x + d).requires_grad_()
        (grad,) = torch.autograd.grad(
            nn.functional.cross_entropy(model(at), y, reduction="sum"), at
        )
        return grad / grad.abs().mean((1, 2, 3), keepdim=True)

    plain, ahead = torch.zeros_like(x), torch.zeros_like(x)
    v, u, look = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(steps):
        v = mu * v + grad_at(plain)
        plain = (plain + 0.3 * eps * v.sign()).clamp(-eps, eps)
        u = mu * u + grad_at(look)
        ahead = (ahead + 0.3 * eps * u.sign()).clamp(-eps, eps)
        look = (ahead + 0.3 * eps * mu * u.sign()).clamp(-eps, eps)
    threat, run = Threat(Linf(), eps), Run(last=True, patience=math.inf)
    for search, expected in ((MomentumPGD, plain), (NesterovPGD, look)):
        made = search(steps, length=0.3, start=Zero(), decay=mu)
        assert torch.allclose(
            Attack(threat, CrossEntropy(), made)(model, x, y, run=run).value, expected
        )


# ---- the toy problem of Antoniou et al. 2022: objectives that get stuck alone


W = torch.tensor([[0.3, -0.3], [1.0, -0.01], [-0.25, 0.75]]).double()
TOY = torch.tensor([-0.45, -0.8]).double().reshape(1, 1, 1, 2)

CE, CW = CrossEntropy(), Margin()
TABLE: dict[str, tuple[Objective, int | None, float]] = {
    "CE": (CE, 2, 0.1881),
    "CW": (CW, None, -0.0166),
    "DLR": (DLR(), None, -0.0170),
    "CW-CE": (Alternating((CW, CE)), 31, 0.1875),
    "DLR-CE": (Alternating((DLR(), CE)), 31, 0.1875),
    "CE-CW": (Alternating((CE, CW)), 2, 0.2372),
    "CE-DLR": (Alternating((CE, DLR())), 2, 0.2022),
    "CW-DLR": (Alternating((CW, DLR())), None, -0.0166),
    "DLR-CW": (Alternating((DLR(), CW)), None, -0.0166),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_the_toy_problem(name: str) -> None:
    """Normalised steps of eps / 2, 50 of them, eps 0.7, no box: first adversarial step and best
    margin, to 1e-3.
    """
    objective, step, best = TABLE[name]
    threat = Threat(L2(), 0.7, low=-math.inf, high=math.inf)
    attack = Attack(threat, objective, PGD(50, length=0.5, start=Zero()))
    model, y = linear(W), torch.zeros(1).long()
    assert model(TOY)[0].tolist() == pytest.approx([0.105, -0.442, -0.4875])
    found = attack(model, TOY, y, run=Run(patience=math.inf))
    assert float(found.score) == pytest.approx(best, abs=1e-3)
    assert bool(found.lost) is (step is not None)
    first = attack(model, TOY, y)
    assert int(first.spent[0, 0]) == (51 if step is None else step + 1)
    assert found.spent.tolist() == [[51, 50]]


def test_the_best_margin_of_the_toy_problem() -> None:
    angle = torch.linspace(0, 2 * math.pi, 100_001).double()
    circle = TOY.reshape(1, 2) + 0.7 * torch.stack([angle.cos(), angle.sin()], 1)
    z = circle @ W.T
    assert float((z[:, 1:].amax(1) - z[:, 0]).max()) == pytest.approx(0.2372, abs=1e-4)


def test_keys_of_the_engine_start_apart() -> None:
    """Random starts of different examples, targets and restarts differ."""
    model, x, y, _ = binary()
    attack = Attack(Threat(Linf(), 0.1), CrossEntropy(), PGD(1, length=1e-9))
    values = [
        attack(model, x[:1].expand(4, 1, 1, 12), y, run=Run(seed=s, last=True)).value
        for s in (0, 1)
    ]
    starts = torch.cat(values).flatten(1)
    assert len({tuple(v.tolist()) for v in starts}) == 8
    assert int(keys.mix(0, 1)) != int(keys.mix(1, 0))
