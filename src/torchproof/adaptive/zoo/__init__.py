"""Thirteen published defences that Tramer et al. 2020 broke, small: imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

from torchproof.adaptive.defence import Defence
from torchproof.core.errors import unknown

PLACES: dict[str, str] = {
    "k-wta": "k_wta",
    "odds-are-odd": "odds_are_odd",
    "generative": "generative",
    "sparse-fourier": "sparse_fourier",
    "mahalanobis": "mahalanobis",
    "ecoc": "ecoc",
    "ensemble-diversity": "ensemble_diversity",
    "empir": "empir",
    "temporal": "temporal",
    "mixup-inference": "mixup_inference",
    "me-net": "me_net",
    "asymmetrical": "asymmetrical",
    "weakness": "weakness",
}
"""The module of this package that holds each defence, in the order of Tramer et al. 2020."""


class _Zoo(Mapping[str, Defence]):
    def __getitem__(self, name: str) -> Defence:
        """Raises UnknownName, a KeyError, for a name that is none."""
        if name not in PLACES:
            raise unknown("defence", name, PLACES)
        module = importlib.import_module(f"torchproof.adaptive.zoo.{PLACES[name]}")
        return module.DEFENCE  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


ZOO: Mapping[str, Defence] = _Zoo()
