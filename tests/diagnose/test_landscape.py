"""The weight-loss landscape against an independent computation on a linear model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.diagnose import weight_landscape
from torchproof.diagnose.landscape import random_direction

THREAT = Threat(Linf(), 0.1)


def problem() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 2, dtype=torch.float64)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(2, 9, generator=g, dtype=torch.float64))
    x = 0.2 + 0.6 * torch.rand(20, 1, 3, 3, generator=g, dtype=torch.float64)
    return net, x, torch.randint(2, (20,), generator=g)


def test_directions_have_the_length_of_every_filter() -> None:
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 3))
    found = random_direction(net, 4)
    assert set(found) == {"0.weight", "3.weight"}
    for name, d in found.items():
        own = dict(net.named_parameters())[name].detach().flatten(1).norm(dim=1)
        torch.testing.assert_close(d.flatten(1).norm(dim=1), own)
    again, other = random_direction(net, 4), random_direction(net, 5)
    assert torch.equal(found["0.weight"], again["0.weight"])
    assert not torch.equal(found["0.weight"], other["0.weight"])


def test_the_curve_of_a_linear_model_is_its_closed_form() -> None:
    """With two classes the worst image within Linf lowers the margin by eps |w_y - w_k|_1."""
    net, x, y = problem()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    radii = (-0.5, 0.0, 0.5)
    found = weight_landscape(net, x, y, THREAT, radii=radii, directions=2, steps=40, slots=7)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    for j in range(2):
        d = random_direction(net, keys.seed_of(0, "direction", j))["1.weight"]
        for i, a in enumerate(radii):
            weight = net[1].weight.detach() + a * d
            logits = F.linear(x.flatten(1), weight, net[1].bias.detach())
            margin = logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])
            worst = margin[:, 0] - 0.1 * (weight[0] - weight[1]).abs().sum()
            assert found.losses[j][i] == pytest.approx(float(F.softplus(-worst).mean()), abs=1e-9)
    assert found.mean[1] == pytest.approx((found.losses[0][1] + found.losses[1][1]) / 2)
    assert found.losses[0][1] == found.losses[1][1]
    assert found.rise == pytest.approx(sum(found.mean) / 3 - min(found.mean))


def test_slots_do_not_matter_and_bad_input_is_refused() -> None:
    net, x, y = problem()
    one = weight_landscape(net, x, y, THREAT, radii=(0.3,), directions=1, slots=1)
    many = weight_landscape(net, x, y, THREAT, radii=(0.3,), directions=1, slots=64)
    assert one.losses[0][0] == pytest.approx(many.losses[0][0], abs=1e-12)
    for more in ({"radii": ()}, {"radii": (float("nan"),)}, {"directions": 0}):
        with pytest.raises(InputError):
            weight_landscape(net, x, y, THREAT, **more)
