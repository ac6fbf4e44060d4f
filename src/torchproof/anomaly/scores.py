"""What an autoencoder says of images: reconstruction error, likelihood of the latents, and the
rule that decides from both (Beggel et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.anomaly.networks import Autoencoder
from torchproof.core.errors import InputError

SLOTS = 512  # images per call of a network


@dataclass(frozen=True, eq=False)
class Scores:
    """error (N,): mean squared error over pixels; likelihood (N,): log N(z; 0, I), in nats."""

    error: Tensor
    likelihood: Tensor

    def __len__(self) -> int:
        return len(self.error)

    def take(self, rows: Tensor) -> Scores:
        """Those at `rows`, numbers or a mask (N,)."""
        return Scores(self.error[rows], self.likelihood[rows])


def scores(network: Autoencoder, x: Tensor) -> Scores:
    """Both scores of images x (N, C, H, W), in eval mode; the mode is put back."""

    def both(part: Tensor) -> Tensor:
        z = network.encode(part)
        error = (network.decoder(z) - part).square().flatten(1).mean(1)
        return torch.stack([error, log_prior(z)], 1)

    found = _asked(network, x, both)
    return Scores(found[:, 0], found[:, 1])


def latents(network: Autoencoder, x: Tensor) -> Tensor:
    """z (N, latent) of images x (N, C, H, W), in eval mode."""
    return _asked(network, x, network.encode)


def heat_maps(network: Autoencoder, x: Tensor) -> Tensor:
    """The squared error of each pixel, mean over channels: (N, H, W). Its mean over an image is the
    image's reconstruction error.
    """
    return _asked(network, x, lambda part: (network(part) - part).square().mean(1))


def log_prior(z: Tensor) -> Tensor:
    """log N(z; 0, I) of latents (N, d): (N,)."""
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


def _asked(network: Autoencoder, x: Tensor, ask: Callable[[Tensor], Tensor]) -> Tensor:
    """`ask` of parts of x, without gradients, in eval mode."""
    was = network.training
    network.eval()
    try:
        with torch.no_grad():
            return torch.cat([ask(x[i : i + SLOTS]) for i in range(0, len(x), SLOTS)])
    finally:
        network.train(was)


@dataclass(frozen=True)
class Rule:
    """An image is an anomaly where its error is above `error` or its log-likelihood is below
    `likelihood` (None: only the first, as for a plain autoencoder).

    Spreads are standard deviations on the images the rule is made of, to weigh the two scores in
    `suspicion`; they do not change the decision.
    """

    error: float
    error_spread: float
    likelihood: float | None = None
    likelihood_spread: float = 1.0

    def flags(self, found: Scores) -> Tensor:
        """(N,) bool."""
        return self.suspicion(found) > 0

    def suspicion(self, found: Scores) -> Tensor:
        """How far beyond its threshold is the score that is furthest, in spreads: (N,), above 0 for
        an anomaly. Ours; the paper has the decision only.
        """
        beyond = (found.error - self.error) / self.error_spread
        if self.likelihood is None:
            return beyond
        below = (self.likelihood - found.likelihood) / self.likelihood_spread
        return torch.maximum(beyond, below)


def rule_from(found: Scores, likelihood: bool, share: float = 0.9) -> Rule:
    """Thresholds at the share `share` of the errors and at 1 - `share` of the likelihoods; the
    paper takes 0.9, on the training images. Both together flag up to 20 % of normal images.

    On training images an autoencoder that learns them by heart sets its threshold far too low;
    images that were held out do not have that fault. Raises InputError for fewer than 2 images.
    """
    if len(found) < 2 or not 0 < share < 1:
        given = f"thresholds at {share:g} of {len(found)} images"
        raise InputError(given, "a share in (0, 1) of 2 or more images", "give more images")
    tiny = torch.finfo(found.error.dtype).tiny
    error = float(found.error.quantile(share))
    spread = max(float(found.error.std()), tiny)
    if not likelihood:
        return Rule(error, spread)
    low = float(found.likelihood.quantile(1 - share))
    return Rule(error, spread, low, max(float(found.likelihood.std()), tiny))
