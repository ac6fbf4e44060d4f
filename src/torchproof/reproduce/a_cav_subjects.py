"""What `reproduce a-cav` looks into: a network, layers, concept images, classes to ask about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from torchproof import data as sets
from torchproof.core.errors import FileError, MissingExtra
from torchproof.nn import build
from torchproof.reproduce.efficientnet import efficientnets
from torchproof.reproduce.experiment import Request
from torchproof.train import Settings, Standard, fit

TEXTURES, PICTURES = "npz:textures.npz", "npz:imagenet.npz"
SMALL, LARGE = 128, 224  # pixels; textures are crops of 128
ASKED = 48  # images that a TCAV score is counted on
# Textures with an ImageNet class that one would name for them.
CLASSES = {
    "banded": (340, "zebra"),
    "bubbly": (971, "bubble"),
    "chequered": (918, "crossword puzzle"),
    "cobwebbed": (815, "spider web"),
}
DIGITS = ("3", "5", "8")


@dataclass(frozen=True, eq=False)
class Subject:
    """name: of the network; images x (N, C, H, W) with their concept y (N,), of which those not in
    `concepts` only serve as random images; targets: concept -> class number and name, images: the
    ones whose logit of that class is asked for.
    """

    name: str
    about: str
    model: nn.Module
    layers: tuple[str, ...]
    x: Tensor
    y: Tensor
    names: tuple[str, ...]
    concepts: tuple[str, ...]
    targets: Mapping[str, tuple[int, str]]
    images: Mapping[str, Tensor]
    sha256: str

    def of(self, concept: str) -> Tensor:
        """(N,) which images show the concept."""
        return self.y == self.names.index(concept)


def subject(request: Request) -> Subject:
    """EfficientNet-Lite 0 with textures for concepts; a small network on the bundled digits where
    the data or the package is not there. (The networks of the data folder are one module each:
    they have no layers to be named.)
    """
    size = SMALL if request.scale == "small" else LARGE
    try:
        textures, pictures = (
            sets.load(name, data_dir=request.data_dir, split="all") for name in (TEXTURES, PICTURES)
        )
        model = efficientnets(["lite0"], size)["lite0"]
    except (FileError, MissingExtra) as error:
        request.say(f"the bundled digits take the place of textures, because of: {error.given}")
        return _digits()
    asked = _sized(pictures.take(ASKED).x, size)
    return Subject(
        "efficientnet-lite0", f"textures.npz, images at {size} x {size}", model,
        ("1._blocks.5", "1._avg_pooling"), _sized(textures.x, size), textures.y, textures.classes,
        tuple(CLASSES) if request.scale == "small" else textures.classes, CLASSES,
        dict.fromkeys(CLASSES, asked), textures.sha256,
    )  # fmt: skip


def _sized(x: Tensor, size: int) -> Tensor:
    if x.shape[-1] == size:
        return x
    return interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(
        0, 1
    )


def _digits() -> Subject:
    """A small network trained for a few epochs; a concept is the class of that name."""
    train, test = (sets.load("digits", split=split) for split in ("train", "test"))
    size = train.x.shape[-1]
    model = build(
        "small-cnn", channels=1, size=size, classes=10, widths=(16, 32), hidden=32, seed=0
    )
    settings = Settings.of(
        epochs=6, lr=1e-2, batch_size=64, optimiser="adam", schedule="cyclic", weight_decay=0.0,
        held_out=0, seed=0,
    )  # fmt: skip
    for _ in fit(model, (train.x, train.y), Standard(), settings):
        pass
    x, y = torch.cat([train.x, test.x]), torch.cat([train.y, test.y])
    return Subject(
        "small-cnn", "the bundled digits", model.eval(), ("net.act1", "net.act2"), x, y,
        train.classes, DIGITS, {name: (int(name), name) for name in DIGITS},
        {name: test.x[test.y == int(name)][:ASKED] for name in DIGITS}, train.sha256,
    )  # fmt: skip
