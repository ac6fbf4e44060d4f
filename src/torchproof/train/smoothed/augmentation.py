"""Training on noisy images (Cohen, Rosenfeld and Kolter 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchproof.core.errors import unknown
from torchproof.train.method import Batch
from torchproof.train.smoothed.votes import Voting, mean_cross_entropy
from torchproof.verify.smoothing.noise import ADDITIVE, Additive


@dataclass(frozen=True)
class NoiseAugmentation(Voting):
    """Noise augmentation: CE(f(x + n), y), n fresh noise in every step, Gaussian with standard
    deviation sigma (Cohen et al. 2019).

    m: noisy versions per image and step, over which the loss is averaged, 1 in the paper; noise:
    "gaussian", or "laplace" or "uniform" for certificates in l1 (Teng et al. 2020, Yang et al.
    2020), sigma being the standard deviation of each. Raises InputError for a sigma or m that
    cannot be meant, UnknownName for other noise.
    """

    noise: str = "gaussian"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.kernel

    @property
    def kernel(self) -> Additive:
        if self.noise not in ADDITIVE:
            raise unknown("noise", self.noise, ADDITIVE)
        return ADDITIVE[self.noise](self.sigma)

    def judged(self, z: Tensor, batch: Batch) -> Tensor:
        return mean_cross_entropy(z, batch)
