"""What the tests of detectors share: a classifier with dropout, trained for seconds, and images of
it, clean and attacked, in three parts that have nothing in common.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof import data as sets
from torchproof.attack.ascend import Run
from torchproof.attack.catalogue import pgd
from torchproof.attack.untouched import forked
from torchproof.core.keys import permutation, seed_of
from torchproof.core.threats import parse
from torchproof.nn.cnn import SmallCNN

THREAT = "linf:0.25"
FIT, CALIBRATE, TEST = 600, 300, 250


@dataclass(frozen=True)
class Part:
    """Images x (N, 1, 8, 8) that the classifier gets right, labels y (N,), what PGD made of them
    (N, 1, 8, 8), and which of these fool the classifier, (N,) bool. Where there are no adversarial
    images `adversarial` is the clean ones.
    """

    x: Tensor
    y: Tensor
    adversarial: Tensor
    fooled: Tensor


@dataclass(frozen=True)
class Images:
    """Three parts without a common image; that for calibration is not attacked."""

    fit: Part
    calibrate: Part
    test: Part


@pytest.fixture(scope="session")
def classifier() -> nn.Module:
    """small-cnn with dropout on the bundled digits, in eval mode; more than 95 % right."""
    train = sets.load("digits", split="train")
    with forked(seed_of(0, "classifier"), torch.device("cpu")):
        model = SmallCNN(1, 8, 10, widths=(8, 16), hidden=32, dropout=0.3)
        optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
        for epoch in range(15):
            for rows in permutation(len(train), 0, epoch).split(64):
                optimiser.zero_grad()
                F.cross_entropy(model(train.x[rows]), train.y[rows]).backward()
                optimiser.step()
    for parameter in model.parameters():
        parameter.grad = None
    return model.eval()


@pytest.fixture(scope="session")
def images(classifier: nn.Module) -> Images:
    """`fit`, `calibrate` and `test`, and what PGD at linf:0.25 made of the first and the last."""
    every = sets.load("digits", split="all")
    order = permutation(len(every), 0, "parts")
    with torch.no_grad():
        right = classifier(every.x[order]).argmax(1) == every.y[order]
    kept = order[right][: FIT + CALIBRATE + TEST]
    parts = []
    for name, rows in zip(("fit", "", "test"), kept.split([FIT, CALIBRATE, TEST]), strict=True):
        x, y = every.x[rows], every.y[rows]
        made, lost = x, torch.zeros(len(x), dtype=torch.bool)
        if name:
            attack = pgd(parse(THREAT), steps=20)
            found = attack(classifier, x, y, run=Run(seed_of(0, name), patience=10))
            made, lost = (x + found.value).clamp(0, 1), found.lost
        parts.append(Part(x, y, made, lost))
    return Images(*parts)
