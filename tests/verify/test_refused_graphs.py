"""Networks that cannot be bounded as they run are refused, and not bounded as something else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError
from torchproof.core.threats import parse
from torchproof.verify import graph_of, margins

X = torch.rand(2, 4, dtype=torch.float64)


class Between(nn.Module):
    """A step between two layers."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.step = nn.Linear(4, 6), nn.Linear(6, 3), step

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.step(self.first(x)))
        return logits


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
