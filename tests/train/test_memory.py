"""Out of memory: the batch is halved and training goes on with the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, AWP, TRADES, fit

THREAT = Threat(Linf(), 0.1)


class Small(nn.Module):
    """A network without batch statistics that fits `most` examples at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.largest = most, 0
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3))
        self.double()

    def forward(self, x: Tensor) -> Any:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("no memory left")
        self.largest = max(self.largest, len(x))
        return self.net(x)


@pytest.mark.parametrize("method", [AT(THREAT, 3), TRADES(THREAT, steps=3)], ids=["AT", "TRADES"])
def test_halves_give_the_same_network(
    method: Any, data: Callable[..., Any], settings: Callable[..., Any]
) -> None:
    whole, halved = Small(1000), Small(5)
    for model in (whole, halved):
        list(fit(model, data(), method, settings(held_out=5), threat=THREAT))
    assert whole.largest > 10 and halved.largest <= 5
    for one, other in zip(whole.parameters(), halved.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


def test_weight_perturbations_need_the_whole_batch(
    data: Callable[..., Any], settings: Callable[..., Any]
) -> None:
    with pytest.raises(InputError, match="batch_size"):
        list(fit(Small(5), data(), AWP(AT(THREAT, 3)), settings(held_out=5), threat=THREAT))


def test_a_single_example_that_does_not_fit_ends_the_run(
    data: Callable[..., Any], settings: Callable[..., Any]
) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(fit(Small(0), data(), AT(THREAT, 3), settings(held_out=5), threat=THREAT))
