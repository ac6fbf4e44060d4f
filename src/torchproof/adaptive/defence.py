"""A row of the zoo: a published defence that was broken, its undefended twin, the evaluation its
paper had and the attack that broke it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.predictor import DefendedPredictor
from torchproof.core.errors import InputError
from torchproof.core.threats import Threat, parse
from torchproof.data.dataset import Dataset


@dataclass(frozen=True)
class Material:
    """What a row is built from. train: for weights; calibration: clean images kept apart, for
    thresholds, and for the reference images that an adversary may have; test: attacked, and read
    by nothing else.
    """

    train: Dataset
    calibration: Dataset
    test: Dataset


Train = Callable[[Material, int], tuple[DefendedPredictor, nn.Module]]
Attacks = Callable[[DefendedPredictor, Threat, Material], Sequence[Attempt]]


@dataclass(frozen=True)
class Defence:
    """name: as in file names, such as "k-wta"; source: "Xiao et al. 2020"; read, reconstructed:
    what of the method was read where, and what is our reconstruction; data: the data set it is
    trained on; threat: "linf:0.3"; flags: the red flags that are right for it (the ground truth),
    any one of them counts; why: why these, in a sentence.

    train(material, seed): the defended predictor, calibrated where it rejects, and the undefended
    base: same network, same training, the component left out. naive(defended, threat, material):
    the evaluation of its paper. adaptive(...): the hand-made attacks that broke it, strongest
    first. sources of randomness are keyed by `seed` alone. Raises InputError for a row without
    name, source or flags.
    """

    name: str
    source: str
    read: str
    reconstructed: str
    data: str
    threat: str
    flags: tuple[str, ...]
    why: str
    train: Train
    naive: Attacks
    adaptive: Attacks

    def __post_init__(self) -> None:
        missing = [f for f in ("name", "source", "read", "flags") if not getattr(self, f)]
        if missing:
            given = f"a defence without {', '.join(missing)}"
            raise InputError(given, "name, source, what was read and the right flags", "add them")
        parse(self.threat)
