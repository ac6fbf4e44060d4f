"""The twins: their sizes, the formulas of their blocks, and what a card says of their solver."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.asides import listening
from torchproof.core.errors import InputError, UnknownName
from torchproof.core.keys import uniform
from torchproof.nn import build, cards, insert
from torchproof.nn.ode import ODEBlock, with_solver
from torchproof.nn.odenet import Flow, group_norm, ode_block

SMALL: dict[str, Any] = {
    "channels": 1, "size": 12, "classes": 3, "width": 4, "groups": 2, "seed": 0,
}  # fmt: skip


def images(count: int) -> Tensor:
    return uniform(torch.arange(count), 0, (1, 12, 12), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "count"), [("ode-cnn", 141_130), ("tisode", 141_130), ("odenet", 142_410)]
)
def test_the_sizes_of_the_paper(name: str, count: int) -> None:
    net = build(name, channels=1, size=28, classes=10)
    assert sum(p.numel() for p in net.parameters()) == count
    extractor = (9 + 1) * 64 + 128 + (64 * 64 * 16 + 64) + 128
    time = int(name == "odenet")
    flow = 2 * (64 * (64 + time) * 9 + 64 * time + 128)
    assert extractor + flow + 650 == count
    flat = build(name, channels=1, size=28, classes=10, readout="flatten")
    more = sum(p.numel() for p in flat.parameters()) - count
    assert more == 640 * (13 * 13 - 1)


def by_hand(flow: Flow, t: float, z: Tensor) -> Tensor:
    for conv, norm in ((flow.conv1, flow.norm1), (flow.conv2, flow.norm2)):
        if flow.time:
            z = torch.cat([z, torch.full_like(z[:, :1], t)], 1)
        columns = F.unfold(z, 3, padding=1)
        z = (conv.weight.flatten(1) @ columns).reshape(len(z), -1, *z.shape[2:])
        z = z if conv.bias is None else z + conv.bias[:, None, None]
        group = z.unflatten(1, (norm.num_groups, -1)).flatten(2)
        mean, var = group.mean(2, keepdim=True), group.var(2, keepdim=True, unbiased=False)
        z = ((group - mean) / (var + norm.eps).sqrt()).reshape(z.shape)
        z = (z * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
    return z


def shaken(net: nn.Module) -> nn.Module:
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=g))
    return net.double().eval()


@pytest.mark.parametrize("name", ["ode-cnn", "odenet", "tisode"])
def test_the_networks_by_hand(name: str) -> None:
    """The extractor, one residual block or four Euler steps, the last layer."""
    options: dict[str, Any] = {} if name == "ode-cnn" else {"h": 0.25}
    net = shaken(build(name, **SMALL, **options))
    inner, x = net.net, images(5)
    z = F.relu(F.group_norm(F.conv2d(x, inner.conv1.weight, inner.conv1.bias), 2,
                            inner.norm1.weight, inner.norm1.bias))  # fmt: skip
    z = F.conv2d(z, inner.conv2.weight, inner.conv2.bias, stride=2, padding=1)
    z = F.relu(F.group_norm(z, 2, inner.norm2.weight, inner.norm2.bias))
    flow = inner.middle.field
    if name == "ode-cnn":
        z = z + by_hand(flow, 0.0, z)
    else:
        for step in range(4):
            z = z + 0.25 * by_hand(flow, step / 4, z)
    expected = F.linear(z.mean((2, 3)), inner.linear.weight, inner.linear.bias)
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)


def test_time_enters_odenet_alone() -> None:
    for name, moves in (("odenet", True), ("tisode", False)):
        flow = shaken(build(name, **SMALL)).net.middle.field
        z = uniform(torch.arange(2), 0, (4, 5, 5), dtype=torch.float64)
        assert torch.equal(flow(0.0, z), flow(0.7, z)) != moves
        assert torch.equal(flow(0.7, z), flow(torch.tensor(0.7, dtype=torch.float64), z))
        assert bool((flow(0.3, z) >= 0).all())  # ends in ReLU: no coordinate ever falls


def test_the_penalty_is_the_speed_of_the_flow_in_the_window() -> None:
    net, x = shaken(build("tisode", **SMALL, h=0.5)), images(5)
    seen: list[Tensor] = []
    field = net.net.middle.field
    handle = field.register_forward_hook(lambda module, args, out: seen.append(out))
    with listening() as told:
        net(x)
    handle.remove()
    assert len(seen) == 4  # two steps to T = 1, two more to 2 T
    expected = 0.5 * (seen[2].abs() + seen[3].abs()).mean((1, 2, 3))
    torch.testing.assert_close(told["steady"][0], expected)
    with listening() as told:
        build("ode-cnn", **SMALL)(x.float())
    assert not told


@pytest.mark.parametrize(
    ("width", "groups", "fit"), [(64, 32, 32), (16, 32, 16), (16, 8, 8), (6, 4, 3), (7, 3, 1)]
)
def test_groups_fit_the_width(width: int, groups: int, fit: int) -> None:
    assert group_norm(width, groups).num_groups == fit


def test_the_block_stands_still_until_it_is_trained() -> None:
    block = ode_block(6)
    z = uniform(torch.arange(3), 0, (6, 5, 5)) - 0.5
    with listening() as told:
        assert torch.equal(block(z), z)
    assert torch.equal(told["steady"][0], torch.zeros(3))
    block(z).square().sum().backward()
    assert bool(block.field.norm2.weight.grad.abs().sum() > 0)  # and it can leave that state


def test_cards_know_the_solver(tmp_path: Any) -> None:
    net, x = build("tisode", **SMALL, h=0.5).eval(), images(4).float()
    finer = with_solver(net, h=0.125, solver="rk4")
    cards.save(finer, tmp_path / "net")
    again = cards.load(tmp_path / "net")[0].eval()
    assert torch.equal(again(x), finer(x)) and not torch.equal(finer(x), net(x))
    assert again.options["h"] == 0.125 and again.options["solver"] == "rk4"
    mixed = insert(build("small-cnn", channels=1, size=12, classes=3, seed=0), "net.act1", "ODE")
    assert "another solver" in with_solver(mixed, h=0.1).name
    inside = [m for m in with_solver(mixed, h=0.1).modules() if isinstance(m, ODEBlock)]
    assert [block.h for block in inside] == [0.1]


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"size": 5}, InputError, "6 x 6"),
        ({"readout": "max"}, UnknownName, "pool"),
        ({"groups": 0}, InputError, "groups"),
        ({"h": 0}, InputError, "h = 0"),
        ({"solver": "eulr"}, UnknownName, "euler"),
        ({"ss_window": 3}, InputError, "a network"),
    ],
)
def test_networks_that_cannot_be(options: dict[str, Any], error: Any, word: str) -> None:
    with pytest.raises(error, match=word):
        build("tisode", **{**SMALL, **options})
