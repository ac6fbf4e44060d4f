"""Terms on the answers to noisy versions, around a method that asks for them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.train.method import Batch
from torchproof.train.smoothed.votes import Voting
from torchproof.train.wrapper import Wrapper, require_once


@dataclass(frozen=True)
class OnVotes(Wrapper):
    """A method on noisy versions, and a term on the same answers: the network is asked no more
    often. Raises InputError for a method of another kind, and around the same term.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        require_once(self)
        if not isinstance(self.method, (Voting, OnVotes)):
            name = type(self).__name__
            raise InputError(
                f"{type(self.method).__name__} in {name}",
                "NoiseAugmentation, SmoothAdv or MACER",
                f"write {name}(NoiseAugmentation(sigma=0.25, m=2)), and wrappers around that",
            )

    @property
    def inner(self) -> Voting | OnVotes:
        assert isinstance(self.method, (Voting, OnVotes))
        return self.method

    @property
    def sigma(self) -> float:
        return self.inner.sigma

    @property
    def m(self) -> int:
        return self.inner.m

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.judged(self.votes(model, batch), batch)

    def votes(self, model: nn.Module, batch: Batch) -> Tensor:
        """(B, m, K) logits of the noisy versions."""
        return self.inner.votes(model, batch)

    def judged(self, z: Tensor, batch: Batch) -> Tensor:
        """(B,) losses of logits z (B, m, K)."""
        return self.inner.judged(z, batch) + self.term(z, batch)

    @abstractmethod
    def term(self, z: Tensor, batch: Batch) -> Tensor:
        """(B,) what is added."""
