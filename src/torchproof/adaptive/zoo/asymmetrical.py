"""Asymmetrical adversarial training (Yin, Kolouri and Rohde 2020): for each class a detector that
tells its images from images of other classes, the latter perturbed to deceive it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import Declared, DefendedPredictor
from torchproof.adaptive.zoo.descent import descend
from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import EveryTarget
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.objectives import CrossEntropy, TargetedMargin
from torchproof.core.threats import Threat
from torchproof.core.two_stage import TwoStage
from torchproof.core.unaware import Unaware
from torchproof.nn.cnn import SmallCNN

HARD = 0.1  # Linf radius that the detectors are trained against
STEPS, STRIDE = 8, 0.3  # of their attack, the latter in radii
HIDDEN = 64
EPOCHS, ROUNDS = 8, 6  # of the classifier, of the detectors


class Detectors(nn.Module):
    """K networks of one hidden layer, images to logits d (B, K): above 0 = an image of class k."""

    def __init__(self, numbers: int, classes: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(classes, numbers, hidden) * (2 / numbers) ** 0.5)
        self.inner = nn.Parameter(torch.zeros(classes, 1, hidden))
        self.last = nn.Parameter(torch.randn(classes, hidden, 1) * (1 / hidden) ** 0.5)
        self.outer = nn.Parameter(torch.zeros(classes, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.apart(flat.expand(len(self.first), *flat.shape)).T

    def apart(self, x: Tensor) -> Tensor:
        """Numbers (K, B, D), to each detector its own, to logits (K, B)."""
        hidden = torch.baddbmm(self.inner, x, self.first).relu()
        return torch.baddbmm(self.outer, hidden, self.last)[:, :, 0]


def deceived(
    detectors: Detectors, x: Tensor, own: Tensor, eps: float = HARD, steps: int = STEPS
) -> Tensor:
    """Images x (B, D) as each detector gets to see them, (K, B, D): unchanged where own (K, B), by
    PGD from a random start towards a higher logit within eps where not.
    """
    clean = x.expand(len(own), *x.shape)
    free = (~own)[..., None].to(x)
    delta = free * torch.empty_like(clean).uniform_(-eps, eps)
    for _ in range(steps):
        moved = (clean + delta).clamp(0, 1).requires_grad_()
        (grad,) = torch.autograd.grad(detectors.apart(moved).sum(), [moved])
        delta = free * (moved.detach() - clean + STRIDE * eps * grad.sign()).clamp(-eps, eps)
    return (clean + delta).clamp(0, 1)


def detection(detectors: Detectors, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each detector on own images (B, C, H, W), and on deceptive other ones; both
    kinds weigh the same.
    """
    classes = len(detectors.first)
    own = y[None] == torch.arange(classes, device=y.device)[:, None]
    logits = detectors.apart(deceived(detectors, x.flatten(1), own))
    weight = torch.where(own, float(classes - 1), 1.0)
    return F.binary_cross_entropy_with_logits(logits, own.float(), weight)


class Doubt(nn.Module):
    """The logit of the detector of the class that is said, negated: the reject part of the
    "integrated" classifier.
    """

    def __init__(self, detectors: Detectors) -> None:
        super().__init__()
        self.detectors = detectors

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        said: Tensor = self.detectors(x).gather(1, logits.argmax(1, keepdim=True))
        return -said[:, 0]


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """A plain network with a detector for each class, and itself."""
    data = material.train
    channels, height, width = data.x.shape[1:]
    classes = len(data.classes)
    with forked(keys.seed_of(seed, "weights"), torch.device("cpu")):
        net = SmallCNN(channels, width, classes)
        detectors = Detectors(channels * height * width, classes)

    def entropy(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y)

    def asymmetrical(x: Tensor, y: Tensor) -> Tensor:
        return detection(detectors, x, y)

    descend(net, entropy, data, epochs=EPOCHS, seed=seed)
    descend(detectors, asymmetrical, data, epochs=ROUNDS, seed=seed, batch=64)
    defended = DefendedPredictor(net, reject=Doubt(detectors), declared=Declared(rejects=True))
    return defended.calibrated(material.calibration.x), net


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    blind = pgd(threat, 40, objective=Unaware(CrossEntropy(), defended.rule))
    return (Attempt("PGD-40", blind, why="away from the class alone, whatever the detectors say"),)


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    rule = defended.rule
    assert rule is not None
    staged = pgd(threat, 200, objective=TwoStage(rule))
    both = pgd(threat, 200, objective=replace(rule, inner=TargetedMargin()))
    why = "into each class first, then past its detector alone; the best iterate is kept"
    return (
        Attempt("two stages, every target", EveryTarget(staged, 9), why=why),
        Attempt("class and detector, every target", EveryTarget(both, 9), why="both in one loss"),
    )


DEFENCE = Defence(
    name="asymmetrical",
    source="Yin, Kolouri and Rohde 2020",
    read="abstract and introduction; how it was broken, in a summary of Tramer et al. 2020 and of "
    "their published notebook",
    reconstructed="classifier, detectors (one hidden layer) and their training, on a smaller "
    "radius than the attacked one; the naive attack, which leaves the detectors out; of the two "
    "ways to use the detectors the integrated one",
    data="mnist",
    threat="linf:0.25",
    flags=("all-rejected", "other-loss-wins", "active-test-fails"),
    why="a loss that is about the class alone finds images whose class no detector believes",
    train=train,
    naive=naive,
    adaptive=adaptive,
)
