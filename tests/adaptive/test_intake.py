"""What `adapt` refuses in words, before any attack is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.adaptive.adapt import adapt
from torchproof.adaptive.intake import refuse
from torchproof.adaptive.predictor import DefendedPredictor
from torchproof.core.errors import InputError, ModelError


class Answering(nn.Module):
    """A network whose answers are made into something else."""

    def __init__(self, net: nn.Module, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.net(x))


def together(z: Tensor) -> Tensor:
    if len(z) < 2:
        raise RuntimeError("needs two images")
    return z


MODELS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "batch of one": (together, r"fails for one \(needs two images\)"),
    "squeezed": (lambda z: z.squeeze(), "fails for one"),
    "tuple": (lambda z: (z,), "tuple"),
    "table without logits": (lambda z: {"scores": z}, "a table of scores"),
    "a score for each class": (lambda z: {"logits": z, "reject": z}, "scores of rejection"),
    "one class": (lambda z: z[:, :1], r"logits of shape \(2, 1\)"),
    "undefined": (lambda z: z * torch.nan, "NaN"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("defended", [False, True])
def test_answers_that_nobody_can_mean(
    name: str, defended: bool, net: nn.Module, images: Any, threat: Any
) -> None:
    change, said = MODELS[name]
    model: nn.Module = Answering(net, change)
    model = DefendedPredictor(model) if defended and not name.startswith("table") else model
    with pytest.raises(ModelError, match=said):
        adapt(model, images.x, images.y, threat, 100)


def test_data_that_do_not_fit(net: nn.Module, images: Any, held: Any, threat: Any) -> None:
    x, y = images
    with pytest.raises(InputError, match="label 10"):
        adapt(net, x, torch.full_like(y, 10), threat, 100)
    for references, said in (
        ((torch.rand(20, 1, 9, 9), torch.arange(20) % 10), "references of shape"),
        ((held.x, held.y[:3]), "labels of shape"),
        ((held.x, held.y + 5), "label 14"),
    ):
        with pytest.raises(InputError, match=said):
            adapt(net, x, y, threat, 100, references=references)
    with pytest.raises(InputError, match="no naive attack"):
        adapt(net, x, y, threat, 100, naive=())


class Writing(nn.Module):
    """Draws a number at each call, and writes to its input."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5).add_(0.01 * torch.rand(()))
        found: Tensor = self.net(x)
        return found


def test_looking_leaves_everything_as_it_was(net: nn.Module, images: Any) -> None:
    x, before = images.x.clone(), torch.get_rng_state()
    refuse(Writing(net).train(), x, images.y, (x[:0], images.y[:0]))
    assert torch.equal(x, images.x) and torch.equal(before, torch.get_rng_state())
