"""Decoders: sizes, ranges, the authors' layers counted."""

from __future__ import annotations

import pytest
import torch

from torchproof.core.errors import InputError
from torchproof.nn.decoder import Decoder, LeNetDecoder, decoder_for


def test_the_mnist_decoder_has_the_published_layers() -> None:
    decoder = LeNetDecoder(500)
    kernels = [50 * 50 * 4 + 50, 50 * 20 * 9 + 20, 20 * 20 * 4 + 20, 20 * 20 * 16 + 20, 20 * 25 + 1]
    assert sum(p.numel() for p in decoder.parameters()) == 500 * 800 + sum(kernels)
    sides = []
    hooks = [
        m.register_forward_hook(lambda _m, _i, o: sides.append(o.shape[-1])) for m in decoder.rest
    ]
    images = decoder(torch.randn(3, 500))
    assert [s for s, before in zip(sides[1:], sides, strict=False) if s != before] == [
        14,
        12,
        35,
        32,
        28,
    ]
    for hook in hooks:
        hook.remove()
    low, high = (float(v) for v in images.detach().aminmax())
    assert images.shape == (3, 1, 28, 28) and 0 < low < high < 1
    assert LeNetDecoder(7, 3)(torch.randn(2, 7)).shape == (2, 3, 28, 28)


def test_the_decoder_for_a_size_and_its_weights() -> None:
    state = torch.random.get_rng_state()
    one, same, other = (decoder_for(6, 1, 28, seed) for seed in (1, 1, 2))
    assert isinstance(one, LeNetDecoder) and isinstance(decoder_for(6, 3, 8, 0), Decoder)
    assert torch.equal(one.start.weight, same.start.weight)
    assert not torch.equal(one.start.weight, other.start.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("size", "widths"), [(8, (4, 3)), (28, (6, 4, 2)), (9, (4, 3, 2)), (5, (4,))]
)
def test_a_decoder_of_any_size(size: int, widths: tuple[int, ...]) -> None:
    decoder = Decoder(11, 2, size, widths).double()
    z = torch.randn(4, 11, dtype=torch.float64, requires_grad=True)
    images = decoder(z)
    assert images.shape == (4, 2, size, size) and bool(((images > 0) & (images < 1)).all())
    (grad,) = torch.autograd.grad(images[0].sum(), z)
    assert bool((grad[0] != 0).any())
    decoder.eval()
    torch.testing.assert_close(decoder(z[1:2]), decoder(z)[1:2])


@pytest.mark.parametrize("widths", [(), (4, 3, 2, 2)])
def test_sizes_that_cannot_be_halved_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="fewer widths"):
        Decoder(5, 1, 4, widths)
