"""Networks that cannot be bounded as they run are refused, and not bounded as something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import ModelError
from torchproof.core.threats import parse
from torchproof.verify import graph_of, margins
from torchproof.verify.rewrite import REWRITES
from torchproof.verify.steps import Steps

X = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """A step between two layers."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.step = nn.Linear(4, 6), nn.Linear(6, 3), step

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.step(self.first(x)))
        return logits


class Step(nn.Module):
    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)


def net(step: Callable[[Tensor], Tensor]) -> nn.Module:
    return Between(step).double().eval().requires_grad_(False)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_detour_through_fewer_bits_is_not_the_identity(kind: torch.dtype) -> None:
    with pytest.raises(ModelError, match="_to_copy"):
        graph_of(net(lambda z: z.to(kind).double()), X)


def test_an_axis_too_many_is_dropped_for_one_input() -> None:
    with pytest.raises(ModelError, match="about one input"):
        graph_of(net(lambda z: z[:, :, None].relu().squeeze()), X)


def test_limits_of_every_entry() -> None:
    ends = torch.linspace(-1, 0, 6, dtype=torch.float64)
    model = net(lambda z: z.clamp(ends, -ends))
    with pytest.raises(ModelError, match="entry to entry"):
        margins(model, X, torch.zeros(2, dtype=torch.long), parse("linf:0.1"))


def test_a_branch_is_named_by_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    """And nothing else is said, though export prints and logs all it has seen."""

    def step(z: Tensor) -> Tensor:
        return z if z.sum() > 0 else -z

    with pytest.raises(ModelError, match=r"return z if z\.sum\(\) > 0 else -z', \S+, line \d+"):
        graph_of(net(step), X)
    assert capfd.readouterr() == ("", "")


def test_answers_that_are_no_numbers() -> None:
    with pytest.raises(ModelError, match="NaN"):
        graph_of(net(lambda z: z * torch.nan), X)


def test_a_wrong_rule_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What operations are rewritten to answers as they do, or is not bounded at all."""

    def wrong(steps: Steps, x: Any) -> bool:
        steps.add("sigmoid", torch.sigmoid, x)
        return True

    assert graph_of(net(torch.tanh), X)
    monkeypatch.setitem(REWRITES, "tanh", wrong)
    with pytest.raises(ModelError, match="a rule of torchproof is wrong"):
        graph_of(net(torch.tanh), X)


@pytest.mark.filterwarnings("ignore:var")
@pytest.mark.parametrize(
    ("step", "named"),
    [
        (lambda z: (z - z.max()).softmax(1), "max at"),
        (lambda z: z - z.amin(), "others of the batch"),
        (lambda z: z.max(1, keepdim=True)[1] * z, "max of indices"),
        (lambda z: z.var(1, correction=6, keepdim=True) + z, "correction 6"),
        (lambda z: F.max_pool1d(z[:, None, :2], 2, 1, 1, 3).flatten(1).relu(), "padding alone"),
        (lambda z: z ** float("inf"), "pow"),
    ],
    ids=["max", "amin", "argmax", "var", "pool", "pow"],
)
def test_what_no_rule_is_meant_for(step: Callable[[Tensor], Tensor], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        graph_of(nn.Sequential(nn.Linear(4, 6), Step(step)).double().eval(), X / 10)


class Mixing(nn.Module):
    """A softmax whose intervals are wide: after a few of them those of the deviation overflow."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, h: Tensor) -> Tensor:
        own: Tensor = self.norm(h + self.after(torch.softmax(4 * self.before(h), 1)))
        return own


def test_what_some_bounds_lose_others_keep() -> None:
    torch.manual_seed(1)
    deep = nn.Sequential(nn.Linear(4, 8), *(Mixing() for _ in range(4)), nn.Linear(8, 3))
    deep, threat = deep.eval().requires_grad_(False), parse("linf:0.02")
    x = torch.rand(2, 4)
    y = deep(x).argmax(1)
    with pytest.raises(ModelError, match="layer_norm"):
        margins(deep, x, y, threat, method="ibp")
    alone, best = (margins(deep, x, y, threat, method=m) for m in ("crown", "best"))
    assert bool((best >= alone).all()) and bool(best.isfinite().all())
    near = (x + 0.04 * torch.rand(500, *x.shape) - 0.02).clamp(0, 1)
    z = deep(near.flatten(0, 1)).view(500, 2, 3)
    others = torch.tensor([[t for t in range(3) if t != int(own)] for own in y])
    reached = z.gather(2, y.expand(500, 2)[..., None]) - z.gather(2, others.expand(500, 2, 2))
    assert bool((best <= reached.amin(0) + 1e-5).all())


def test_a_reason_is_given_where_all_bounds_lose_it() -> None:
    """0.001, which no bound of a ReLU less itself makes out."""
    model = net(lambda z: torch.log(z.relu() - F.relu(z) + 1e-3))
    with pytest.raises(ModelError, match="defined above 0"):
        margins(model, X, torch.zeros(2).long(), parse("linf:1"))


def test_a_bound_does_not_depend_on_the_company() -> None:
    """Of images whose intervals leave the domain of a logarithm, and of images whose do not."""
    torch.manual_seed(3)
    ends = net(lambda z: torch.log(2 * z + 2.6))
    x, threat = torch.rand(8, 4).double(), parse("linf:0.12")
    y, alone, lost = ends(x).argmax(1), [], 0
    for one in range(8):
        try:
            alone.append(margins(ends, x[one : one + 1], y[one : one + 1], threat, method="ibp"))
        except ModelError:
            alone.append(torch.full((1, 2), -torch.inf, dtype=torch.float64))
            lost += 1
    assert 0 < lost < 8
    found = margins(ends, x, y, threat, method="ibp")
    assert torch.allclose(found, torch.cat(alone), rtol=0, atol=1e-12)
