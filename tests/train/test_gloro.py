"""The logit that wins where an answer is not certified."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchproof.core.errors import InputError
from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.core.threats import Threat, parse
from torchproof.train.certified.gloro import GloRo
from torchproof.train.certified.ramp import Ramp
from torchproof.train.method import Batch
from torchproof.verify import graph_of
from torchproof.verify.lipschitz import radius
from torchproof.verify.lipschitz.gloro import pairwise, rejecting


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(),
        nn.Linear(8, 4),
    ).double().eval()  # fmt: skip


@pytest.mark.parametrize("norm", [Linf(), L2(), L1()], ids=["linf", "l2", "l1"])
def test_the_logit_wins_where_the_radius_is_less(norm: Norm) -> None:
    """The formula by a loop; and rejection is what the certificate of the answer says."""
    model = net().requires_grad_(False)
    x = torch.rand(12, 1, 4, 4, dtype=torch.float64)
    graph, z = graph_of(model, x), model(x)
    constants = pairwise(graph, norm, x)
    assert torch.equal(constants, constants.T) and not bool(constants.diagonal().any())
    radii = radius(graph, x, z.argmax(1), norm, "op-norm")
    eps = float(radii.median()) * 1.0001
    found = rejecting(z, constants, eps)
    assert torch.equal(found[:, :4], z)
    for row in range(len(x)):
        j = int(z[row].argmax())
        last = max(float(z[row, i] + eps * constants[i, j]) for i in range(4) if i != j)
        assert float(found[row, 4]) == pytest.approx(last)
    rejected = found.argmax(1) == 4
    assert torch.equal(rejected, radii < eps) and 0 < int(rejected.sum()) < len(x)


def test_the_loss_and_its_gradient() -> None:
    """CE with five logits, against finite differences in every layer; before the ramp plain CE."""
    model = net()
    x, y = torch.rand(5, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    method = GloRo(Threat(L2(), 0.05), Ramp(0.2, 0.4))
    early, late = (
        method.prepare(model, Batch(x, y, torch.arange(5), progress, 0)) for progress in (0.1, 0.9)
    )
    plain = nn.functional.cross_entropy(model(x), y, reduction="none")
    assert torch.allclose(method.losses(model, early), plain)
    losses = method.losses(model, late)
    z = rejecting(model(x), pairwise(graph_of(model, x), L2(), x), 0.05)
    assert torch.allclose(losses, nn.functional.cross_entropy(z, y, reduction="none"))
    assert bool((losses > plain).all())
    losses.mean().backward()
    for weight in (model[0].weight, model[3].weight, model[5].weight):
        assert weight.grad is not None
        place = tuple(int(i) for i in torch.unravel_index(weight.grad.abs().argmax(), weight.shape))
        slope, step = float(weight.grad[place]), 1e-6
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
                ends.append(float(method.losses(model, late).mean()))
                weight[place] -= sign * step
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-4)


def test_a_norm_without_constants_is_refused() -> None:
    with pytest.raises(InputError, match="l0"):
        GloRo(parse("l0:3"))
