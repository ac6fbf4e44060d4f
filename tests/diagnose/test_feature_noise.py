"""How far perturbed images move features, on networks where it is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchproof.core.errors import InputError, UnknownName
from torchproof.core.keys import uniform
from torchproof.diagnose import feature_noise
from torchproof.nn import build


def pair(count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    x = uniform(torch.arange(count), 0, (1, 8, 8))
    return x, (x + 0.1 * uniform(torch.arange(count), 1, (1, 8, 8)) - 0.05).clamp(0, 1)


def test_the_ratio_of_each_image_in_closed_form() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False), nn.ReLU()).double()
    x, moved = (t.double() for t in pair())
    found = feature_noise(net, x, moved, ["0", "1"], slots=3)
    weight = net[1].weight.detach().double()
    for row in range(len(x)):
        clean, shift = x[row].flatten(), (moved - x)[row].flatten()
        torch.testing.assert_close(found["0"][row], shift.norm() / clean.norm())
        torch.testing.assert_close(
            found["1"][row], (weight @ shift).norm() / (weight @ clean).norm()
        )
    assert list(found) == ["0", "1"] and found["1"].shape == (7,)


def test_before_and_behind_a_block_and_nothing_is_left_on_the_model() -> None:
    made = build("small-cnn", channels=1, size=8, classes=4, seed=0, batch_norm=True,
                 insert={"act2": "MeanFilter"}).train()  # fmt: skip
    state = {name: value.clone() for name, value in made.state_dict().items()}
    with torch.no_grad():
        made.get_submodule("net.act2.block.norm").weight.fill_(1.0)
    state["net.act2.block.norm.weight"] = torch.ones(32)
    x, moved = pair()
    found = feature_noise(made, x, moved, ("net.act2", "net.act2.layer"))
    assert (found["net.act2"] != found["net.act2.layer"]).all()
    assert made.training and not any(m._forward_hooks for m in made.modules())
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    alone = feature_noise(made, x[2:3], moved[2:3], "net.act2")["net.act2"]
    torch.testing.assert_close(alone[0], found["net.act2"][2])
    still = feature_noise(made, x, x, "net.act2")["net.act2"]
    assert torch.equal(still, torch.zeros(7))


def test_what_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    x, moved = pair()
    with pytest.raises(UnknownName):
        feature_noise(net, x, moved, "7")
    with pytest.raises(InputError, match="perturbed"):
        feature_noise(net, x, moved[:3], "0")
    twice = nn.Sequential(nn.Flatten(), *[nn.ReLU()] * 2)
    with pytest.raises(InputError, match="one tensor"):
        feature_noise(twice, x, moved, "1")
    assert not any(m._forward_hooks for m in [*net.modules(), *twice.modules()])
