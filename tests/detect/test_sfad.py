"""SFAD: its decision written out in probabilities, its coverage, its gradient, its independence."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, ModelError
from torchproof.core.keys import permutation
from torchproof.detect.detector import Clean
from torchproof.detect.sfad import PARTS, SFAD, FittedSFAD


@pytest.fixture(scope="module")
def fitted(fitted_as: Any) -> FittedSFAD:
    found: FittedSFAD = fitted_as("sfad")
    return found


def _told(fitted: FittedSFAD, x: Tensor) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """g (N, 4), probabilities of the four networks, and the classifier's classes."""
    acts: dict[str, Tensor] = {}
    modules = dict(fitted.model.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda m, i, o, at=name: acts.__setitem__(at, o))
        for name in fitted.layers
    ]
    with torch.no_grad():
        classes = fitted.model(x).argmax(1)
        answers = [net(acts[name]) for net, name in zip(fitted.readers, fitted.layers, strict=True)]
        known = torch.cat([a.logits.softmax(1) for a in answers], 1)
        answers.append(fitted.combiner(known))
    for hook in hooks:
        hook.remove()
    g = torch.stack([a.select.double().sigmoid() for a in answers], 1)
    return g.numpy(), [a.logits.double().softmax(1).numpy() for a in answers], classes.numpy()


def test_the_score_is_above_zero_where_any_decision_says_adversarial(
    fitted: FittedSFAD, images: Any
) -> None:
    held = permutation(len(images.fit.x), 0, "sfad", "held out")[: len(images.fit.x) // 5]
    g, p, _ = _told(fitted, images.fit.x[held])  # the classifier gets all of them right
    wish = np.percentile(g, 4, axis=0, method="lower")
    sure = max(np.percentile(each.max(1), 9, method="lower") for each in p)
    x = torch.cat([images.test.x, images.test.adversarial])
    g, p, classes = _told(fitted, x)
    decided = (g < wish).any(1) | (p[-1].max(1) < sure) | (p[-1].argmax(1) != classes)
    found = (fitted.score(x) > 0).numpy()
    assert 0.05 < decided.mean() < 0.95
    assert (found == decided).mean() > 0.99  # rounding in float32, right at a threshold


def test_the_parts_make_the_score(fitted: FittedSFAD, images: Any) -> None:
    with torch.no_grad():
        parts = fitted.parts(images.test.x)
    assert parts.shape == (len(images.test.x), len(PARTS))
    torch.testing.assert_close(parts.amax(1), fitted(images.test.x))
    held = permutation(len(images.fit.x), 0, "sfad", "held out")[: len(images.fit.x) // 5]
    with torch.no_grad():
        middle = fitted.parts(images.fit.x[held]).quantile(0.5, 0)
    rest = [0, 1, 2, 3, 5]  # confidence is held against another network's threshold
    torch.testing.assert_close(middle[rest], -torch.ones(5), rtol=1e-3, atol=1e-3)


def test_the_coverage_target_is_met_on_the_training_images(fitted: FittedSFAD, images: Any) -> None:
    """Above all by the combiner, whose g two sigmoids would hold below 0.7311."""
    assert all(mean >= 0.88 for mean in fitted.coverages.tolist())
    rows = permutation(len(images.fit.x), 0, "sfad", "held out")[len(images.fit.x) // 5 :]
    g, _, _ = _told(fitted, images.fit.x[rows])
    np.testing.assert_allclose(fitted.coverages.numpy(), g.mean(0), rtol=1e-4)


def test_the_gradient_is_that_of_the_score(fitted: FittedSFAD, images: Any) -> None:
    exact = copy.deepcopy(fitted).double()
    x = images.test.x[:6].double().clamp(0.01, 0.99).requires_grad_()
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = (torch.autograd.grad(exact(x).sum(), x)[0] * way).flatten(1).sum(1)
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)  # the score sees one part at a time
    each = (torch.autograd.grad((exact.parts(x) @ weights).sum(), x)[0] * way).flatten(1).sum(1)
    with torch.no_grad():
        measured = (exact(x + 1e-7 * way) - exact(x - 1e-7 * way)) / 2e-7
        parts = (exact.parts(x + 1e-7 * way) - exact.parts(x - 1e-7 * way)) @ weights / 2e-7
    torch.testing.assert_close(slope, measured, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(each, parts, rtol=1e-4, atol=1e-5)
    assert bool((each != 0).all()) and bool((slope != 0).any())


def test_what_it_works_with_can_be_matched(fitted: FittedSFAD, images: Any) -> None:
    assert fitted.features(images.test.x[:4]).shape == (4, 54)


def test_a_layer_of_units_and_named_layers_will_do(classifier: nn.Module, images: Any) -> None:
    quick = SFAD(("act2", "fc1", "act3"), width=0.01, epochs=1, batch=50)
    found = quick.fit(classifier, Clean(images.fit.x[:200], images.fit.y[:200]))
    assert found.layers == ("act2", "fc1", "act3")
    assert bool(found.score(images.test.x[:9]).isfinite().all())


def test_what_cannot_be_meant_is_refused(classifier: nn.Module, images: Any) -> None:
    with pytest.raises(InputError, match="rejected"):
        SFAD(rejected=(0.04, 0.9))
    with pytest.raises(InputError, match="2 layers"):
        SFAD(layers=("act1", "act2"))
    with pytest.raises(InputError, match="width"):
        SFAD(width=0)
    with pytest.raises(InputError, match="100"):
        SFAD().fit(classifier, Clean(images.fit.x[:50], images.fit.y[:50]))
    wrong = (images.fit.y[:200] + 1) % 10
    with pytest.raises(InputError, match="gets right"):
        SFAD(width=0.01, epochs=1).fit(classifier, Clean(images.fit.x[:200], wrong))
    with pytest.raises(ModelError, match="at least 3"):
        SFAD().fit(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Clean(images.fit.x, images.fit.y)
        )
