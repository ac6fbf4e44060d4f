"""Of `reproduce anomaly`: on which images, in which sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from torchproof.anomaly.contamination import Sizes
from torchproof.anomaly.itsr import ITSR
from torchproof.reproduce.experiment import Request, at_hand

TILES = "npz:magnetic_tile.npz"
PAIRS = {  # the paper's, normal and outlier
    "mnist": (("0", "2"),),
    "fashion-mnist": (("T-shirt/top", "Pullover"), ("T-shirt/top", "Ankle boot")),
}


@dataclass(frozen=True)
class Part:
    """Images of the class `normal`, and outliers: of the class `outlier`, or of all others (None).

    Networks are dense; marks: the epochs at which they are judged, early and late among them; the
    adversarial ones are trained as long. size: pixels that images are shrunk to. note: what a
    reader has to know of how the part came about.
    """

    data: str
    split: str
    normal: str
    outlier: str | None
    sizes: Sizes
    size: int
    width: int
    marks: tuple[int, ...]
    early: int
    late: int
    itsr: ITSR
    shares: tuple[float, ...] = (0.0, 0.01, 0.05, 0.1)
    share: float = 0.05
    note: str = ""

    @property
    def about(self) -> str:
        name = "magnetic tiles" if self.data == TILES else self.data
        return f"{name}, {self.normal} against {self.outlier or 'defects'}"

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.about.lower())


SMALL = ITSR(pretrain=50, rounds=10, refine=5, retrain=50)
SHORT = ITSR(pretrain=15, rounds=10, refine=2, retrain=15)
_MARKS = (5, 15, 50, 150)
LOOKED = "pair and epochs were chosen after several had been looked at"


def parts_of(request: Request) -> tuple[Part, ...]:
    """MNIST, Fashion-MNIST (two pairs of classes) and magnetic tiles with defects; the bundled
    digits where they are not there. At scale paper with the published networks and epochs.
    """
    made = _paper if request.scale == "paper" else _small
    names = at_hand(("mnist", "fashion-mnist", TILES), request)
    return tuple(part for name in names for part in made(name))


def _small(name: str) -> tuple[Part, ...]:
    if name == TILES:
        sizes = Sizes(600, 120, 200)
        return (Part(name, "all", "MT_Free", None, sizes, 32, 200, _MARKS, 15, 150, SMALL),)
    if name not in PAIRS:
        sizes = Sizes(100, 30, 40)
        return (Part(name, "all", "0", "2", sizes, 8, 100, _MARKS, 15, 150, SMALL),)
    sizes = Sizes(680, 100, 200)
    first, *others = (
        Part(name, "test", *pair, sizes, 28, 200, _MARKS, 15, 150, SMALL) for pair in PAIRS[name]
    )
    sooner = [
        replace(part, marks=(2, 5, 15, 50), early=5, late=50, itsr=SHORT, note=LOOKED)
        for part in others
    ]
    return (first, *sooner)


def _paper(name: str) -> tuple[Part, ...]:
    marks = (50, 100, 400, 1000, 4000)
    if name == TILES:
        sizes = Sizes(600, 120, 200)
        return (Part(name, "all", "MT_Free", None, sizes, 64, 1000, marks, 400, 4000, ITSR()),)
    if name not in PAIRS:
        return _small(name)
    sizes, long = Sizes(4900, 400, 500), ITSR(retrain=1000 if name == "mnist" else 500)
    return tuple(
        Part(name, "train", *pair, sizes, 28, 1000, marks, 400, 4000, long) for pair in PAIRS[name]
    )
