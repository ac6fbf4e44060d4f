"""Adversarial training (Madry, Makelov, Schmidt, Tsipras and Vladu 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from torchproof.train.inner import Adversarial
from torchproof.train.method import Batch, answers, cross_entropy


@dataclass(frozen=True)
class AT(Adversarial):
    """Madry's adversarial training: CE(f(x'), y), x' the last iterate of PGD on CE (Madry et al.
    2018, eq. 2.1).

    The arguments are those of `Adversarial`. Deviations: 10 steps, as in later work, where the
    paper has 7 (CIFAR-10); x' is made in eval mode, where the authors' code uses batch statistics.
    """

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        return cross_entropy(answers(model, batch.adv), batch)
