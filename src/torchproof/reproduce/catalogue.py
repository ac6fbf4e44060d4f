"""Which experiments there are and where: imported when they are asked for, not before."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping

from torchproof.core.errors import unknown
from torchproof.reproduce.experiment import Outcome, Request
from torchproof.reproduce.places import PLACES

Experiment = Callable[[Request], Outcome]


class _Experiments(Mapping[str, Experiment]):
    def __getitem__(self, name: str) -> Experiment:
        """Raises UnknownName, a KeyError, for a name that is none."""
        if name not in PLACES:
            raise unknown("experiment", name, PLACES)
        module, attribute = PLACES[name]
        found = getattr(importlib.import_module(f"torchproof.reproduce.{module}"), attribute)
        return found  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


EXPERIMENTS: Mapping[str, Experiment] = _Experiments()
