"""Walks through windows, beside walks through whole maps."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.threats import Threat
from torchproof.verify import windows
from torchproof.verify.bounds import Bound, Pass, graph_of
from torchproof.verify.clock import OutOfTime, left, limit
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.linear import Walk
from torchproof.verify.whose import Whose
from torchproof.verify.windows import Windows

D = torch.float64
LINEAR = Bound("linear", "linear")


class Net(nn.Module):
    """Modules by name in the order in which `run` takes them."""

    def __init__(self, run: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.run = nn.ModuleList(parts), run

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.run(x, *self.parts)
        return logits


def chain(*parts: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*parts)


def two(first: nn.Module, second: nn.Module, between: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(first, between or nn.ReLU(), second, nn.ReLU(), nn.Flatten())


def residual(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module, d: nn.Module) -> Tensor:
    h = F.relu(a(x))
    h = F.relu(c(F.relu(b(h))) + d(h))
    return h.flatten(1)


def before(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
    """Activations before convolutions: what a ReLU reads is read elsewhere, by more."""
    x = a(x)
    h = c(F.relu(b(F.relu(x))) + x)
    return F.relu(h + b(x)).flatten(1)


def gated(x: Tensor, a: nn.Module, b: nn.Module, c: nn.Module) -> Tensor:
    z = a(x)
    return F.relu(c(z * torch.sigmoid(b(x)))).flatten(1)


def normalised(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    mean, std = torch.tensor([[[0.4]], [[0.6]]], dtype=D), torch.tensor([[[0.2]], [[0.5]]], dtype=D)
    return F.relu(b(F.relu(a((x - mean) / std)))).flatten(1)


def c2(i: int, o: int, *args: object, **kwargs: object) -> nn.Conv2d:
    return nn.Conv2d(i, o, *args, **kwargs)  # type: ignore[arg-type]


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "padded": (lambda: two(c2(2, 3, 3, padding=1), c2(3, 2, 3, padding=1)), (2, 6, 6)),
    "strides": (lambda: two(c2(2, 3, 4, 2, 1), c2(3, 2, 3, 2, 1)), (2, 9, 8)),
    "no padding": (lambda: two(c2(2, 3, 3), c2(3, 2, 2, 2)), (2, 7, 6)),
    "wide padding": (lambda: two(c2(2, 3, 3, padding=3), c2(3, 2, 3, 3, 2)), (2, 5, 6)),
    "dilated": (lambda: two(c2(2, 3, 3, padding=2, dilation=2),
                            c2(3, 2, 2, padding=1, dilation=3)), (2, 7, 7)),
    "groups": (lambda: two(c2(2, 4, 3, padding=1, groups=2), c2(4, 4, 3, padding=1, groups=4)),
               (2, 6, 6)),
    "not square": (lambda: two(c2(2, 3, (3, 1), (2, 1), (1, 0)),
                               c2(3, 2, (2, 4), (1, 2), (0, 2), (1, 2))), (2, 8, 11)),
    "nothing between": (lambda: nn.Sequential(
        c2(2, 3, 3, padding=1), nn.ReLU(), c2(3, 3, 3, padding=1), c2(3, 3, 3, 2, 2), nn.ReLU(),
        nn.Flatten()), (2, 6, 6)),
    "averages": (lambda: nn.Sequential(
        c2(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3, 2, 1), c2(3, 2, 3, padding=1),
        nn.AvgPool2d(2), nn.ReLU(), nn.Flatten()), (2, 8, 8)),
    "batch norm": (lambda: nn.Sequential(
        c2(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), c2(3, 3, 3, padding=1),
        nn.BatchNorm2d(3), c2(3, 2, 3, padding=1), nn.ReLU(), nn.Flatten()), (2, 6, 5)),
    "residual": (lambda: Net(residual, c2(2, 3, 3, padding=1), c2(3, 4, 3, 2, 1),
                             c2(4, 3, 3, padding=1), c2(3, 3, 1, 2)), (2, 6, 6)),
    "before": (lambda: Net(before, c2(2, 3, 3, padding=1), c2(3, 3, 3, padding=1),
                           c2(3, 3, 1)), (2, 6, 6)),
    "leaky": (lambda: two(c2(2, 3, 3, padding=1), c2(3, 2, 3, padding=1), nn.PReLU(3)), (2, 6, 6)),
    "curved": (lambda: two(c2(2, 3, 3, padding=1), c2(3, 2, 3, padding=1), nn.GELU()), (2, 6, 6)),
    "gated": (lambda: Net(gated, c2(2, 3, 3, padding=1), c2(2, 3, 3, padding=1),
                          c2(3, 2, 3, padding=1)), (2, 6, 6)),
    "normalised": (lambda: Net(normalised, c2(2, 3, 3, padding=1), c2(3, 2, 3, padding=1)),
                   (2, 6, 6)),
    "one axis": (lambda: two(nn.Conv1d(2, 3, 3, 1, 1), nn.Conv1d(3, 2, 3, 2, 1)), (2, 9)),
    "three axes": (lambda: two(nn.Conv3d(1, 2, 3, padding=1), nn.Conv3d(2, 2, 2, 2)),
                   (1, 4, 4, 4)),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, Tensor, Graph]:
    build, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build()
        for module in net.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                module.bias.data.mul_(0.1)  # so that signs are open
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2.0)
        features = net(torch.zeros(2, *shape).to(next(net.parameters()))).shape[1] if (
            name != "normalised") else 72  # fmt: skip
        net = nn.Sequential(net, nn.Linear(features, 3)).double().eval().requires_grad_(False)
        x = torch.rand(3, *shape, dtype=D)
    return net, x, graph_of(net, x)


def through(
    share: float, graph: Graph, inside: InputSet, bound: Bound, monkeypatch: pytest.MonkeyPatch
) -> tuple[Pass, Tensor]:
    """The pass and its bounds of the logits, with windows of at most this share of the maps."""
    monkeypatch.setattr(windows, "WORTH", share)
    with torch.no_grad():
        passed = Pass.of(graph, inside, bound)
        return passed, passed.lower(torch.eye(3, dtype=D).expand(len(inside.x), -1, -1))


@pytest.mark.parametrize("name", NETS)
def test_windows_give_what_whole_maps_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, x, graph = made(name)
    used: list[str] = []
    around = Windows.around

    def counted(self: Windows, *args: object) -> Walk:
        used.append(self.name)
        return around(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Windows, "around", counted)
    cases: list[tuple[Norm, float, Bound]] = [(Linf(), 0.15, LINEAR), (L2(), 0.3, LINEAR)]
    if name == "nothing between":
        cases += [(L1(), 0.5, LINEAR), (L0(), 2.0, LINEAR)]
        cases += [(Linf(), 0.15, Bound("linear", "linear", middle_steps=3))]
    for norm, eps, bound in cases:
        inside = InputSet.of(x, Threat(norm, eps))
        whole, lower = through(-1.0, graph, inside, bound, monkeypatch)
        assert not used
        small, same = through(np.inf, graph, inside, bound, monkeypatch)
        assert used
        exact = 1e-9 if bound is LINEAR else 1e-6  # Adam divides by the size of gradients
        assert torch.allclose(same, lower, atol=exact, rtol=0)
        for node, where in whole.intervals.items():
            for ends in zip((where.lower, where.upper),
                            (small.intervals[node].lower, small.intervals[node].upper),
                            strict=True):  # fmt: skip
                assert torch.allclose(*ends, atol=exact, rtol=0), (node, norm)
        assert whole.walk.walked == small.walk.walked
        used.clear()


class Shuffled(nn.Module):
    """Convolutions with something between that windows cannot say."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two = c2(2, 4, 3, padding=1), c2(4, 2, 3, padding="same")
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = F.relu(self.two(self.between(F.relu(self.one(x))))).flatten(1)
        return z


