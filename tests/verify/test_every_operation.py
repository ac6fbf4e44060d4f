"""Every operation of the tables, in a small network, is bounded by every method that takes no
search: affine ones exactly, and no point of the set is beyond what is said of others.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import ModelError
from torchproof.core.threats import Threat, parse
from torchproof.verify import graph_of
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.methods import METHODS
from torchproof.verify.operators import AFFINE, RELAXED

Step = Callable[[Tensor], Tensor]
g = torch.Generator().manual_seed(3)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


FIXED = drawn(2, 4, 4)
RIGHT, LEFT = drawn(4, 3), drawn(3, 4)
WIDE, CUBE = drawn(2, 2, 3, 3), drawn(2, 1, 2, 3, 3)
TURNED = drawn(2, 2, 3, 3)
SIGNS = torch.tensor([0.7, -0.4], dtype=torch.float64).view(2, 1, 1)
SLOPES = torch.tensor([0.2, 0.9], dtype=torch.float64)
MEAN, VAR = drawn(2), drawn(2).abs() + 0.3

# Functions of h (B, 2, 4, 4); the values are between about -2 and 2
MOVED: dict[str, Step] = {
    "view": lambda h: h.view(len(h), 4, 8),
    "reshape": lambda h: h.reshape(len(h), 8, 4),
    "unflatten": lambda h: torch.unflatten(h.flatten(1), 1, (2, 16)),
    "permute": lambda h: h.permute(0, 2, 3, 1),
    "transpose": lambda h: h.transpose(1, 3).contiguous(),
    "unsqueeze": lambda h: h.unsqueeze(1),
    "squeeze": lambda h: h[:, :1].squeeze(1),
    "expand": lambda h: h.unsqueeze(2).expand(-1, -1, 3, -1, -1),
    "slice": lambda h: h[:, :, 1:, ::2],
    "select": lambda h: h[:, 1],
    "cat": lambda h: torch.cat([h, -h, h * 2], 1),
    "stack": lambda h: torch.stack([h, -h], 1),
    "pad": lambda h: F.pad(h, (1, 1, 0, 2), value=0.3),
    "reflected": lambda h: F.pad(h, (1, 1, 1, 1), mode="reflect"),
    "replicated": lambda h: F.pad(h, (1, 1, 1, 1), mode="replicate"),
    "circular": lambda h: F.pad(h, (1, 1, 1, 1), mode="circular"),
    "index": lambda h: h[:, :, [0, 2, 2]],
    "index_select": lambda h: h.index_select(2, torch.tensor([1, 3])),
    "repeat": lambda h: h.repeat(1, 2, 1, 1),
    "tile": lambda h: h.tile(1, 1, 2, 1),
    "roll": lambda h: h.roll(1, 2),
    "flip": lambda h: h.flip(3),
    "narrow": lambda h: h.narrow(2, 1, 2),
    "movedim": lambda h: h.movedim(1, 3),
    "split": lambda h: torch.split(h, 1, 1)[1] + torch.split(h, 1, 1)[0] * 3,
    "chunk": lambda h: h.chunk(2, 2)[0] - h.chunk(2, 2)[1],
    "unbind": lambda h: h.unbind(1)[0],
    "clone": lambda h: h.clone().to(torch.float64),
}
SUMMED: dict[str, Step] = {
    "add": lambda h: torch.add(h, h.flip(2), alpha=-2.0),
    "sub": lambda h: torch.sub(h, h.flip(2), alpha=-2.0),
    "rsub": lambda h: 1.5 - h + FIXED,
    "neg": lambda h: -h,
    "sum": lambda h: h - h.sum((1, 2), keepdim=True),
    "mean": lambda h: h - h.mean((2, 3), keepdim=True),
    "cumsum": lambda h: h.cumsum(2),
    "mul": lambda h: h * FIXED,
    "div": lambda h: h / SIGNS,
    "linear": lambda h: F.linear(h, LEFT, LEFT[:, 0]),
    "matmul": lambda h: h @ RIGHT,
    "matmul left": lambda h: LEFT @ h,
    "bmm": lambda h: torch.bmm(h.flatten(1, 2), RIGHT.expand(h.shape[0], -1, -1)),
    "conv1d": lambda h: F.conv1d(h.flatten(2), WIDE[:, :, 0], stride=2, padding=1),
    "conv2d": lambda h: F.conv2d(h, WIDE, stride=2, padding=1),
    "dilated": lambda h: F.conv2d(h, WIDE[:, :1], padding=2, dilation=2, groups=2),
    "same": lambda h: F.conv2d(h, WIDE, padding="same"),
    "conv3d": lambda h: F.conv3d(h.unsqueeze(1), CUBE, padding=(0, 1, 1)),
    "conv_transpose1d": lambda h: F.conv_transpose1d(h.flatten(2), TURNED[:, :, 0], stride=2),
    "conv_transpose2d": lambda h: F.conv_transpose2d(
        h, TURNED, stride=2, padding=1, output_padding=1, groups=2
    ),
    "avg_pool1d": lambda h: F.avg_pool1d(h.flatten(2), 3, 2, 1),
    "avg_pool2d": lambda h: F.avg_pool2d(h, 3, 2, 1, count_include_pad=False),
    "ceiled": lambda h: F.avg_pool2d(h, 3, 2, 0, ceil_mode=True),
    "adaptive_avg_pool1d": lambda h: F.adaptive_avg_pool1d(h.flatten(2), 3),
    "adaptive_avg_pool2d": lambda h: F.adaptive_avg_pool2d(h, (3, 2)),
    "upsample_nearest2d": lambda h: F.interpolate(h, scale_factor=2),
    "upsample_bilinear2d": lambda h: F.interpolate(h, size=(6, 6), mode="bilinear"),
    "batch_norm": lambda h: F.batch_norm(h, MEAN, VAR, SIGNS.flatten(), MEAN),
}
CURVED: dict[str, Step] = {
    "relu": F.relu,
    "leaky_relu": lambda h: F.leaky_relu(h, 0.2),
    "steeper": lambda h: F.leaky_relu(h, 1.7),
    "falling": lambda h: F.leaky_relu(h, -0.4),
    "prelu": lambda h: F.prelu(h, SLOPES),
    "prelu falling": lambda h: F.prelu(h, SIGNS.flatten()),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "atan": torch.atan,
    "erf": torch.erf,
    "gelu": F.gelu,
    "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "elu": lambda h: F.elu(h, 2.5),
    "celu": lambda h: F.celu(h, 0.6),
    "selu": F.selu,
    "softplus": lambda h: F.softplus(h, 2.0),
    "log_sigmoid": F.logsigmoid,
    "hardtanh": lambda h: F.hardtanh(h, -0.3, 0.4),
    "relu6": lambda h: F.relu6(6 * h),
    "clamp": lambda h: h.clamp(-0.2, 0.5),
    "clamp_min": lambda h: h.clamp_min(0.1),
    "clamp_max": lambda h: h.clamp_max(0.1),
    "hardswish": lambda h: F.hardswish(4 * h),
    "hardsigmoid": lambda h: F.hardsigmoid(4 * h),
    "abs": torch.abs,
    "square": torch.square,
    "cube": lambda h: h**3,
    "power": lambda h: h**4,
    "exp": torch.exp,
    "log": lambda h: torch.log(h.abs() + 0.5),
    "sqrt": lambda h: torch.sqrt(h**2 + 0.5),
    "rsqrt": lambda h: torch.rsqrt(h.relu() + 0.5) + (h.relu() + 0.5) ** -0.5,
    "reciprocal": lambda h: torch.reciprocal(h.sigmoid() + 0.2) + (h.sigmoid() + 0.2) ** -1,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
}
SEVERAL: dict[str, Step] = {
    "quotient": lambda h: h / (h.flip(2).sigmoid() + 0.3),
    "product": lambda h: h * h.flip(2),
    "by itself": lambda h: h * torch.sigmoid(h),
    "maximum": lambda h: torch.maximum(h, h.flip(2)),
    "minimum": lambda h: torch.minimum(h, h.flip(2)),
    "max of two": lambda h: torch.max(h, h.flip(2)) - torch.min(h, FIXED),
    "amax": lambda h: h.amax((1, 3)),
    "amin": lambda h: h - h.amin(2, keepdim=True),
    "max": lambda h: h.max(2).values - h.min(3, keepdim=True).values.flatten(2),
    "logsumexp": lambda h: (
        torch.logsumexp(h, (1, 2)) - torch.logsumexp(h, 3, keepdim=True)[:, 0, :, 0]
    ),
    "glu": lambda h: F.glu(h, 1),
    "var": lambda h: h.var(1, keepdim=True) + h.var((2, 3), keepdim=True, correction=0),
    "std": lambda h: (h.abs() + torch.arange(4.0, dtype=h.dtype)).std(3),
    "l2": lambda h: torch.linalg.vector_norm(h.sigmoid() + 0.5, dim=1),
    "l1": lambda h: torch.linalg.vector_norm(h, 1, (2, 3), keepdim=True),
    "linf": lambda h: torch.linalg.vector_norm(h, math.inf, 3),
    "softmax": lambda h: F.softmax(h, 2),
    "log_softmax": lambda h: F.log_softmax(h, 2),
    "row_max": lambda h: F.max_pool2d(h, 3, 2, 1),
    "max_pool1d": lambda h: F.max_pool1d(h.flatten(2), 3, 2, 1),
    "max pool of a pyramid": lambda h: F.adaptive_max_pool2d(h, (3, 2)),
    "layer_norm": lambda h: F.layer_norm(h, (4,), FIXED[0, 0], MEAN.repeat(2)),
    "group_norm": lambda h: F.group_norm(h, 2, SLOPES, MEAN),
    "instance_norm": lambda h: F.instance_norm(h, weight=SLOPES, bias=MEAN),
    "attention": lambda h: F.scaled_dot_product_attention(h, h.flip(2), h),
    "matrices": lambda h: h @ h.transpose(2, 3),
}
STRAIGHT, OTHERS = list({**MOVED, **SUMMED}.items()), {**CURVED, **SEVERAL}
GROUPS = [dict(STRAIGHT[i : i + 7]) for i in range(0, len(STRAIGHT), 7)]
WHERE = tuple(itertools.product(("linf:0.15", "l2:0.4", "l1:0.8"), (True, False)))
ALL = [n for n, row in METHODS.items() if not (row.timed or row.same or row.extra)]
QUICK = [n for n in ALL if n not in ("best", "alpha-crown")]  # parts of others, or made of them
EXACT = ("crown-ibp", "fast-lin", "crown", "alpha-crown", "alpha-crown-full", "best", "deepz")
"""Where nothing bends: others forget what entries share, or the range of the image."""
POSITIVE = {"attention", "layer_norm", "group_norm", "instance_norm"}
"""Whose rewriting takes a logarithm or a root of what looser methods bound by less than 0."""
STEEP = {"quotient", "product", "by itself", "matrices", "square", "cube", "power", "exp", "log",
         "sqrt", "rsqrt", "reciprocal", "var", "std", "l2", "softsign", "glu",
         "softmax", "log_softmax", "logsumexp", *POSITIVE}  # fmt: skip
"""Of no Lipschitz constant wherever the input is, as they are written."""


class Around(nn.Module):
    """A convolution, perhaps a ReLU, the operation, and two layers."""

    def __init__(self, step: Step, first: bool) -> None:
        super().__init__()
        self.step, self.first, self.conv = step, first, nn.Conv2d(1, 2, 3, 1, 1).double()
        many = step(self.conv(torch.rand(1, 1, 4, 4).double())).numel()
        self.middle, self.last = nn.Linear(many, 4).double(), nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        inner = self.step(h.relu() if self.first else h)
        logits: Tensor = self.last(self.middle(inner.flatten(1)).relu())
        return logits


class Joined(nn.Module):
    """The answers of affine operations, weighed: a network without a bend."""

    def __init__(self, steps: dict[str, Step]) -> None:
        super().__init__()
        self.steps, self.conv = steps, nn.Conv2d(1, 2, 3, 1, 1).double()
        self.last = nn.Linear(self.answers(torch.rand(1, 1, 4, 4).double()).shape[1], 3).double()

    def answers(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return torch.cat([step(h).flatten(1) for step in self.steps.values()], 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.answers(x))
        return logits


@functools.cache
def example(number: int) -> tuple[nn.Module, Tensor, Graph, Threat]:
    """A network, two images, its graph and a threat, which differ from one number to the next;
    first come the groups.
    """
    torch.manual_seed(number)
    threat, first = WHERE[number % len(WHERE)]
    if number < len(GROUPS):
        net: nn.Module = Joined(GROUPS[number])
    else:
        net = Around(list(OTHERS.values())[number - len(GROUPS)], first)
    net.eval().requires_grad_(False)
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    return net, x, graph_of(net, x), parse(threat)


def least(net: nn.Module, x: Tensor, rows: Tensor, threat: Threat) -> Tensor:
    """(B, rows) the least margins at random points, random corners, and corners that gradients
    name.
    """
    noise = torch.randn(len(x), 600, *x.shape[1:], dtype=torch.float64)
    noise *= torch.tensor([0.05, 0.5, 5.0]).repeat(200).view(1, -1, 1, 1, 1)
    copies = x[:, None].expand_as(noise).flatten(0, 1)
    ball = InputSet.of(copies, threat).ball
    found = []
    for d in (ball.project(noise.flatten(0, 1)), ball.maximiser(noise.flatten(0, 1))):
        margins = torch.einsum("bkc,bnc->bnk", rows, net(copies + d).view(len(x), -1, 3))
        found.append(margins.amin(1))
    for k in range(rows.shape[1]):
        at = x
        for _ in range(6):
            at = worst(net, x, at, rows[:, k], threat)
            found.append(torch.einsum("bkc,bc->bk", rows, net(at)))
    return torch.stack(found).amin(0)


def worst(net: nn.Module, x: Tensor, at: Tensor, row: Tensor, threat: Threat) -> Tensor:
    """Where the margin that is linear as at `at` is least."""
    at = at.detach().requires_grad_(True)
    (grad,) = torch.autograd.grad((row * net(at)).sum(), at)
    return (x + InputSet.of(x, threat).ball.maximiser(-grad)).detach()


@pytest.mark.parametrize("number", range(len(GROUPS)), ids=["-".join(group) for group in GROUPS])
def test_affine_operations_are_bounded_exactly(number: int) -> None:
    net, x, graph, threat = example(number)
    y = net(x).argmax(1)
    assert torch.allclose(graph.run(x)[graph.output], net(x), rtol=0, atol=1e-9)
    rows = rows_of(y, 3).double()
    ends = [worst(net, x, x, rows[:, k], threat) for k in range(2)]
    exact = torch.stack([(rows[:, k] * net(at)).sum(1) for k, at in enumerate(ends)], 1)
    for method in ALL:
        lower = METHODS[method](graph, x, y, threat).lower
        assert bool((lower <= exact + 1e-9).all()), (method, lower, exact)
        if method in EXACT:
            assert torch.allclose(lower, exact, atol=1e-6), (method, lower, exact)


@pytest.mark.parametrize("name", OTHERS)
def test_no_point_is_beyond_a_bound(name: str) -> None:
    net, x, graph, threat = example(len(GROUPS) + list(OTHERS).index(name))
    y = net(x).argmax(1)
    assert torch.allclose(graph.run(x)[graph.output], net(x), rtol=0, atol=1e-9)
    reached = least(net, x, rows_of(y, 3).double(), threat)
    for method in QUICK:
        try:
            lower = METHODS[method](graph, x, y, threat).lower
        except ModelError as error:
            allowed = POSITIVE if method == "hybrid" else STEEP if method == "op-norm" else ()
            assert name in allowed, (method, str(error))
            continue
        assert bool((lower <= reached + 1e-9).all()), (method, lower, reached)
        assert bool(lower.isfinite().all()), method


UNTRACED = {"_to_copy", "alias", "chunk", "constant_pad_nd", "contiguous", "detach", "mm",
            "reshape", "split_with_sizes", "t", "to", "unflatten"}  # fmt: skip
"""Other names of what is bounded above, into which torch.export turns them."""


def test_there_is_one_of_every_kind() -> None:
    """In a network for each table: tracing four takes less than tracing one for each operation."""
    kinds = {node.kind for node in example(len(GROUPS))[2].nodes}
    for steps in (MOVED, SUMMED, CURVED, SEVERAL):
        net = Joined(steps).eval().requires_grad_(False)
        kinds |= {node.kind for node in graph_of(net, torch.rand(2, 1, 4, 4).double()).nodes}
    assert {*AFFINE, *RELAXED} - kinds == UNTRACED
