"""What all detectors have in common, each fitted once: a detector more is a row more."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.run import Run
from torchproof.core.errors import InputError
from torchproof.core.ranking import auroc
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import parse
from torchproof.detect.calibrate import Threshold, calibrate, calibrated_rule
from torchproof.detect.catalogue import DETECTORS
from torchproof.detect.detector import Clean, Detector, Fitted, Guarded
from torchproof.detect.dnr import DNR
from torchproof.detect.kd_bu import KDBU
from torchproof.detect.lid import LID
from torchproof.detect.magnet import MagNet
from torchproof.detect.nic import NIC
from torchproof.detect.nss import NSS
from torchproof.detect.sfad import SFAD


@dataclass(frozen=True)
class Row:
    """area: what it reaches at least, on images pushed far over the boundary or `barely` so;
    attacks: how many of its own; quick: a recipe that fits in a moment; drawn: whether the seed
    matters; smooth: whether the slope is that of the score, and not of a substitute.
    """

    area: float
    attacks: int
    quick: Detector | None = None
    barely: bool = False
    drawn: bool = True
    smooth: bool = True


# Images of 8 x 8 pixels say little; those of the comparison are told apart more clearly.
ROWS = {
    "kd-bu": Row(0.65, 3, KDBU()),
    "kd": Row(0.7, 3, KDBU(passes=0)),
    "lid": Row(0.7, 3, LID()),
    "nss": Row(0.7, 4, NSS(), drawn=False),  # fewer images than it may take
    "feature-squeezing": Row(0.85, 4, None, barely=True, drawn=False, smooth=False),
    "magnet": Row(0.9, 3, MagNet(epochs=4, batch=16, lr=0.03)),
    "dnr": Row(0.75, 3, DNR(("act3",), folds=2, at_most=100)),
    "sfad": Row(0.9, 4, SFAD(width=0.01, epochs=1, batch=50), barely=True),
    "nic": Row(0.7, 4, NIC(epochs=1, lr=3e-3, components=50, at_most=40), barely=True),
}


@pytest.fixture(scope="module", params=ROWS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def row(name: str) -> Row:
    return ROWS[name]


@pytest.fixture(scope="module")
def fitted(name: str, fitted_as: Callable[[str], Fitted]) -> Fitted:
    return fitted_as(name)


@pytest.fixture(scope="module")
def calm(fitted: Fitted, images: Any) -> Tensor:
    """Scores of the images for calibration."""
    return fitted.score(images.calibrate.x)


@pytest.fixture(scope="module")
def threshold(calm: Tensor) -> Threshold:
    return calibrate(calm, 0.05)


@pytest.fixture(scope="module")
def clean(fitted: Fitted, images: Any) -> Tensor:
    """Scores of the test images."""
    return fitted.score(images.test.x)


@pytest.fixture(scope="module")
def attacked(row: Row, images: Any, barely: Tensor) -> Tensor:
    """Images that fool the classifier, made without a thought of the detector."""
    return barely if row.barely else images.test.adversarial[images.test.fooled]


@pytest.fixture(scope="module")
def unaware(fitted: Fitted, attacked: Tensor) -> Tensor:
    """Their scores."""
    return fitted.score(attacked)


def test_none_is_missing(recipes: dict[str, Detector]) -> None:
    assert set(recipes) == set(ROWS)
    assert {type(recipe) for recipe in recipes.values()} == set(DETECTORS.values())


@pytest.mark.slow
def test_attacked_images_are_more_suspicious(
    row: Row, threshold: Threshold, clean: Tensor, unaware: Tensor
) -> None:
    assert auroc(clean, unaware) > row.area
    assert threshold.rate(clean)[0] < 0.12


def test_a_row_does_not_depend_on_its_batch(fitted: Fitted, images: Any) -> None:
    x = images.test.adversarial[:12]
    together, apart = fitted.score(x), fitted.score(x, batch_size=1)
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-4 * float(together.std()))


def test_the_slope_is_that_of_the_score(row: Row, fitted: Fitted, images: Any) -> None:
    """Against differences in float64, at images without flat parts."""
    if not row.smooth:
        assert fitted.gradient != "exact"
        return
    exact = copy.deepcopy(fitted).double()
    generator = torch.Generator().manual_seed(0)
    noise, way = torch.rand(2, 4, 1, 8, 8, generator=generator, dtype=torch.float64)
    x = (0.8 * images.test.adversarial[:4].double() + 0.1 + 0.1 * noise).requires_grad_()
    (slope,) = torch.autograd.grad(exact(x).sum(), x)
    with torch.no_grad():
        ends = [exact(x + h * (way - 0.5)) for h in (1e-6, -1e-6)]
    found = (slope * (way - 0.5)).flatten(1).sum(1)
    torch.testing.assert_close(found, (ends[0] - ends[1]) / 2e-6, rtol=1e-3, atol=1e-5)
    assert bool((found != 0).all())


@pytest.mark.slow
def test_fitting_leaves_no_trace_and_is_decided_by_the_seed(
    row: Row, name: str, recipes: dict[str, Detector], classifier: nn.Module, images: Any
) -> None:
    recipe, part, x = row.quick or recipes[name], images.fit, images.test.x[:20]
    data = Clean(part.x[:250], part.y[:250], part.adversarial[:250] if recipe.supervised else None)
    model = copy.deepcopy(classifier).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    one = recipe.fit(model, data, 3).score(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    torch.rand(1)  # what others draw does not matter
    two, other = (recipe.fit(classifier, data, seed).score(x) for seed in (3, 4))
    assert torch.equal(one, two)
    assert torch.equal(one, other) != row.drawn


def test_saved_as_modules_are(fitted: Fitted, images: Any) -> None:
    other, x = copy.deepcopy(fitted), images.test.adversarial[:10]
    expected = fitted.score(x)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.copy_(0.5 * value)
    assert not torch.equal(other.score(x), expected)
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other.score(x), expected)


@pytest.mark.slow
def test_its_own_attacks_bring_suspicion_down(
    row: Row, fitted: Fitted, threshold: Threshold, images: Any, calm: Tensor, clean: Tensor,
    unaware: Tensor,
) -> None:  # fmt: skip
    """What they say they found is misclassified and accepted; together they find ways, and lower
    the area by 0.2 at least.
    """
    part = images.fit
    with torch.no_grad():
        weights = calibrated_rule(threshold, fitted.model(images.calibrate.x), calm)
    rule = Rejecting(threshold=threshold.value, **weights)
    attacks: Any = fitted.attacks(parse("linf:0.25"), rule, Clean(part.x, part.y))
    assert len(attacks) == row.attacks
    x, y = images.test.x[:8], images.test.y[:8]
    ranks, scores, won = [], [], torch.zeros(8, dtype=torch.bool)
    for attack in attacks:
        reads = getattr(attack.objective, "key", "") == "features"
        short = replace(attack, search=replace(attack.search, steps=10))
        least = Run(0, patience=math.inf)  # the least suspicious, not the first
        found = short(Guarded(fitted, features=reads), x, y, run=least)
        made = x + found.value
        with torch.no_grad():
            wrong = fitted.model(made).argmax(1) != y
        assert bool(wrong[found.lost].all())
        assert not bool(threshold.flags(fitted.score(made))[found.lost].any())
        ranks.append(found.score)
        scores.append(fitted.score(made))
        won |= found.lost
    best = torch.stack(ranks).argmax(0)
    adapted = torch.stack(scores).gather(0, best[None])[0]
    assert auroc(clean, adapted) < auroc(clean, unaware) - 0.2
    assert int(won.sum()) >= 7


@pytest.mark.parametrize("name", ["kd-bu", "lid", "nss"])
def test_adversarial_images_are_needed(
    name: str, recipes: dict[str, Detector], classifier: nn.Module, images: Any
) -> None:
    with pytest.raises(InputError, match="attack the training images"):
        recipes[name].fit(classifier, Clean(images.fit.x, images.fit.y))
