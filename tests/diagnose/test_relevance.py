"""Relevance of channels on networks where it is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, UnknownName
from torchproof.diagnose import channel_relevance


class Pooled(nn.Module):
    """Maps, their means, a linear head: the relevance is the head's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.maps(x).mean((2, 3)))
        return answer


@pytest.fixture
def case() -> tuple[Pooled, Tensor, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, x, moved = Pooled().double().eval(), torch.rand(8, 1, 4, 4), torch.rand(8, 1, 4, 4)
    return net, x.double(), moved.double(), torch.tensor([0, 0, 1, 1, 1, 0, 1, 0])


def test_relevance_is_the_weight_of_a_linear_head(
    case: tuple[Pooled, Tensor, Tensor, Tensor],
) -> None:
    net, x, moved, y = case
    found = channel_relevance(net, "maps", x, moved, y, slots=3)
    assert torch.allclose(found.relevance[:2], net.head.weight[:2])
    assert torch.equal(found.positive[:2], net.head.weight[:2] > 0)
    assert found.count.tolist() == [4, 4, 0] and found.clean[2].isnan().all()
    assert all(p.grad is None for p in net.parameters())


def test_activations_are_means_over_the_images_of_a_class(
    case: tuple[Pooled, Tensor, Tensor, Tensor],
) -> None:
    net, x, moved, y = case
    found = channel_relevance(net, "maps", x, moved, y)
    with torch.no_grad():
        for images, answer in ((x, found.clean), (moved, found.adversarial)):
            for k in (0, 1):
                assert torch.allclose(answer[k], net.maps(images[y == k]).mean((0, 2, 3)))


def test_correlation_and_share(case: tuple[Pooled, Tensor, Tensor, Tensor]) -> None:
    net, x, moved, y = case
    found = channel_relevance(net, "maps", x, moved, y)
    for adversarial, active in ((False, found.clean), (True, found.adversarial)):
        for k in (0, 1):
            pair = torch.stack([active[k], found.relevance[k]])
            got = found.correlation(adversarial)[k]
            assert torch.allclose(got, torch.corrcoef(pair)[0, 1])
            against = active[k][found.relevance[k] <= 0].sum() / active[k].sum()
            assert torch.allclose(found.against(adversarial)[k], against)


def test_layers_that_answer_no_maps_are_refused(
    case: tuple[Pooled, Tensor, Tensor, Tensor],
) -> None:
    net, x, moved, y = case
    with pytest.raises(InputError, match="maps"):
        channel_relevance(net, "head", x, moved, y)
    with pytest.raises(UnknownName, match="map"):
        channel_relevance(net, "map", x, moved, y)
