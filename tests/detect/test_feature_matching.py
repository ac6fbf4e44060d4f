"""The clean images that feature matching aims at: rightly classified, class by class, in order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.core.errors import InputError
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import AnyThreat, parse
from torchproof.detect.adaptive import evade
from torchproof.detect.detector import Clean, Fitted, generic_attacks
from torchproof.detect.parts.feature_matching import (
    lacking,
    matching_attack,
    references,
    without_matching,
)


class _Pixels(Fitted):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1)

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class _First(nn.Module):
    """Class 1 where the first pixel is above one half."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, :1]
        return torch.cat([0.5 - first, first - 0.5], 1)


def test_they_are_of_the_images_that_the_classifier_gets_right() -> None:
    x = torch.rand(200, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    y = (torch.arange(200) % 3 == 0).long()
    found = references(_Pixels(_First()), Clean(x, y), most=20)
    assert len(found) == 2
    for label, rows in enumerate(found):
        right = [
            image.flatten()
            for image, truth in zip(x, y.tolist(), strict=True)
            if truth == label and int(image.flatten()[0] > 0.5) == label
        ]
        assert torch.equal(rows, torch.stack(right[:20]))


def test_a_class_without_one_is_refused() -> None:
    x = torch.full((10, 1, 2, 2), 0.9)
    with pytest.raises(InputError, match="class 0"):
        references(_Pixels(_First()), Clean(x, torch.ones(10, dtype=torch.int64)))


class _Attacked(_Pixels):
    def attacks(self, threat: AnyThreat, rule: Rejecting, clean: Clean) -> Sequence[Attack]:
        return *generic_attacks(threat, rule)[:1], *matching_attack(self, threat, rule, clean)


def test_without_one_of_a_class_the_other_attacks_are_made_and_it_is_told() -> None:
    x = torch.full((10, 1, 2, 2), 0.9)
    fitted, y = _Attacked(_First()), torch.ones(10, dtype=torch.int64)
    assert lacking(fitted, Clean(x, y)) == (0,)
    threat, rule = parse("linf:0.5"), Rejecting(threshold=3.0)
    assert matching_attack(fitted, threat, rule, Clean(x, y)) == ()
    found = evade(fitted, x[:2], y[:2], threat, rule, Clean(x, y))
    assert found.attacks == 1 and bool(found.wrong.all())
    assert "class 0 has no clean image" in found.lacks

    both, right = torch.cat([x, 1 - x]), torch.cat([y, 1 - y])
    assert without_matching(fitted, Clean(both, right)) == ""
    assert evade(fitted, x[:2], y[:2], threat, rule, Clean(both, right)).lacks == ""
    assert len(fitted.attacks(threat, rule, Clean(both, right))) == 2
