"""Iterative training set refinement (Beggel, Pfeiffer and Bischl 2019, arXiv 1901.06355)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.anomaly.learner import Learner
from torchproof.anomaly.rejection import worst_reconstructed
from torchproof.anomaly.scores import latents, scores
from torchproof.anomaly.stages import Stage, a_share, all_ones, whole
from torchproof.core.errors import InputError, unknown

Choose = Callable[[Learner, Tensor, float], Tensor]
"""From the learner, the images and a share to the candidates for rejection: (N,), bool."""


def outside_one_class_svm(learner: Learner, x: Tensor, share: float) -> Tensor:
    """Latents outside a one-class SVM (Gaussian kernel, nu = share): the published choice."""
    from sklearn.svm import OneClassSVM  # slow to load

    z = latents(learner.network, x).double().cpu().numpy()
    outside = OneClassSVM(kernel="rbf", nu=share).fit(z).predict(z) < 0
    return torch.as_tensor(outside, device=x.device)


def least_likely(learner: Learner, x: Tensor, share: float) -> Tensor:
    """The `share` of the lowest likelihoods under the prior itself, without an SVM. Ours."""
    likelihood = scores(learner.network, x).likelihood
    chosen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    chosen[likelihood.topk(max(1, round(share * len(x))), largest=False).indices] = True
    return chosen


CANDIDATES: Mapping[str, Choose] = {
    "one-class-svm": outside_one_class_svm,
    "likelihood": least_likely,
    "reconstruction": worst_reconstructed,
}


@dataclass(frozen=True)
class ITSR:
    """For an adversarial autoencoder; section 3 of the paper, in three parts.

    1. `pretrain` epochs on everything. 2. `rounds` times: the candidates, `share` of all images
    (nu of the one-class SVM), get weight 0, then `refine` epochs on the others. 3. Candidates of
    the last round whose reconstruction error lies above their own quantile `keep` get `weight`, the
    others stay at 0, then `retrain` epochs.

    Two readings of ours: each round looks at all images anew (`accumulate=True` keeps those of
    former rounds as well), and the quantile is that of the candidates. The paper's negative weight
    is not known; -0.1 is ours. nu bounds what one round can reject: a contamination above it is
    never removed whole unless rounds accumulate.

    The premise is that outliers lie where the prior is low. Where they do not, this rejects normal
    images of rare looks: `torchproof.anomaly.premise` says what it was like.
    """

    pretrain: int = 500
    rounds: int = 10
    refine: int = 100
    retrain: int = 1000
    share: float = 0.02
    keep: float = 0.8
    weight: float = -0.1
    candidates: str = "one-class-svm"
    accumulate: bool = False

    def __post_init__(self) -> None:
        whole(pretrain=self.pretrain, rounds=self.rounds, refine=self.refine, retrain=self.retrain)
        a_share(share=self.share, keep=self.keep)
        if self.candidates not in CANDIDATES:
            raise unknown("way to choose candidates", self.candidates, CANDIDATES)
        if not -1 <= self.weight < 0:
            remedy = "try -0.1, or EarlyRejection, whose weight may be 0"
            raise InputError(f"weight = {self.weight:g}", "a number in [-1, 0)", remedy)

    def stages(self) -> tuple[Stage, ...]:
        """Pre-training, and the rounds of refinement after it."""
        return (
            Stage("pre-training", self.pretrain, all_ones),
            *(
                Stage(f"refinement {number + 1}", self.refine, self._reject)
                for number in range(self.rounds)
            ),
            Stage("re-training", self.retrain, self._make_worse),
        )

    def _reject(self, learner: Learner, x: Tensor, before: Tensor) -> Tensor:
        rejected = CANDIDATES[self.candidates](learner, x, self.share)
        if self.accumulate:
            rejected |= before == 0
        return torch.ones_like(before).masked_fill(rejected, 0.0)

    def _make_worse(self, learner: Learner, x: Tensor, before: Tensor) -> Tensor:
        weights, candidates = before.clone(), before == 0
        if not bool(candidates.any()):
            return weights
        error = scores(learner.network, x).error
        weights[candidates & (error > error[candidates].quantile(self.keep))] = self.weight
        return weights
