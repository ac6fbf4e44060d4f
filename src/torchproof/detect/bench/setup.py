"""What a comparison of detectors is to be made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchproof.core.errors import InputError, unknown
from torchproof.core.threats import Threat
from torchproof.detect.bench.attack_rows import AttackRow
from torchproof.detect.bench.splits import Sizes
from torchproof.detect.detector import Detector


@dataclass(frozen=True)
class Setup:
    """recipes, rows: by their names; train_on: names of rows that supervised detectors are fitted
    on; main: the row whose threat the adaptive attacks keep to; fpr: that thresholds are for.

    Raises UnknownName for rows that are not there, InputError without a detector, without a radius
    of the main row, and for supervised detectors without an attack to learn.
    """

    recipes: Mapping[str, Detector]
    rows: Mapping[str, AttackRow]
    main: str
    train_on: tuple[str, ...]
    sizes: Sizes = Sizes()
    fpr: float = 0.05
    seed: int = 0
    batch_size: int = 128

    def __post_init__(self) -> None:
        for name in (self.main, *self.train_on):
            if name not in self.rows:
                raise unknown("attack", name, self.rows)
        if not self.recipes:
            raise InputError("no detector", "at least one", "see `torchproof list detectors`")
        if self.rows[self.main].threat is None:
            given = f"{self.main}, which has no radius, for adaptive attacks"
            raise InputError(given, "a bounded attack", "name one such as PGD linf:0.3")
        if not self.train_on and any(r.supervised for r in self.recipes.values()):
            given = "supervised detectors and no attack to learn"
            raise InputError(given, "at least one attack", "name it in train_on")

    @property
    def threat(self) -> Threat:
        """That of the row which the detectors' own attacks are compared with."""
        threat = self.rows[self.main].threat
        assert threat is not None  # checked above
        return threat

    def fits(self) -> list[tuple[str, str | None]]:
        """(detector, attack it is trained on) of everything that is fitted."""
        found: list[tuple[str, str | None]] = []
        for name, recipe in self.recipes.items():
            found += [(name, on) for on in self.train_on] if recipe.supervised else [(name, None)]
        return found

    def adaptive(self, trained_on: str | None) -> bool:
        """One fit of each detector is attacked adaptively: that on the main row, or the first."""
        first = self.main if self.main in self.train_on else next(iter(self.train_on), None)
        return trained_on in (None, first)

    def settings(self) -> dict[str, Any]:
        """All that decides the figures, besides model and images."""
        sizes = self.sizes
        return {
            "recipes": {name: repr(recipe) for name, recipe in self.recipes.items()},
            "rows": {name: row.about for name, row in self.rows.items()},
            "main": self.main, "train_on": list(self.train_on), "fpr": self.fpr,
            "sizes": [sizes.fit, sizes.calibrate, sizes.test, sizes.adaptive], "seed": self.seed,
        }  # fmt: skip
