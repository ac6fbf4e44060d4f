"""Adversarial training with a single step: FGSM-AT, masked or not, and fast adversarial training.

Zero starts overfit catastrophically: within an epoch the network withstands single steps only. The
loop's monitor notices. The masks are one of the tricks of Li, Liu, Wang, Zhou and Xie 2022 (the
others are `FirstLayer` and the model options `activation` and `stem_stride`), reconstructed from
the abstract: the paper's code was never published.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from numbers import Real

from torch import Tensor, nn

from torchproof.attack.starts import Start, Uniform, Zero
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.train.inner import Adversarial
from torchproof.train.method import Batch, answers, cross_entropy


@dataclass(frozen=True)
class Mask(ABC):
    """Which pixels of a training image are put to 0, in all channels; raises InputError for a
    share outside [0, 1).
    """

    share: float = 0.4

    def __post_init__(self) -> None:
        if not isinstance(self.share, Real) or not 0 <= self.share < 1:
            raise InputError(
                f"share = {self.share!r}", "a share of the pixels in [0, 1)", "try 0.4"
            )

    def __call__(self, batch: Batch) -> Tensor:
        """The masked images (B, C, H, W)."""
        shape = (1, *batch.x.shape[2:])
        noise = keys.uniform(self.key(batch).to(batch.x.device), 0, shape, dtype=batch.x.dtype)
        return batch.x * (noise >= self.share)

    @abstractmethod
    def key(self, batch: Batch) -> Tensor:
        """(B,) or (1,): which masks differ."""


@dataclass(frozen=True)
class RandomMask(Mask):
    """A new mask for every image and step; share: of the pixels, each masked by itself."""

    def key(self, batch: Batch) -> Tensor:
        return keys.mix(batch.seed, batch.ids, "mask")


@dataclass(frozen=True)
class FixedMask(Mask):
    """One mask for all images and steps, and all runs; share: of the pixels."""

    def key(self, batch: Batch) -> Tensor:
        return keys.mix("mask")


@dataclass(frozen=True)
class SingleStep(Adversarial):
    """Methods that train on CE(f(x'), y) with x' from one gradient; raises InputError for more."""

    steps: int = 1
    length: float = 1.0

    def __post_init__(self) -> None:
        if self.steps != 1:
            given = f"{type(self).__name__} with steps = {self.steps!r}"
            raise InputError(given, "a single step", "write AT(steps=2, length=0.5) for more")
        super().__post_init__()

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        return cross_entropy(answers(model, batch.adv), batch)


@dataclass(frozen=True)
class FGSMAT(SingleStep):
    """FGSM-AT: CE(f(x'), y) with x' = clip(x0 + eps sign(grad CE(f(x0), y))) (Goodfellow et al.
    2015, eq. in section 6 without the clean half).

    length: of the step in units of eps; start: by default none; mask: RandomMask(0.4) or
    FixedMask(0.4) make x0 from x, in training only (reconstructed after Li et al. 2022); the rest
    as in `Adversarial`. x' is made in eval mode. Overfits catastrophically without a trick.
    """

    start: Start = field(default_factory=Zero)
    mask: Mask | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and not isinstance(self.mask, Mask):
            remedy = "write mask=RandomMask(0.4) or mask=FixedMask(0.4)"
            raise InputError(f"mask = {self.mask!r}", "a mask, or None", remedy)
        super().__post_init__()

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        if self.mask is None:
            return self.craft(model, batch)
        ready = self.craft(model, replace(batch, x=self.mask(batch)))
        return replace(ready, x=batch.x)


@dataclass(frozen=True)
class FastAT(SingleStep):
    """Fast adversarial training, FGSM-RS: a uniform start in the ball, one step of 1.25 eps, back
    into the ball (Wong, Rice and Kolter 2020, alg. 3).

    Deviation: x' is made in eval mode, where the authors' code uses batch statistics.
    """

    length: float = 1.25
    start: Start = field(default_factory=Uniform)
