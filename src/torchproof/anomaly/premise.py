"""Do the images that a method rejects look like outliers to the network that rejects them, and does
it know enough to say so?
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchproof.anomaly.learner import Learner
from torchproof.anomaly.scores import scores

NO_WORSE = (
    "the rejected images were reconstructed no worse than the others when they were chosen: what "
    "they were chosen by does not tell outliers"
)
UNTRAINED = (
    "when images were rejected the network reconstructed the others no better than one grey does: "
    "it had learnt nothing yet, so train longer before rejecting"
)


@dataclass(frozen=True)
class Premise:
    """Of the rejected images and the kept ones, at the moment of rejection: how many are rejected,
    mean log-likelihoods of latents (nats), mean reconstruction errors; error_grey: of the kept,
    were all pixels of their mean grey. Later errors say nothing: images that are not learnt get
    worse by that alone.
    """

    rejected: int
    likelihood_kept: float
    likelihood_rejected: float
    error_kept: float
    error_rejected: float
    error_grey: float

    @property
    def warning(self) -> str:
        """Empty where the rejected images are reconstructed worse, by a network that has learnt."""
        if self.error_kept >= self.error_grey:
            return UNTRAINED
        return "" if self.error_rejected > self.error_kept else NO_WORSE


def premise(learner: Learner, x: Tensor, weights: Tensor) -> Premise | None:
    """Of images x (N, C, H, W) of weights (N,), by the network as it is; below 1 is rejected. None
    where nothing is, or everything.
    """
    rejected = weights < 1
    if not bool(rejected.any()) or bool(rejected.all()):
        return None
    found = scores(learner.network, x)
    out, kept = found.take(rejected), found.take(~rejected)
    return Premise(
        rejected=int(rejected.sum()),
        likelihood_kept=float(kept.likelihood.mean()),
        likelihood_rejected=float(out.likelihood.mean()),
        error_kept=float(kept.error.mean()),
        error_rejected=float(out.error.mean()),
        error_grey=float(x[~rejected].var(correction=0)),
    )
