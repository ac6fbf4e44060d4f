"""LADDER: latent boundary-guided adversarial training (Zhou, Tsang and Yin 2022, arXiv 2206.03717).

A decoder inverts the network's encoder; for each pair of classes an attention SVM tells their
latents apart; latents moved along its normal and decoded are the examples that the network is
fine-tuned on. The perturbation is unbounded: the result is not Lp-robust.
"""

from torchproof.train.ladder.boundary_guided import BoundaryGuided
from torchproof.train.ladder.examples import Boundary, Examples, Fixed, Growing
from torchproof.train.ladder.latent import Layer, answer, encode
from torchproof.train.ladder.method import LADDER, Reconstruction
from torchproof.train.ladder.stages import LABEL, Course, Ladder, ladder_training
from torchproof.train.ladder.svm import Pairs, Recipe, interval, train_pairs

__all__ = [
    "LABEL", "LADDER", "Boundary", "BoundaryGuided", "Course", "Examples", "Fixed", "Growing",
    "Ladder", "Layer", "Pairs", "Recipe", "Reconstruction", "answer", "encode", "interval",
    "ladder_training", "train_pairs",
]  # fmt: skip
