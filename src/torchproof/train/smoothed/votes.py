"""What methods that train for smoothing have in common: noisy versions of each image, and what the
network answers to them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.train.method import Batch, Method, answers, cross_entropy
from torchproof.verify.smoothing.noise import Additive, Gaussian
from torchproof.verify.smoothing.probabilities import positive, whole

NOISE = "noise"  # in `Batch.drawn`: (B, m, C, H, W)


@dataclass(frozen=True, kw_only=True)
class Noisy(Method):
    """A method that learns from noisy versions of each image.

    sigma: standard deviation of the noise in input units, that of the smoothing later on; m: how
    many versions. Version i of an image is keyed by the step's seed, the image's id and i, whatever
    the batch and m are. Noisy images are not cut to [0, 1], as they are not when they are
    certified. Raises InputError for another sigma than a number > 0, and for m below 1.
    """

    sigma: float
    m: int = 1

    def __post_init__(self) -> None:
        positive(sigma=self.sigma)
        whole(1, m=self.m)

    @property
    def kernel(self) -> Additive:
        """The law of the noise."""
        return Gaussian(self.sigma)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        key = keys.mix(batch.seed, "smoothed", batch.ids).to(batch.x.device)
        shape, kind = tuple(batch.x.shape[1:]), torch.promote_types(batch.x.dtype, torch.float32)
        steps = [torch.full_like(key, i) for i in range(self.m)]
        noise = torch.stack([self.kernel.draw(key, step, shape, kind) for step in steps], 1)
        return replace(batch, drawn={**batch.drawn, NOISE: noise.to(batch.x.dtype)})


@dataclass(frozen=True, kw_only=True)
class Voting(Noisy):
    """A method whose loss is one of the answers to the noisy versions alone, so that terms on the
    same answers may stand around it (`OnVotes`).
    """

    @property
    def passes(self) -> int:
        return self.m

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.judged(self.votes(model, batch), batch)

    def votes(self, model: nn.Module, batch: Batch) -> Tensor:
        """(B, m, K) logits of the noisy versions."""
        centre = batch.x if batch.adv is None else batch.adv
        return votes(model, centre, batch.drawn[NOISE])

    @abstractmethod
    def judged(self, z: Tensor, batch: Batch) -> Tensor:
        """(B,) losses of logits z (B, m, K)."""


def votes(model: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    """(B, m, K) logits at x (B, C, H, W) + noise (B, m, C, H, W), asked for in one pass."""
    z = answers(model, (x.unsqueeze(1) + noise).flatten(0, 1))
    return z.reshape(*noise.shape[:2], -1)


def soft_vote(z: Tensor) -> Tensor:
    """(B, K) the logarithm of the mean softmax of z (B, m, K): what the soft smoothed classifier
    answers.
    """
    return z.log_softmax(2).logsumexp(1) - math.log(z.shape[1])


def mean_cross_entropy(z: Tensor, batch: Batch) -> Tensor:
    """(B,) cross-entropy with the labels, averaged over the versions of z (B, m, K)."""
    m = z.shape[1]
    each = replace(batch, y=batch.y.repeat_interleave(m))
    return cross_entropy(z.flatten(0, 1), each).reshape(-1, m).mean(1)
