"""Training on the dual of the convex relaxation (Wong and Kolter 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from torchproof.train.certified.bounding import margins
from torchproof.train.certified.ibp import IBP
from torchproof.train.method import Batch
from torchproof.verify import bounds


@dataclass(frozen=True)
class ConvexAdversarial(IBP):
    """The convex adversarial loss: CE(-m, y), m the dual bounds of Wong and Kolter 2018, which
    are those of Fast-Lin, in the middle layers too.

    Exact where the authors' later code projects onto random directions, so that each unit that may
    change its sign costs two walks back: for small networks. Deviations: the ball is cut with the
    range of images.
    """

    kappa: tuple[float, float] = (0.0, 0.0)

    def lower(self, model: nn.Module, batch: Batch, share: float) -> Tensor:
        x, threat = self.region(batch, share)
        return margins(self.bounds(model, batch, x, threat, bounds.FAST_LIN), batch.y)