@pytest.mark.parametrize(
    "between",
    [
        lambda z: F.max_pool2d(z, 2),
        lambda z: z.flip(1),
        lambda z: z + torch.arange(6.0, dtype=D),
        lambda z: z,  # the padding of `two` is a word
    ],
)
def test_what_windows_cannot_say_is_walked_in_whole_maps(between: Callable[..., Tensor]) -> None:
    net = Shuffled(between).double().eval().requires_grad_(False)
    x = torch.rand(2, 2, 6, 6, dtype=D)
    graph = graph_of(net, x)
    walk = Pass.of(graph, InputSet.of(x, Threat(Linf(), 0.05)), LINEAR).walk
    last = [node.name for node in graph.nodes if node.kind == "conv2d"][-1]
    assert Windows.of(walk, last) is None


def test_bounds_through_windows_have_gradients_in_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x, _ = made("padded")
    net.requires_grad_(True)
    graph, found = graph_of(net, x), []
    for share in (-1.0, np.inf):
        monkeypatch.setattr(windows, "WORTH", share)
        passed = Pass.of(graph, InputSet.of(x, Threat(Linf(), 0.08)), LINEAR)
        lower = passed.lower(torch.eye(3, dtype=D).expand(3, -1, -1))
        found.append(torch.autograd.grad(lower.sum(), list(net.parameters())))
    assert all(bool(part.abs().sum() > 0) for part in found[0])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_what_rows_share_is_looked_up_once_and_changes_nothing() -> None:
    """All rows about one example, about all in order, in rounds, and about any."""
    _, x, graph = made("residual")
    inside = InputSet.of(x, Threat(L2(), 0.3))
    walk = Pass.of(graph, inside, LINEAR).walk
    rows = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    counts = []
    for example in ([1] * 12, [0, 1, 2] * 4, [2, 0, 0] * 4, [2, 0, 1, 1, 0, 0] * 2,
                    [0, 1, 2, 2, 1, 0, 2, 0, 1, 0, 0, 1]):  # fmt: skip
        whose = torch.tensor(example)
        counts.append(Whose.of(whose, 3).count)
        alone = [walk.lower({graph.output: rows[r : r + 1]}, whose[r : r + 1]) for r in range(12)]
        together = walk.lower({graph.output: rows}, whose)
        assert torch.allclose(together, torch.cat(alone), atol=1e-12)
    assert counts == [1, 3, 3, 6, 12]
    none = walk.lower({graph.output: rows[:0]}, whose[:0])
    assert none.shape == (0,)


def test_a_limit_on_time_stops_a_pass() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [layer for _ in range(6) for layer in (c2(16, 16, 3, padding=1), nn.ReLU())]
        net = nn.Sequential(c2(1, 16, 3, padding=1), *parts, nn.Flatten(), nn.Linear(12544, 2))
    net = net.double().eval().requires_grad_(False)
    x = torch.rand(2, 1, 28, 28, dtype=D)
    graph, inside = graph_of(net, x), InputSet.of(x, Threat(Linf(), 0.3))
    for bound in (LINEAR, Bound("linear", "linear", middle_steps=5)):
        began = time.monotonic()
        with pytest.raises(OutOfTime), limit(0.3), torch.no_grad():
            Pass.of(graph, inside, bound)
        assert time.monotonic() - began < 5.0


def test_the_shortest_of_nested_limits_counts() -> None:
    assert left() == np.inf
    with limit(5.0):
        with limit(100.0), limit(None):
            assert 4.0 < left() <= 5.0
        with limit(0.0):
            assert left() == 0.0
        assert left() > 4.0
    assert left() == np.inf
