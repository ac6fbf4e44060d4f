"""Randomised smoothing: certificates for the classifier that answers what a network most often
answers under noise. They hold with a probability, and for that classifier, not for the network.
"""

from torchproof.verify.smoothing.certify import (
    ABSTAIN,
    Certificate,
    certify,
    largest_radius,
    predict,
)
from torchproof.verify.smoothing.confidence import lower_bound, upper_bound
from torchproof.verify.smoothing.counting import class_counts
from torchproof.verify.smoothing.logs import read_log
from torchproof.verify.smoothing.noise import Ablation, Gaussian, Laplace, Noise, Uniform
from torchproof.verify.smoothing.run import Smoothing, SmoothingRun
from torchproof.verify.smoothing.summary import Log
from torchproof.verify.smoothing.theories import THEORIES

__all__ = [
    "ABSTAIN",
    "THEORIES",
    "Ablation",
    "Certificate",
    "Gaussian",
    "Laplace",
    "Log",
    "Noise",
    "Smoothing",
    "SmoothingRun",
    "Uniform",
    "certify",
    "class_counts",
    "largest_radius",
    "lower_bound",
    "predict",
    "read_log",
    "upper_bound",
]
