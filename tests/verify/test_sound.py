"""Bounds that hold in real arithmetic, compared with exact rational numbers."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, ModelError, UnknownName
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.threats import Threat, parse
from torchproof.verify import bounded, graph_of
from torchproof.verify.bounds import BOUNDS, CROWN, IBP
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.interval import Interval
from torchproof.verify.methods import METHODS as VERIFIERS
from torchproof.verify.relax import Curve, Hinge, Largest, Product
from torchproof.verify.sound import sound_margins, uncovered
from torchproof.verify.sound.lines import exact_lines, exact_range
from torchproof.verify.sound.passes import Pass
from torchproof.verify.sound.walk import Shown
from torchproof.verify.window import Places

Rows = list[list[Fraction]]


def exact(t: Tensor) -> list[Fraction]:
    return [Fraction(v) for v in t.double().flatten().tolist()]


def matrix(t: Tensor) -> Rows:
    return [exact(row) for row in t]


def affine(w: Rows, b: list[Fraction], z: list[Fraction]) -> list[Fraction]:
    return [sum((a * v for a, v in zip(row, z, strict=True)), at)
            for row, at in zip(w, b, strict=True)]  # fmt: skip


def drawn(seed: int, *sizes: int, scale: float = 1.0) -> nn.Sequential:
    g = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for n, m in pairwise(sizes):
        layer = nn.Linear(n, m).double()
        layer.weight.data = scale * torch.randn(m, n, generator=g, dtype=torch.float64)
        layer.bias.data = torch.randn(m, generator=g, dtype=torch.float64)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval().requires_grad_(False)


def redraw(net: nn.Sequential, seed: int, scale: float) -> None:
    """Other weights in the same places, so that a graph stays that of the network."""
    for old, new in zip(net.parameters(), drawn(seed, *_sizes(net), scale=scale).parameters(),
                        strict=True):  # fmt: skip
        old.copy_(new)


def _sizes(net: nn.Sequential) -> list[int]:
    layers = [m for m in net if isinstance(m, nn.Linear)]
    return [layers[0].in_features, *(m.out_features for m in layers)]


def lowest_of_affine(w: Rows, b: list[Fraction], low: list[Fraction], high: list[Fraction]) -> Rows:
    """The exact least margins of logits w x + b of class 0 over a box, one row each."""
    found = []
    for row, at in zip(w[1:], b[1:], strict=True):
        total = b[0] - at
        for a, c, lo, hi in zip(w[0], row, low, high, strict=True):
            total += min((a - c) * lo, (a - c) * hi)
        found.append([total])
    return found


@pytest.mark.parametrize("scale", [1.0, 1e8])
def test_affine_margins_are_within_their_error_of_the_exact_ones(scale: float) -> None:
    x = torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eps = 0.1
    low = [max(Fraction(0), v - Fraction(eps)) for v in exact(x)]
    high = [min(Fraction(1), v + Fraction(eps)) for v in exact(x)]
    net = drawn(0, 12, 4)
    graph, layer = graph_of(net, x), net[1]
    assert isinstance(layer, nn.Linear)
    for seed in range(6):
        redraw(net, seed, scale)
        true = lowest_of_affine(matrix(layer.weight), exact(layer.bias), low, high)
        for method in ("ibp", "crown", "deepz", "hybrid"):
            found = sound_margins(graph, x, torch.tensor([0]), Threat(Linf(), eps), method)
            for value, error, (least,) in zip(found.lower[0], found.error[0], true, strict=True):
                assert abs(Fraction(float(value)) - least) <= Fraction(float(error))
                assert float(error) < 1e-11 * scale  # and it says something


@pytest.mark.parametrize("seed", range(2))
def test_every_step_of_crown_holds_exactly(seed: int) -> None:
    """Intervals, lines, and the walk back from the margins, replayed in rational numbers."""
    net = drawn(seed, 6, 7, 6, 3)
    x = torch.rand(1, 1, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    graph, eps, y = graph_of(net, x), 0.3, torch.tensor([1])
    passed = Pass.of(graph, InputSet.of(x, Threat(Linf(), eps)), CROWN)
    low = [max(Fraction(0), v - Fraction(eps)) for v in exact(x)]
    high = [min(Fraction(1), v + Fraction(eps)) for v in exact(x)]
    weights = [(matrix(m.weight), exact(m.bias)) for m in net if isinstance(m, nn.Linear)]
    held = [(n.refs[0], passed.walk.lines[n.name].lines) for n in graph.nodes if n.kind == "relu"]
    lines = [tuple(map(exact, (s.low[0], s.high[0], s.low_at, s.high_at))) for _, s in held]

    def back(row: list[Fraction], layers: int) -> Fraction:
        total = Fraction(0)
        for i in reversed(range(layers)):
            w, b = weights[i]
            total += sum((a * v for a, v in zip(row, b, strict=True)), Fraction(0))
            row = [sum((a * w[k][j] for k, a in enumerate(row)), Fraction(0))
                   for j in range(len(w[0]))]  # fmt: skip
            if i:
                below, above, below_at, above_at = lines[i - 1]
                total += sum((a * (below_at[j] if a > 0 else above_at[j])
                              for j, a in enumerate(row)), Fraction(0))  # fmt: skip
                row = [a * (below[j] if a > 0 else above[j]) for j, a in enumerate(row)]
        return total + sum((min(a * lo, a * hi) for a, lo, hi in zip(row, low, high, strict=True)),
                           Fraction(0))  # fmt: skip

    for layer, (name, _) in enumerate(held):
        z = passed.intervals[name]
        for j, (start, end) in enumerate(zip(exact(z.lower), exact(z.upper), strict=True)):
            unit = [Fraction(k == j) for k in range(len(weights[layer][1]))]
            assert start <= back(unit, layer + 1)
            assert end >= -back([-v for v in unit], layer + 1)
            below, above, below_at, above_at = (part[j] for part in lines[layer])
            for v in (start, end, *([Fraction(0)] if start < 0 < end else [])):
                assert below * v + below_at <= max(v, Fraction(0)) <= above * v + above_at
    found = sound_margins(graph, x, y, Threat(Linf(), eps), "crown")
    for value, error, other in zip(found.lower[0], found.error[0], (0, 2), strict=True):
        row = [Fraction(0)] * 3
        row[1], row[other] = Fraction(1), Fraction(-1)
        assert abs(Fraction(float(value)) - back(row, 3)) <= Fraction(float(error))


def test_no_certificate_rests_on_rounding() -> None:
    """Differences of numbers around 1e8, margins around 1e-9: float64 alone certifies networks that
    are wrong about the image itself.
    """
    x = torch.rand(1, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    net, fooled, about = drawn(0, 4, 6, 2), 0, Threat(Linf(), 1e-30)
    graph, first, last = graph_of(net, x), net[1], net[3]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    for seed in range(40):
        redraw(net, seed, 1e4)
        hidden = [max(v, Fraction(0)) for v in affine(matrix(first.weight), exact(first.bias),
                                                      exact(x))]  # fmt: skip
        last.bias.zero_()
        one, two = affine(matrix(last.weight), exact(last.bias), hidden)
        last.bias[1] = np.nextafter(float(one - two), np.inf)
        one, two = affine(matrix(last.weight), exact(last.bias), hidden)
        assert one < two  # class 1, by very little
        naive = bounded(graph, x, torch.tensor([0]), about, "crown").lower
        fooled += bool(naive > 0)
        for method in ("crown", "deepz", "hybrid"):
            found = sound_margins(graph, x, torch.tensor([0]), about, method)
            assert not bool(found.lower - found.error > 0)
    assert fooled >= 3


@pytest.fixture(scope="module")
def mixed() -> tuple[nn.Module, Graph, Tensor, Tensor]:
    """Normalisation, padding, residual sums, maxima and batch norm."""
    torch.manual_seed(0)
    net, x = Mixed(), torch.rand(2, 2, 6, 6)
    with torch.no_grad():
        net.train()(torch.rand(40, 2, 6, 6))
    net.double().eval().requires_grad_(False)
    return net, graph_of(net, x.double()), x, torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("norm", "eps", "methods"),
    [(Linf(), 0.02, (*BOUNDS, "deepz", "hybrid")), (L2(), 0.1, ("crown",)),
     (L1(), 0.3, ("fast-lin",)), (L0(), 2.0, ("ibp", "crown"))],
)  # fmt: skip
def test_what_is_left_of_the_bound_is_nearly_all_of_it(
    mixed: tuple[nn.Module, Graph, Tensor, Tensor], norm: Norm, eps: float,
    methods: tuple[str, ...],
) -> None:  # fmt: skip
    """And nothing that is tried in the set has a smaller margin."""
    net, graph, x, y = mixed
    about = Threat(norm, eps)
    ball = InputSet.of(x.double(), about).ball
    tried = [ball.project(ball.zero() + eps * torch.randn(2, 2, 6, 6, dtype=torch.float64))
             for _ in range(20)] + [ball.zero()]  # fmt: skip
    z = torch.stack([net(x.double() + delta) for delta in tried])
    own = z[:, torch.arange(2), y]
    least = torch.stack([own - z[..., t] for t in range(3)], -1).amin(0)
    others = [[t for t in range(3) if t != label] for label in y.tolist()]
    for method in methods:
        found = sound_margins(graph, x, y, about, method)
        usual = VERIFIERS[method](graph, x.double(), y, about).lower
        sure = found.lower - found.error
        assert bool((found.error > 0).all()) and float(found.error.max()) < 1e-9
        assert float((usual - sure).abs().max()) < 1e-8
        assert all(bool((sure[i] <= least[i, t]).all()) for i, t in enumerate(others))


class Mixed(nn.Module):
    def __init__(self, features: int = 27) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3, 1, 1), nn.Conv2d(3, 3, 3, 1, 1)
        self.norm, self.c = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, 1, 1, bias=False)
        self.pool, self.act, self.f = nn.MaxPool2d(2), nn.LeakyReLU(0.1), nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a((x - 0.4) / 0.3))
        h = torch.relu(self.norm(self.c(torch.clamp(h, -0.5, 1.0))) + h)
        logits: Tensor = self.f(self.act(self.pool(h) - 0.5).flatten(1))
        return logits


class Gated(nn.Module):
    """Products of features, of which each is read by many."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.f = nn.Linear(9, 5), nn.Linear(9, 4), nn.Linear(20, 3)
        self.register_buffer("spread", torch.full((4,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x.flatten(1)), self.b(x.flatten(1)) * (1 / self.get_buffer("spread"))
        logits: Tensor = self.f((a.unsqueeze(2) * b.unsqueeze(1)).flatten(1).abs())
        return logits


def test_products_of_features() -> None:
    torch.manual_seed(0)
    net, x, y = Gated().eval(), torch.rand(2, 1, 3, 3), torch.tensor([0, 1])
    graph = graph_of(net.double(), x.double())
    (product,) = (n for n in graph.nodes if n.kind == "mul" and len(graph.inputs(n)) == 2)
    passed = Pass.of(graph, InputSet.of(x.double(), parse("linf:0.05")), CROWN)
    assert set(passed.doubts) and product.name in passed.walk.doubt
    found = sound_margins(graph, x, y, parse("linf:0.05"), "best")
    usual = bounded(graph, x.double(), y, parse("linf:0.05"), "best").lower
    assert float((usual - found.lower + found.error).abs().max()) < 1e-10
    near = (x + 0.05 * torch.randn(500, 1, 3, 3).sign()[:, None]).clamp(0, 1).double()
    z = net(near.flatten(0, 1)).unflatten(0, (500, 2))
    for i in range(2):
        others = [t for t in range(3) if t != int(y[i])]
        least = (z[:, i, int(y[i]), None] - z[:, i, others]).amin(0)
        assert bool((found.lower[i] - found.error[i] <= least).all())


def test_steps_in_float32_are_refused() -> None:
    class Narrow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).float() @ torch.ones(4, 2)

    x = torch.rand(1, 1, 2, 2)
    with pytest.raises(ModelError, match="_to_copy"):
        sound_margins(Narrow().eval(), x, torch.tensor([0]), parse("linf:0.1"))


def test_windows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding, offsets beyond the map and residual sums, through windows and through whole maps."""
    torch.manual_seed(1)
    x, y, used = torch.rand(1, 2, 12, 12), torch.tensor([0]), []
    net = Mixed(108).double().eval().requires_grad_(False)
    graph, around = graph_of(net, x.double()), Shown.around

    def counted(self: Shown, walk: object, places: Places) -> object:
        used.append(self.name)
        return around(self, walk, places)

    monkeypatch.setattr(Shown, "around", counted)
    through = sound_margins(graph, x, y, parse("linf:0.02"), "crown")
    assert len(set(used)) >= 2
    monkeypatch.setattr("torchproof.verify.windows.WORTH", 0.0)
    used.clear()
    whole = sound_margins(graph, x, y, parse("linf:0.02"), "crown")
    assert not used
    assert torch.allclose(through.lower, whole.lower, rtol=0, atol=1e-9)
    assert torch.allclose(through.error, whole.error, rtol=1e-3, atol=0)


def test_lines_hold_exactly_at_the_ends() -> None:
    g = torch.Generator().manual_seed(0)
    start = torch.randn(200, 3, generator=g, dtype=torch.float64)
    end = start + torch.rand(200, 3, generator=g, dtype=torch.float64) ** 4
    one = Interval(start, end)
    for slope in (0.0, 0.3):
        lines = exact_lines(Hinge(slope), [one])
        parts = map(exact, (start, end, lines.low[0], lines.low_at, lines.high[0], lines.high_at))
        for lo, hi, k, at, above, above_at in zip(*parts, strict=True):
            for z in (lo, hi, Fraction(0)):
                if lo <= z <= hi:
                    value = max(z, Fraction(slope) * z)
                    assert k * z + at <= value <= above * z + above_at
    for curve in (Curve(partial(torch.clamp, min=-0.5, max=0.25), (-0.5, 0.25)),
                  Curve(torch.abs, (0.0,))):  # fmt: skip
        lines, box = exact_lines(curve, [one]), exact_range(curve, [one])
        ends = (start, end, *(torch.full_like(start, b).clamp(start, end) for b in curve.breaks))
        for z in ends:
            parts = map(exact, (z, curve.function(z), lines.low[0], lines.low_at, lines.high[0],
                                lines.high_at, box.lower, box.upper))  # fmt: skip
            for v, value, k, at, above, above_at, lo, hi in zip(*parts, strict=True):
                assert k * v + at <= value <= above * v + above_at and lo <= value <= hi
    most = exact_lines(Largest(), [one])
    for row in range(200):
        lo, hi, a = (exact(t[row]) for t in (start, end, most.high[0]))
        at = Fraction(float(most.high_at[row]))
        for i in range(3):  # entry i is the maximum, the others are as low as they go
            corner = [hi[j] if j == i else lo[j] for j in range(3)]
            assert max(corner) <= at + sum(c * v for c, v in zip(a, corner, strict=True))
    other = Interval(end, end + 0.1)
    planes, box = exact_lines(Product(), [one, other]), exact_range(Product(), [one, other])
    for x in (start, end):
        for y in (other.lower, other.upper):
            for i, (v, w) in enumerate(zip(exact(x), exact(y), strict=True)):
                below, above = (
                    Fraction(float(s[0].flatten()[i])) * v + Fraction(float(s[1].flatten()[i])) * w
                    + Fraction(float(c.flatten()[i]))
                    for s, c in ((planes.low, planes.low_at), (planes.high, planes.high_at))
                )  # fmt: skip
                assert below <= v * w <= above
                assert Fraction(float(box.lower.flatten()[i])) <= v * w
                assert Fraction(float(box.upper.flatten()[i])) >= v * w


def test_intervals_hold_exactly_in_deep_networks() -> None:
    net = drawn(3, 5, 9, 9, 4, scale=3.0)
    x = torch.rand(1, 1, 1, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    graph = graph_of(net, x)
    passed = Pass.of(graph, InputSet.of(x, Threat(Linf(), 0.2)), IBP)
    z = [(max(Fraction(0), v - Fraction(0.2)), min(Fraction(1), v + Fraction(0.2)))
         for v in exact(x)]  # fmt: skip
    for node in graph.nodes:
        if node.kind == "relu":
            z = [(max(lo, Fraction(0)), max(hi, Fraction(0))) for lo, hi in z]
        if node.kind != "linear":
            continue
        w, b = (graph.constants[name] for name in node.refs[1:])
        z = [(sum((min(a * lo, a * hi) for a, (lo, hi) in zip(row, z, strict=True)), at),
              sum((max(a * lo, a * hi) for a, (lo, hi) in zip(row, z, strict=True)), at))
             for row, at in zip(matrix(w), exact(b), strict=True)]  # fmt: skip
        held = passed.intervals[node.name]
        for (lo, hi), low, high in zip(z, exact(held.lower), exact(held.upper), strict=True):
            assert low <= lo and hi <= high


def test_what_is_not_covered_is_refused_all_of_it() -> None:
    x, y = torch.rand(1, 1, 2, 2), torch.tensor([0])
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 3), nn.GELU())
    net.eval()
    with pytest.raises(ModelError, match=r"sigmoid at .*gelu at"):
        sound_margins(net, x, y, parse("linf:0.1"))
    assert [node.kind for node in uncovered(graph_of(net.double(), x.double()), x)] == [
        "sigmoid", "gelu"
    ]  # fmt: skip
    relu = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    with pytest.raises(UnknownName, match="crown"):
        sound_margins(relu, x, y, parse("linf:0.1"), "crow")
    with pytest.raises(InputError, match="float64"):
        sound_margins(graph_of(relu, x), x, y, parse("linf:0.1"))


@pytest.mark.parametrize(
    ("name", "file", "threat", "method", "count"),
    [
        ("mnist_kw_small", "mnist", "linf:0.1", "crown", 4),
        ("mnist_mlp_6x100", "mnist", "linf:0.02", "crown", 3),
        ("oval_base_kw", "cifar10", "linf:0.01", "crown-ibp", 4),
    ],
)
def test_trained_networks_keep_their_certificates(
    networks: Callable[[str], nn.Module], data_dir: Path, name: str, file: str, threat: str,
    method: str, count: int,
) -> None:  # fmt: skip
    with np.load(data_dir / f"{file}.npz") as stored:
        x = torch.from_numpy(stored["x_test"][:count]).permute(0, 3, 1, 2).float() / 255
        y = torch.from_numpy(stored["y_test"][:count]).long()
    net = networks(name).double()
    graph = graph_of(net, x.double())
    usual = bounded(graph, x.double(), y, parse(threat), method).lower
    found = sound_margins(graph, x, y, parse(threat), method)
    assert torch.equal((usual > 0).all(1), (found.lower - found.error > 0).all(1))
    assert float(found.error.max()) < 1e-7
