"""Adaptive diversity promoting (Pang, Xu, Du, Chen and Zhu 2019): an ensemble whose members must
differ in how they rank the wrong classes, so that what fools one does not fool the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import DefendedPredictor
from torchproof.adaptive.zoo.descent import descend
from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import EveryTarget, Restarts
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.objectives import CrossEntropy, TargetedMargin
from torchproof.core.threats import Threat
from torchproof.nn.cnn import SmallCNN

MEMBERS = 3
ENTROPY, DIVERSITY = 2.0, 0.5  # alpha and beta
EPOCHS = 8


class MeanProbabilities(nn.Module):
    """Logits (M, B, K) to log of the mean probabilities (B, K)."""

    def forward(self, answers: Tensor) -> Tensor:
        return answers.log_softmax(2).logsumexp(0) - torch.tensor(float(len(answers))).log()


def diversity(p: Tensor, y: Tensor) -> Tensor:
    """log det(M^T M) (B,) of probabilities p (M, B, K): the squared volume that the members'
    probabilities of the wrong classes span, each scaled to length 1 (Pang et al. 2019, eq. 4).
    """
    wrong = p.permute(1, 0, 2).scatter(2, y[:, None, None].expand(-1, len(p), 1), 0.0)
    rows = wrong / wrong.norm(dim=2, keepdim=True).clamp_min(1e-12)
    eye = 1e-6 * torch.eye(len(p), dtype=p.dtype, device=p.device)
    return torch.logdet(rows @ rows.transpose(1, 2) + eye)


def loss(z: Tensor, y: Tensor, entropy: float = ENTROPY, diverse: float = DIVERSITY) -> Tensor:
    """sum_m CE(z_m, y) - entropy H(mean p) - diverse log det, the mean over the rows of logits z
    (M, B, K); the members alone where both weights are 0.
    """
    each = torch.stack([F.cross_entropy(member, y) for member in z]).sum()
    if not entropy and not diverse:
        return each
    p = z.softmax(2)
    mean = p.mean(0)
    uncertain = -(mean * mean.clamp_min(1e-12).log()).sum(1)
    return each - (entropy * uncertain + diverse * diversity(p, y)).mean()


def _ensemble(material: Material, seed: int, entropy: float, diverse: float) -> DefendedPredictor:
    data = material.train
    channels, _, size = data.x.shape[1:]
    with forked(keys.seed_of(seed, "weights"), torch.device("cpu")):
        made = [SmallCNN(channels, size, len(data.classes)) for _ in range(MEMBERS)]
    members = nn.ModuleList(made)

    def joint(x: Tensor, y: Tensor) -> Tensor:
        return loss(torch.stack([member(x) for member in members]), y, entropy, diverse)

    descend(members, joint, data, epochs=EPOCHS, seed=seed)
    return DefendedPredictor(made, combine=MeanProbabilities())


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """Three networks trained with the regulariser, and the same three without it."""
    return (
        _ensemble(material, seed, ENTROPY, DIVERSITY),
        _ensemble(material, seed, 0.0, 0.0),
    )


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    few = pgd(threat, 10, 0.1, objective=CrossEntropy(), start=Zero())
    return (Attempt("PGD-10", few, why="ten steps of a tenth of eps, as in the paper"),)


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    every = EveryTarget(pgd(threat, 100, objective=TargetedMargin()), 9)
    long = Restarts(pgd(threat, 250, 0.05), 3)
    return (
        Attempt("PGD-100, every target", every, why="ten times the steps, one pair at a time"),
        Attempt("PGD-250 x 3", long, why="more steps and restarts of the same loss"),
    )


DEFENCE = Defence(
    name="ensemble-diversity",
    source="Pang, Xu, Du, Chen and Zhu 2019",
    read="how it was broken, in a summary of Tramer et al. 2020 and of their published notebook",
    reconstructed="networks and training; the regulariser, its weights 2 and 0.5 and the ten steps "
    "of the evaluation are from memory of the paper",
    data="mnist",
    threat="linf:0.1",
    flags=("more-steps-help", "incomplete-optimisation", "other-loss-wins", "active-test-fails"),
    why="members that pull in different directions make a crooked loss, on which ten short steps "
    "do not arrive",
    train=train,
    naive=naive,
    adaptive=adaptive,
)
