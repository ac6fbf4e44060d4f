"""Every detector by its name; a recipe's module is read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from torchproof.core.errors import InputError, unknown
from torchproof.core.expression import parse
from torchproof.detect.detector import Detector

_PLACES = {
    "kd-bu": ("kd_bu", "KDBU"),
    "lid": ("lid", "LID"),
    "nss": ("nss", "NSS"),
    "feature-squeezing": ("feature_squeezing", "FeatureSqueezing"),
    "magnet": ("magnet", "MagNet"),
    "dnr": ("dnr", "DNR"),
    "sfad": ("sfad", "SFAD"),
    "nic": ("nic", "NIC"),
}

# Where a method was published with other settings for these images than a recipe's defaults; what
# is tuned on the images (the bandwidth of kd-bu) is left to the recipe.
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "mnist": {"sfad": {"coverage": 1.0, "rejected": (0.06, 0.012), "noise": 1.0}},
    "cifar10": {
        "lid": {"k": 30},
        "magnet": {"noise": 0.025, "errors": (("II", 1),), "epochs": 400},
    },
    "svhn": {"magnet": {"noise": 0.025, "errors": (("II", 1),), "epochs": 350}},
}


class Catalogue(Mapping[str, type[Detector]]):
    """Name -> recipe class; raises UnknownName for others."""

    def __getitem__(self, name: str) -> type[Detector]:
        if name not in _PLACES:
            raise unknown("detector", str(name), _PLACES)
        module, recipe = _PLACES[name]
        found: type[Detector] = getattr(import_module(f"torchproof.detect.{module}"), recipe)
        return found

    def __contains__(self, name: object) -> bool:
        return name in _PLACES

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


DETECTORS = Catalogue()


def recipe(text: str, data: str = "") -> tuple[str, Detector]:
    """The name, and the recipe that `text` describes: a name, or a call such as `lid(k=30)`.

    Settings that the text leaves out are those `PUBLISHED` for the data set, where there are some;
    those of MNIST serve Fashion-MNIST. Raises UnknownName, InputError.
    """
    name = text.partition("(")[0].strip().lower().replace("_", "-")
    made = DETECTORS[name]
    data = {"fashion-mnist": "mnist"}.get(data, data)
    found = parse(text, {name: made}, **PUBLISHED.get(data, {}).get(name, {}))
    if not isinstance(found, Detector):
        raise InputError(f"detector {text!r}", "a detector", "see `torchproof list detectors`")
    return name, found
