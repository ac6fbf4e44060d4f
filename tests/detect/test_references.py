"""The clean images that feature matching aims at: rightly classified, class by class, in order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.detect.detector import Clean, Fitted
from torchproof.detect.references import references


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
