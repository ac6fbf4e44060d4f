"""What the tests of detectors share: a classifier with dropout, trained for seconds, images of it,
clean and attacked, in three parts that have nothing in common, and every detector fitted once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof import data as sets
from torchproof.attack.catalogue import pgd
from torchproof.attack.run import Run
from torchproof.attack.untouched import forked
from torchproof.core.keys import permutation, seed_of
from torchproof.core.threats import parse
from torchproof.detect.detector import Clean, Detector, Fitted
from torchproof.detect.dnr import DNR
from torchproof.detect.feature_squeezing import FeatureSqueezing
from torchproof.detect.kd_bu import KDBU
from torchproof.detect.lid import LID
from torchproof.detect.magnet import MagNet
from torchproof.detect.nic import NIC
from torchproof.detect.nss import NSS
from torchproof.detect.parts.squeezers import BitDepth, NonLocalMeans
from torchproof.detect.sfad import SFAD
from torchproof.nn.cnn import SmallCNN

THREAT = "linf:0.25"
FIT, CALIBRATE, TEST = 600, 300, 250
RECIPES: dict[str, Detector] = {
    "kd-bu": KDBU(),
    "kd": KDBU(passes=0),
    "lid": LID(),
    "nss": NSS(),
    # strokes of 8 x 8 digits are a pixel wide, and the paper's median for MNIST wipes them out
    "feature-squeezing": FeatureSqueezing((BitDepth(2), NonLocalMeans(5, 3, 60.0))),
    "magnet": MagNet(epochs=7, batch=16, lr=0.03),
    "dnr": DNR(folds=3),
    "sfad": SFAD(width=0.02, epochs=8, batch=60, lr=0.03),
    "nic": NIC(epochs=25, lr=3e-3, components=50),
}


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


@pytest.fixture(scope="session")
def barely(classifier: nn.Module, images: Images) -> Tensor:
    """Test images moved just across the boundary, (N, 1, 8, 8): they all fool the classifier."""
    attack = pgd(parse("linf:0.15"), steps=20)
    found = attack(classifier, images.test.x, images.test.y, run=Run(1))
    return (images.test.x + found.value).clamp(0, 1)[found.lost]


@pytest.fixture(scope="session")
def recipes() -> dict[str, Detector]:
    return RECIPES


@pytest.fixture(scope="session")
def fitted_as(classifier: nn.Module, images: Images) -> Callable[[str], Fitted]:
    """The fitted detector of a name; it is shared, so copy it before you change it."""
    kept: dict[str, Fitted] = {}

    def made(name: str) -> Fitted:
        if name not in kept:
            recipe, part = RECIPES[name], images.fit
            adversarial = part.adversarial if recipe.supervised else None
            kept[name] = recipe.fit(classifier, Clean(part.x, part.y, adversarial))
        return kept[name]

    return made
