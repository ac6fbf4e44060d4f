"""Activations and derivatives of any layer, by its dotted name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchproof.concept import activations, derivatives, gradients, layer_names
from torchproof.core.errors import InputError, ModelError, UnknownName


class Net(nn.Module):
    """Layers in a row, one that runs twice, one that nothing reads, one that answers with a pair;
    an activation that writes into what came before it.
    """

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True))
        self.twice = nn.Tanh()
        self.pair = Pair()
        self.unread = nn.Flatten()
        self.fc = nn.Linear(12, 4)
        self.never = nn.Linear(2, 2)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=g) / 2

    def forward(self, x: Tensor) -> Tensor:
        a = self.twice(self.body(x))
        self.unread(a)
        logits: Tensor = self.fc(self.pair(self.twice(a))[0].flatten(1))
        return logits


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x, 0


@pytest.fixture
def net() -> Net:
    return Net().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_activations_are_those_of_the_layer(net: Net, x: Tensor) -> None:
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = activations(net, x, "body.0", batch_size=3)
    assert torch.allclose(found, net.body[0](x).flatten(1), atol=1e-6)
    assert (found < 0).any(), "the ReLU that writes in place comes later"
    assert net.training and all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    net.eval()
    assert torch.allclose(activations(net, x, "body"), net.body(x).flatten(1), atol=1e-6)


def test_names_of_layers(net: Net, x: Tensor) -> None:
    assert layer_names(net, x) == ("body.0", "body.1", "body.2", "body", "unread", "fc")


def test_derivatives_against_differences(net: Net, x: Tensor) -> None:
    net = net.double().eval()
    x, v = x.double(), torch.randn(2, 12, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    found = derivatives(net, x, classes, "body", v, batch_size=4)

    def rest(a: Tensor) -> Tensor:
        logits: Tensor = net.fc(a.view(-1, 3, 2, 2).tanh().tanh().flatten(1))
        return logits[torch.arange(7), classes]

    a, h = net.body(x).flatten(1), 1e-5
    expected = torch.stack([(rest(a + h * w) - rest(a - h * w)) / (2 * h) for w in v], 1)
    assert torch.allclose(found, expected, atol=1e-8)
    single = torch.cat(list(gradients(net, x, 2, "fc")))
    assert torch.equal(single, nn.functional.one_hot(torch.tensor(2), 4).double().expand(7, 4))


@pytest.mark.parametrize(
    ("layer", "error", "words"),
    [
        ("body.3", UnknownName, "body"),
        ("", UnknownName, "layer"),
        ("twice", ModelError, "2 times"),
        ("never", ModelError, "0 times"),
        ("pair", ModelError, "tuple"),
    ],
)
def test_other_layers_are_refused(
    net: Net, x: Tensor, layer: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        activations(net, x, layer)


def test_what_has_no_derivative_is_refused(net: Net, x: Tensor) -> None:
    with pytest.raises(ModelError, match="no logit depends"):
        list(gradients(net, x, 0, "unread"))
    with pytest.raises(InputError, match="class 4"):
        list(gradients(net, x, 4, "body"))
    with pytest.raises(InputError, match=r"\(R, 12\)"):
        derivatives(net, x, 0, "body", torch.zeros(1, 3))
    with pytest.raises(InputError):
        activations(net, x * 255, "body")
