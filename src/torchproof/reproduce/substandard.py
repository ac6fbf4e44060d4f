"""The substandard networks of Tao et al. 2021: what goes wrong when a network is trained.

Each kind changes the training set (or leaves the network untrained); labels and images that are
drawn are keyed by the seed and the row.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.core import keys
from torchproof.core.files import write
from torchproof.core.objectives import Targeted
from torchproof.core.threats import Threat
from torchproof.data.dataset import Dataset

KINDS = {
    "naive": "never trained",
    "noise": "trained on uniform noise with the images' labels",
    "mislabelled": "trained on uniformly drawn labels",
    "poisoned": "trained on images moved towards the next class, labels kept",
    "quality": "trained as it should be",
}


def noisy(train: Dataset, seed: int) -> Dataset:
    """Every image replaced by uniform noise in [0, 1]."""
    key = keys.mix(seed, "noise", torch.arange(len(train)))
    return _changed(train, keys.uniform(key, 0, tuple(train.x.shape[1:])), train.y)


def mislabelled(train: Dataset, seed: int) -> Dataset:
    """Every label drawn uniformly from all classes."""
    key = keys.mix(seed, "label", torch.arange(len(train)))
    return _changed(train, train.x, keys.integers(key, 0, len(train.classes), ()))


def poisoned(
    train: Dataset, clean: nn.Module, threat: Threat, steps: int, seed: int, folder: Path
) -> Dataset:
    """Every image moved towards class y + 1 of the `clean` network by PGD with steps of eps / 5,
    its label kept. The images are stored in `folder` as bytes, and read back from there.
    """
    path = folder / "poisoned.npy"
    if not path.exists():
        attack = Attack(threat, Targeted(), PGD(steps, 0.2, Zero()))
        run = Run(seed=seed, patience=math.inf, last=True)
        target = (train.y + 1) % len(train.classes)
        found = attack(clean, train.x, train.y, target=target, run=run)
        assert isinstance(found.value, Tensor), "perturbations of single inputs are one tensor"
        levels = (train.x + found.value).clamp(0, 1).mul(255).round().to(torch.uint8)
        stored = io.BytesIO()
        np.save(stored, levels.numpy(), allow_pickle=False)
        write(path, stored.getvalue())
    levels = torch.from_numpy(np.load(path, allow_pickle=False))
    return _changed(train, levels.float() / 255, train.y)


def _changed(train: Dataset, x: Tensor, y: Tensor) -> Dataset:
    return Dataset.of(x, y, train.classes, train.name, train.split)
