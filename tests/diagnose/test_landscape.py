"""The weight-loss landscape against an independent computation on a linear model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchproof.core import keys
from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.diagnose import weight_landscape
from torchproof.diagnose.landscape import adversarial_direction, random_direction, weight_plane

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


def test_the_clean_curve_is_not_attacked() -> None:
    net, x, y = problem()
    found = weight_landscape(net, x, y, None, radii=(-0.5, 0.4), directions=1)
    d = random_direction(net, keys.seed_of(0, "direction", 0))["1.weight"]
    for a, loss in zip(found.radii, found.losses[0], strict=True):
        logits = F.linear(x.flatten(1), net[1].weight.detach() + a * d, net[1].bias.detach())
        assert loss == pytest.approx(float(F.cross_entropy(logits, y)), abs=1e-12)


@pytest.mark.parametrize("threat", [THREAT, None])
def test_adversarial_directions_rise_first(threat: Threat | None) -> None:
    """They are the worst weights of a small ball, so inside it no random direction is above them;
    against the loss of a linear model the gradient's direction is nearly the worst.
    """
    net, x, y = problem()
    d = adversarial_direction(net, x, y, threat, xi=0.01)
    weights = dict(net.named_parameters())
    assert set(d) == set(weights)  # biases too
    for name, v in d.items():
        assert float(v.norm() / weights[name].detach().norm()) == pytest.approx(1, rel=1e-3)
    radii = (-0.01, 0.0, 0.01)
    worst = weight_landscape(net, x, y, threat, radii=radii, along="adversarial", steps=40)
    drawn = weight_landscape(net, x, y, threat, radii=radii, directions=5, steps=40)
    assert worst.losses[0][1] == pytest.approx(drawn.losses[0][1])
    assert min(line[2] for line in worst.losses) > max(line[2] for line in drawn.losses)
    assert all(line[0] < line[1] < line[2] for line in worst.losses)


def test_a_plane_holds_the_curves_of_its_axes() -> None:
    net, x, y = problem()
    radii, before = (-0.5, 0.0, 0.5), {k: v.clone() for k, v in net.state_dict().items()}
    plane = weight_plane(net, x, y, THREAT, radii=radii)
    lines = weight_landscape(net, x, y, THREAT, radii=radii, directions=2)
    assert [row[1] for row in plane.losses] == pytest.approx(lines.losses[0])
    assert list(plane.losses[1]) == pytest.approx(lines.losses[1])
    assert plane.axes == ("random", "random") and plane.radii == radii
    first, second = (
        random_direction(net, keys.seed_of(0, "direction", j))["1.weight"] for j in (0, 1)
    )
    weight = net[1].weight.detach() - 0.5 * first + 0.5 * second
    clean = weight_plane(net, x, y, None, radii=radii)
    expected = F.cross_entropy(F.linear(x.flatten(1), weight, net[1].bias.detach()), y)
    assert clean.losses[0][2] == pytest.approx(float(expected))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    mixed = weight_plane(net, x, y, None, radii=(0.0, 0.1), axes=("adversarial", "random"))
    assert mixed.losses[1][0] > mixed.losses[0][0]
    with pytest.raises(UnknownName):
        weight_plane(net, x, y, None, axes=("random", "steepest"))
    with pytest.raises(UnknownName):
        weight_landscape(net, x, y, None, along="up")
