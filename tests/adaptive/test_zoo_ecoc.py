"""Error-correcting codes: words, decoder, and what saturation hides."""

from __future__ import annotations

import math

import pytest
import torch

from torchproof.adaptive.zoo.ecoc import FLOOR, Agreement, Decoder, words


def test_words_differ_in_half_of_their_bits() -> None:
    code = words(10, 16)
    assert code.shape == (10, 16) and set(code.unique().tolist()) == {-1.0, 1.0}
    apart = [int((a != b).sum()) for i, a in enumerate(code) for b in code[:i]]
    assert set(apart) == {8}


def test_the_decoder_equals_its_formula() -> None:
    decoder = Decoder(10)
    z = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    found = decoder(z)
    for n in range(5):
        bits = [2 / (1 + math.exp(-2 * float(v))) - 1 for v in z[n]]
        agree = [
            max(0.0, sum(float(c) * b for c, b in zip(word, bits, strict=True)))
            for word in decoder.codes
        ]
        for k, value in enumerate(agree):
            p = max(value / sum(agree), FLOOR)
            assert float(found[n, k]) == pytest.approx(math.log(p), abs=1e-4)


def test_bits_without_a_slope_have_one_before_they_saturate() -> None:
    decoder = Decoder(10)
    z = (20 * decoder.codes[:4]).requires_grad_()
    top = decoder(z).diagonal().sum()
    (grad,) = torch.autograd.grad(top, [z])
    assert not bool(grad.any())
    plain = Agreement(decoder.codes)
    torch.testing.assert_close(plain(z), z @ decoder.codes.T)
    assert torch.equal(plain(z).argmax(1), decoder(z).argmax(1))
