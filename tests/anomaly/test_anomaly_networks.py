"""Shapes and starts of the autoencoders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchproof.anomaly.networks import Architecture, Kind
from torchproof.core.errors import InputError


@pytest.mark.parametrize("kind", ["dense", "conv"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 13)])
def test_images_come_back_in_their_shape(kind: Kind, shape: tuple[int, int, int]) -> None:
    network = Architecture(kind, latent=5, width=6).build(shape, seed=0)
    x = torch.rand(4, *shape)
    z, back = network.encode(x).detach(), network(x).detach()
    assert z.shape == (4, 5) and back.shape == x.shape
    assert float(back.min()) >= 0 and float(back.max()) <= 1


def test_weights_follow_the_seed_alone() -> None:
    how, before = Architecture(width=6), torch.random.get_rng_state()
    one, same, other = (how.build((1, 4, 4), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["encoder.1.weight"], other["encoder.1.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_published_shape() -> None:
    """Two layers of 1000 either side; batch norm in the encoder alone; a critic of two layers."""
    how = Architecture("dense", latent=2, width=1000, batch_norm=True)
    network, critic = how.build((1, 28, 28), 0), how.critic(0)

    def linear(part: nn.Module) -> list[tuple[int, int]]:
        return [(m.in_features, m.out_features) for m in part.modules() if isinstance(m, nn.Linear)]

    assert linear(network.encoder) == [(784, 1000), (1000, 1000), (1000, 2)]
    assert linear(network.decoder) == [(2, 1000), (1000, 1000), (1000, 784)]
    assert linear(critic) == [(2, 1000), (1000, 1000), (1000, 1)]
    norms = [name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(norms) == 2 and all(name.startswith("encoder") for name in norms)
    assert critic(torch.zeros(3, 2)).shape == (3,)


def test_what_cannot_be_meant() -> None:
    with pytest.raises(InputError, match="dense or conv"):
        Architecture("linear")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1"):
        Architecture(latent=0)
    with pytest.raises(InputError, match="8 x 6"):
        Architecture("conv", width=4).build((1, 8, 6), 0)
