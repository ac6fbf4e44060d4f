"""MagNet: what it measures against numpy and scipy, its autoencoders, its score, its attacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from torch import nn

from torchproof.core.errors import InputError, UnknownName
from torchproof.core.rejection import WithDetector
from torchproof.detect.detector import Clean
from torchproof.detect.magnet import MagNet, Reformed, jensen_shannon
from torchproof.detect.parts.autoencoder import Autoencoder, Denoising


@pytest.fixture(scope="module")
def fitted(fitted_as: Any) -> Any:
    return fitted_as("magnet")


@pytest.mark.parametrize("temperature", [1.0, 10.0, 40.0])
def test_divergence_equals_scipy(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = 8 * torch.randn(2, 20, 7, generator=generator)
    second[:5] = first[:5] + 1e-3 * second[:5]
    found = jensen_shannon(first, second, temperature).numpy()
    rows = [softmax(t.double().numpy() / temperature, 1) for t in (first, second)]
    expected = jensenshannon(*rows, axis=1) ** 2
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-14)
    assert bool((jensen_shannon(first, first, temperature).abs() < 1e-15).all())


@torch.no_grad()
def test_parts_equal_numpy(fitted: Any, classifier: nn.Module, images: Any) -> None:
    x = images.test.adversarial[:30]
    made = [autoencoder(x) for autoencoder in fitted.autoencoders]
    apart = [np.abs(x.numpy() - one.numpy()).reshape(30, -1) for one in made]
    logits = [classifier(view).double().numpy() for view in (x, made[0])]
    divergences = [
        jensenshannon(*(softmax(z / t, 1) for z in logits), axis=1) ** 2 for t in (10.0, 40.0)
    ]
    expected = np.stack([(apart[0] ** 2).mean(1), apart[1].mean(1), *divergences], 1)
    assert np.allclose(fitted.parts(x).numpy(), expected, rtol=1e-4, atol=1e-9)
    bits = fitted.bits(x).numpy()
    assert np.allclose(fitted.score(x).numpy(), bits.max(1), rtol=1e-6)


def test_score_is_the_published_rule(fitted: Any, images: Any) -> None:
    """Above log2(1 / r) where a part is above the quantile 1 - r of the images held out."""
    with torch.no_grad():
        parts = fitted.parts(images.test.adversarial)
    scores = fitted.score(images.test.adversarial)
    for k in (1, 2, 3, 4):
        flagged = (parts > fitted.surprise.knots[k]).any(1)
        assert torch.equal(scores > k + 1e-6, flagged)
    assert len(fitted.surprise.knots) == 5  # of 120 images 2^-4 is 7.5


def test_an_autoencoder_learns(images: Any) -> None:
    """A third of the error of the mean image, on images that it has not seen; more training is
    better, and noise is taken away.
    """
    x, unseen = images.fit.x, images.test.x
    made = Denoising(0.1, 10, 16, 0.03)(x, "II", 0, torch.device("cpu"))
    fresh = Denoising(0.1, 1, 10**6, 1e-9)(x, "II", 0, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    noisy = (unseen + 0.1 * torch.randn(unseen.shape, generator=generator)).clamp(0, 1)

    def error(guess: torch.Tensor) -> float:
        return float((guess - unseen).square().mean())

    assert error(made(unseen)) < error(x.mean(0, keepdim=True).expand_as(unseen)) / 3
    assert error(made(unseen)) < error(fresh(unseen)) / 3
    assert error(made(noisy)) < error(fresh(noisy)) / 3
    assert not made.training and not any(p.requires_grad for p in made.parameters())


@pytest.mark.parametrize("structure", ["I", "II"])
def test_structures_are_those_of_the_paper(structure: str) -> None:
    """MNIST: structure I has four hidden convolutions of 3 channels, II two."""
    made = Autoencoder(1, structure)
    convolutions = [m for m in made.modules() if isinstance(m, nn.Conv2d)]
    shapes = [tuple(c.weight.shape) for c in convolutions]
    inner = {"I": 3, "II": 1}[structure]
    assert shapes == [(3, 1, 3, 3), *[(3, 3, 3, 3)] * inner, (1, 3, 3, 3)]
    for size in ((8, 8), (9, 7)):
        out = made(torch.rand(2, 1, *size)).detach()
        assert out.shape == (2, 1, *size) and float(out.min()) > 0 and float(out.max()) < 1


def test_pooling_is_undone_by_repeating() -> None:
    """Structure I with hand-made weights: means of 2 x 2 blocks, through three sigmoids."""
    made = Autoencoder(1, "I").double()
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            layer.weight.data[0, 0, 1, 1] = 1.0
    x = torch.rand(1, 1, 4, 6, dtype=torch.float64)
    blocks = x.sigmoid().reshape(1, 1, 2, 2, 3, 2).mean((3, 5)).sigmoid().sigmoid()
    expected = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3).sigmoid().sigmoid()
    assert torch.allclose(made(x), expected)


def test_reformer_classifies_the_reconstruction(
    fitted: Any, classifier: nn.Module, images: Any
) -> None:
    x, y = images.test.x, images.test.y
    assert isinstance(fitted.reformed, Reformed)
    with torch.no_grad():
        logits = fitted.reformed(x)
        both = WithDetector(fitted.reformed, fitted)(x)
        assert torch.equal(logits, classifier(fitted.autoencoders[0](x)))
    assert torch.equal(both["logits"], logits) and both["reject"].shape == (len(x),)
    assert float((logits.argmax(1) == y).double().mean()) > 0.2


def test_settings_nobody_can_mean_are_refused(classifier: nn.Module, images: Any) -> None:
    for make in (
        lambda: MagNet(errors=()),
        lambda: MagNet(errors=(("III", 1),)),
        lambda: MagNet(errors=(("I", 3),)),
        lambda: MagNet(temperatures=(0.0,)),
        lambda: MagNet(held=1.0),
        lambda: MagNet(epochs=0),
    ):
        with pytest.raises(InputError):
            make()
    with pytest.raises(UnknownName):
        Autoencoder(1, "III")
    with pytest.raises(InputError, match="held out"):
        MagNet().fit(classifier, Clean(images.fit.x[:20], images.fit.y[:20]))
    with pytest.raises(InputError, match="train longer"):
        MagNet(epochs=1).fit(classifier, Clean(images.fit.x, images.fit.y))
