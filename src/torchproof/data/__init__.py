"""Images and labels: the bundled digits, readers of public data sets, and seeded augmentations."""

from torchproof.core.checks import check
from torchproof.data.augment import (
    AUGMENTATIONS,
    Augmentation,
    Compose,
    Crop,
    Cutout,
    Flip,
    GaussianNoise,
)
from torchproof.data.dataset import Dataset, fingerprint
from torchproof.data.sources import DATASETS, load

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "Augmentation",
    "Compose",
    "Crop",
    "Cutout",
    "Dataset",
    "Flip",
    "GaussianNoise",
    "check",
    "fingerprint",
    "load",
]
