"""Starts from images of another class, as near as the threat lets them come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.starts import Start
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.sets import Ball, Set


@dataclass(frozen=True, eq=False)
class Elsewhere(Start):
    """One of the `nearest` images of a bank that have another class than the attacked image, chosen
    by key, and brought into the set.

    images (R, C, H, W) in [low, 1]; classes (R,); ask: images (B, C, H, W) to classes (B,), such as
    the model's own answers; low: the lower end of the box of valid values, from which the attacked
    image is read off. Raises InputError for a bank of one class, or a set that is no ball.
    """

    images: Tensor
    classes: Tensor
    ask: Callable[[Tensor], Tensor]
    nearest: int = 1
    low: float = 0.0

    def __post_init__(self) -> None:
        fits = self.classes.shape == self.images.shape[:1] and self.images.ndim == 4
        if not fits or len(torch.unique(self.classes)) < 2 or self.nearest < 1:
            given = f"images {tuple(self.images.shape)}, classes {tuple(self.classes.shape)}"
            raise InputError(given, "one class each, two of them at least", "pass more images")

    def __call__(self, set: Set, key: Tensor) -> Any:
        if not isinstance(set, Ball) or set.low.shape[1:] != self.images.shape[1:]:
            given = f"a start from images in a {type(set).__name__}"
            raise InputError(given, "a bounded threat to single images", "use Uniform()")
        x = self.low - set.low
        bank = self.images.to(x)
        with torch.no_grad():
            own = self.ask(x)
        far = torch.cdist(x.flatten(1), bank.flatten(1))
        far = far.masked_fill(own[:, None] == self.classes.to(own.device)[None], torch.inf)
        count = min(self.nearest, int(far.isfinite().sum(1).min()))
        order = far.topk(max(count, 1), dim=1, largest=False).indices
        pick = keys.integers(keys.mix(key, "elsewhere"), 0, order.shape[1], ())
        return set.project(bank[order.gather(1, pick[:, None])[:, 0]] - x)
