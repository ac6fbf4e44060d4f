"""Adversarial logit pairing (Kannan, Kurakin and Goodfellow 2018, arXiv 1803.06373)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from torchproof.train.factor import check_factor
from torchproof.train.inner import Adversarial
from torchproof.train.method import Batch, answers, cross_entropy


@dataclass(frozen=True)
class ALP(Adversarial):
    """ALP: half CE(z, y), half CE(z', y), and lam times the mean squared difference of the logits z
    = f(x) and z' = f(x'), x' from PGD on CE (Kannan et al. 2018).

    lam: 0.5; the arguments else are those of `Adversarial`. x and x' pass through the network one
    after the other. A teaching example: the published robustness fell to 0.6 % under longer PGD
    (Engstrom, Ilyas and Athalye 2018). Raises InputError for lam < 0.
    """

    lam: float = 0.5

    def __post_init__(self) -> None:
        check_factor("lam", self.lam, "the usual value is 0.5")
        super().__post_init__()

    @property
    def passes(self) -> int:
        return 2

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        z, moved = answers(model, batch.x), answers(model, batch.adv)
        both = (cross_entropy(z, batch) + cross_entropy(moved, batch)) / 2
        return both + self.lam * (z - moved).square().mean(1)
