"""What the expressive losses have in common (De Palma et al. 2024): an adversarial image and
interval bounds, mixed by one number.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

from torch import Tensor, nn

from torchproof.attack.starts import Start, Uniform
from torchproof.core.errors import InputError
from torchproof.core.threats import Threat
from torchproof.train.at import AT
from torchproof.train.certified.bounding import Bounding, margins
from torchproof.train.method import Batch, answers, cross_entropy


@dataclass(frozen=True)
class Expressive(Bounding):
    """A loss that goes from that of PGD training (alpha = 0) to that of IBP without a clean term
    (alpha = 1) at the radius that is due; before the ramp it is the clean loss.

    steps, length, start: of PGD, length in units of the radius; its last iterate x' is made in eval
    mode and read in train mode, as in AT, batch-norm statistics included. Raises InputError for
    alpha outside [0, 1].
    """

    alpha: float = 0.5
    steps: int = 8
    length: float = 0.25
    start: Start = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            remedy = "0 is adversarial training, 1 interval bounds"
            raise InputError(f"alpha = {self.alpha!r}", "a number in [0, 1]", remedy)
        _ = self._inner(self.threat)  # what cannot work fails here, not in the first step

    def _inner(self, threat: Threat) -> AT:
        return AT(threat, self.steps, self.length, self.start)

    @property
    def passes(self) -> int:
        return 1 + super().passes

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        ready, share = super().prepare(model, batch), self.share(batch)
        return ready if share == 0 else self._inner(self.due(share)).craft(model, ready)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        share = self.share(batch)
        if share == 0:
            return cross_entropy(answers(model, batch.x), batch)
        assert batch.adv is not None, "losses are read from a prepared batch"
        lower = margins(self.bounds(model, batch, batch.x, self.due(share)), batch.y)
        return self.mixed(answers(model, batch.adv), lower, batch)

    @abstractmethod
    def mixed(self, logits: Tensor, lower: Tensor, batch: Batch) -> Tensor:
        """(B,) losses from the logits (B, K) of x' and lower bounds (B, K - 1) of the margins."""
