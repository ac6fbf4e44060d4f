"""What the detectors that learn from adversarial images have in common: KD+BU, LID and NSS."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.ascend import Run
from torchproof.core.errors import InputError
from torchproof.core.matching import Matching
from torchproof.core.ranking import auroc
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import parse
from torchproof.detect.calibrate import calibrate, calibrated_rule
from torchproof.detect.detector import Clean, Detector, Fitted, Guarded
from torchproof.detect.kd_bu import KDBU
from torchproof.detect.lid import LID
from torchproof.detect.nss import NSS

RECIPES = [KDBU(), KDBU(passes=0), LID(), NSS()]
NAMES = ["kd-bu", "kd", "lid", "nss"]


def taught(images: Any) -> Clean:
    return Clean(images.fit.x, images.fit.y, images.fit.adversarial)


@pytest.fixture(params=RECIPES, ids=NAMES)
def recipe(request: pytest.FixtureRequest) -> Detector:
    found: Detector = request.param
    return found


@pytest.fixture
def fitted(recipe: Detector, classifier: nn.Module, images: Any) -> Fitted:
    return recipe.fit(classifier, taught(images))


def test_adversarial_images_are_more_suspicious(fitted: Fitted, images: Any) -> None:
    """Images of 8 x 8 pixels say little; those of the comparison are told apart more clearly."""
    clean, adversarial = (fitted.score(x) for x in (images.test.x, images.test.adversarial))
    assert auroc(clean, adversarial[images.test.fooled]) > 0.7


def test_a_row_does_not_depend_on_its_batch(fitted: Fitted, images: Any) -> None:
    x = images.test.adversarial[:20]
    together, apart = fitted.score(x), fitted.score(x, batch_size=1)
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-4 * float(together.std()))


def test_seeds_decide_all(recipe: Detector, classifier: nn.Module, images: Any) -> None:
    torch.manual_seed(1)
    x = images.test.x[:20]
    one, two, other = (recipe.fit(classifier, taught(images), seed).score(x) for seed in (3, 3, 4))
    assert torch.equal(one, two)
    # NSS draws nothing here: there are fewer images than it may take
    assert torch.equal(one, other) == isinstance(recipe, NSS)


def test_the_classifier_is_left_as_it_was(recipe: Detector, images: Any, classifier: Any) -> None:
    model = copy.deepcopy(classifier).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    recipe.fit(model, taught(images)).score(images.test.x[:5])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_saved_as_modules_are(fitted: Fitted, images: Any) -> None:
    other = copy.deepcopy(fitted)
    for name, value in other.state_dict().items():
        if not name.startswith("model."):
            value.zero_()
    x = images.test.x[:10]
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other.score(x), fitted.score(x))


def test_gradient(recipe: Detector, classifier: nn.Module, images: Any) -> None:
    """Against differences in float64, at images without flat parts."""
    model = copy.deepcopy(classifier).double()
    data = taught(images)
    assert data.adversarial is not None
    fitted = recipe.fit(model, Clean(data.x.double(), data.y, data.adversarial.double()))
    generator = torch.Generator().manual_seed(0)
    noise, way = torch.rand(2, 4, 1, 8, 8, generator=generator, dtype=torch.float64)
    x = (0.8 * images.test.adversarial[:4].double() + 0.1 + 0.1 * noise).requires_grad_()
    (slope,) = torch.autograd.grad(fitted(x).sum(), x)
    with torch.no_grad():
        ends = [fitted(x + h * (way - 0.5)) for h in (1e-6, -1e-6)]
    expected = (ends[0] - ends[1]) / 2e-6
    found = (slope * (way - 0.5)).flatten(1).sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_its_own_attacks_bring_suspicion_down(fitted: Fitted, images: Any) -> None:
    """Each of them runs on what it is made for; together they lower the area by 0.2 at least."""
    calm = fitted.score(images.calibrate.x)
    threshold = calibrate(calm, 0.05)
    with torch.no_grad():
        logits = fitted.model(images.calibrate.x)
    rule = Rejecting(threshold=threshold.value, **calibrated_rule(threshold, logits, calm))
    x, y = images.test.x[:30], images.test.y[:30]
    ranks: list[Tensor] = []
    scores: list[Tensor] = []
    for attack in fitted.attacks(parse("linf:0.25"), rule, Clean(images.fit.x, images.fit.y)):
        fast = replace(attack, search=replace(attack.search, steps=50))
        guarded = Guarded(fitted, features=isinstance(attack.objective, Matching))
        found = fast(guarded, x, y, run=Run(0, patience=math.inf))
        ranks.append(found.score)
        scores.append(fitted.score((x + found.value).clamp(0, 1)))
    best = torch.stack(ranks).argmax(0)
    adapted = torch.stack(scores).gather(0, best[None])[0]
    clean = fitted.score(images.test.x)
    plain = auroc(clean, fitted.score(images.test.adversarial[:30]))
    assert auroc(clean, adapted) < plain - 0.2


def test_adversarial_images_are_needed(recipe: Detector, classifier: Any, images: Any) -> None:
    with pytest.raises(InputError, match="attack the training images"):
        recipe.fit(classifier, Clean(images.fit.x, images.fit.y))
