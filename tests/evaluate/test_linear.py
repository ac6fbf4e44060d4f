"""On a linear model the robust examples are known: those with margin > eps * dual norm of w."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import apgd_t, pgd
from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.core.threats import Threat
from torchproof.evaluate import Member, evaluate


@pytest.fixture
def line() -> tuple[nn.Module, Tensor, Tensor]:
    """z = (-s, s) / 2 with s = <w, x> + b, and images for which the box does not matter."""
    g = torch.Generator().manual_seed(5)
    w = torch.randn(16, generator=g, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([-w, w]) / 2)
        model[1].bias.copy_(torch.tensor([0.25, -0.25]) * w.sum())
    x = 0.35 + 0.3 * torch.rand(80, 1, 4, 4, generator=g, dtype=torch.float64)
    y = (x.flatten(1) @ w - w.sum() / 2 > 0).long()
    y[:5] = 1 - y[:5]  # five that are wrong to begin with
    return model, x, y


def naive_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int) -> Tensor:
    """(N,) bool, broken: Linf PGD one example at a time, as a textbook has it."""
    broken = torch.zeros(len(x), dtype=torch.bool)
    for i in range(len(x)):
        delta = torch.zeros_like(x[i : i + 1])
        for _ in range(steps):
            delta.requires_grad_()
            loss = nn.functional.cross_entropy(model(x[i : i + 1] + delta), y[i : i + 1])
            (grad,) = torch.autograd.grad(loss, delta)
            delta = (delta.detach() + eps / 4 * grad.sign()).clamp(-eps, eps)
            moved = (x[i : i + 1] + delta).clamp(0, 1)
            broken[i] |= bool(model(moved).argmax() != y[i])
    return broken


DUAL: dict[Norm, Any] = {Linf(): 1, L2(): 2, L1(): torch.inf}


@pytest.mark.parametrize(
    ("norm", "eps"), [(Linf(), 0.02), (Linf(), 0.01), (L2(), 0.04), (L1(), 0.1)]
)
@pytest.mark.parametrize("suite", ["quick", "own"])
def test_robust_examples_are_those_of_the_closed_form(
    line: tuple[nn.Module, Tensor, Tensor], norm: Norm, eps: float, suite: str
) -> None:
    model, x, y = line
    z = model(x).detach()
    margin = z.gather(1, y[:, None])[:, 0] - z.gather(1, 1 - y[:, None])[:, 0]
    w = 2 * model[1].weight[0].detach()
    reach = eps * float(torch.linalg.vector_norm(w, ord=DUAL[norm]))
    # a few steps come within 2 % of the round ball's best point: nobody else may sit on the edge
    clear = (margin - reach).abs() > 0.02 * reach
    x, y, margin = x[clear], y[clear], margin[clear]
    assert len(x) > 70
    threat = Threat(norm, eps)
    own = [Member("APGD-T", apgd_t(threat, 30)), Member("PGD", pgd(threat, 30))]
    report = evaluate(model, (x, y), threat, own if suite == "own" else "quick")
    wanted = [
        "misclassified" if m < 0 else "robust" if m > reach else "broken" for m in margin.tolist()
    ]
    assert [row.status for row in report.examples] == wanted
    assert min(wanted.count(status) for status in set(wanted)) >= 5 and len(set(wanted)) == 3
    assert report.robust_accuracy == wanted.count("robust") / len(x)
    assert report.clean_accuracy == 1 - 5 / len(x)


@pytest.mark.parametrize("eps", [0.01, 0.03])
def test_agrees_with_a_naive_loop(line: tuple[nn.Module, Tensor, Tensor], eps: float) -> None:
    model, x, y = line
    report = evaluate(model, (x, y), Threat(Linf(), eps), "quick")
    naive = naive_pgd(model, x, y, eps, 8)
    assert 5 < int(naive.sum()) < 75
    assert [row.status != "robust" for row in report.examples] == naive.tolist()
