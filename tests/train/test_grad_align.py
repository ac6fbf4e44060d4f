"""GradAlign against its definition."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import Batch, GradAlign
from torchproof.train.method import drawn, read

Make = Callable[..., Any]
EPS = 0.1
THREAT = Threat(Linf(), EPS)


def naive_alignment(net: nn.Module, b: Batch, near: Tensor, lam: float) -> Tensor:
    """By the definition, with the statistics of the batch; g(x) is a constant."""
    points = [b.x.clone().requires_grad_(), near.clone().requires_grad_()]
    losses = [F.cross_entropy(copy.deepcopy(net)(points[0]), b.y, reduction="sum")]
    losses += [F.cross_entropy(net(points[1]), b.y, reduction="sum")]
    (here,) = torch.autograd.grad(losses[0], points[0])
    (there,) = torch.autograd.grad(losses[1], points[1], create_graph=True)
    rows = []
    for u, v in zip(here.flatten(1), there.flatten(1), strict=True):
        rows.append(lam * (1 - u @ v / (u.norm() * v.norm())))
    return torch.stack(rows)


def test_grad_align_equals_its_definition_with_its_gradient(conv: Make, batch: Make) -> None:
    net, b, how = conv(), batch(), GradAlign(THREAT, lam=0.7)
    ready = how.prepare(net, b)
    near = ready.drawn["near"]
    assert float((near - b.x).abs().max()) <= EPS + 1e-12 and not torch.equal(near, b.x)
    with drawn(ready):
        losses = read(how, net, ready)
    losses.mean().backward()
    twin = copy.deepcopy(net)
    twin.zero_grad()
    rows = naive_alignment(twin, b, near, 0.7)
    rows.mean().backward()
    assert torch.allclose(losses, rows, rtol=0, atol=1e-12) and float(rows.detach().min()) > 1e-6
    assert float(net[0].weight.grad.abs().max()) > 1e-6
    for got, want in zip(net.parameters(), twin.parameters(), strict=True):
        assert (got.grad is None) == (want.grad is None)
        assert got.grad is None or torch.allclose(got.grad, want.grad, rtol=0, atol=1e-12)
    assert net.training and torch.equal(net[1].running_mean, conv()[1].running_mean)


def test_the_noted_cosine_is_that_of_the_network_in_eval_mode(
    conv: Make, batch: Make, gradient: Make
) -> None:
    net, b = conv(), batch()
    ready = GradAlign(THREAT).prepare(net, b)
    grads = [gradient(net, x, b.y).flatten(1) for x in (b.x, ready.drawn["near"])]
    cosine = float(F.cosine_similarity(*grads).mean())
    assert cosine < 1 - 1e-6
    assert float(ready.noted["gradient_cosine"][0]) == pytest.approx(cosine, abs=1e-12)
    assert ready.spent == (40, 40)


def test_grad_align_is_zero_where_the_loss_is_linear_or_flat(batch: Make) -> None:
    b = batch()
    linear = nn.Sequential(nn.Flatten(), nn.Linear(72, 2)).double()  # one direction, whatever x is
    ready = GradAlign(THREAT).prepare(linear, replace(b, y=b.y.clamp_max(1)))
    assert float(GradAlign(THREAT).losses(linear, ready).detach().abs().max()) < 1e-12
    assert float(ready.noted["gradient_cosine"][0]) == pytest.approx(1, abs=1e-12)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(72, 2)).double()
    nn.init.zeros_(flat[1].weight)
    ready = GradAlign(THREAT).prepare(flat, replace(b, y=b.y.clamp_max(1)))
    losses = GradAlign(THREAT).losses(flat, ready)
    losses.sum().backward()
    assert float(losses.detach().abs().max()) == 0 and "gradient_cosine" not in ready.noted
    assert flat[1].weight.grad is None or bool(flat[1].weight.grad.isfinite().all())


def test_tiny_gradients_still_have_a_direction(conv: Make, batch: Make) -> None:
    """Confident images have gradients whose squares vanish in float32."""
    net, b = conv().float(), batch()
    b = replace(b, x=b.x.float())
    sharp = nn.Sequential(*net, nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        sharp[-1].weight.copy_(1e-30 * torch.eye(3))
    ready = GradAlign(THREAT, lam=1.0).prepare(sharp, b)
    losses = GradAlign(THREAT, lam=1.0).losses(sharp, ready)
    assert float(losses.detach().max()) > 1e-4 and float(ready.noted["gradient_cosine"][0]) < 1
