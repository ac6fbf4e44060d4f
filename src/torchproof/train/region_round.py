"""Of region adversarial training: what is noted of a round, and what is kept of it on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from torchproof.attack.universal import Semantic
from torchproof.attack.untouched import home, precision, untouched
from torchproof.core.threats import Threat
from torchproof.train import checkpoint, distributed
from torchproof.train.folder import Folder, Save, described, digest
from torchproof.train.settings import FREE, Settings

LABEL = "reconstructed from the abstract of Wang et al. 2021: our reading"


class Round(BaseModel):
    """One round of region adversarial training. Accuracies are fractions of `measured_on` images,
    or of these with every pattern of another class.

    images: trained on; success: of this round's patterns on the few images before the retraining,
    by target; fresh: of the patterns made in the same way for the retrained network; old: accuracy
    on all patterns used so far; first: on those of round 1; forward, backward: samples that making
    this round's patterns cost.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    round: int
    images: int
    targets: tuple[int, ...]
    success: tuple[float, ...]
    fresh: tuple[float, ...]
    clean: float
    old: float
    first: float
    measured_on: int
    forward: int
    backward: int
    label: str = LABEL


@torch.no_grad()
def accuracies(
    model: nn.Module, x: Tensor, y: Tensor, used: Sequence[Semantic], threat: Threat
) -> tuple[float, float, float]:
    """Clean accuracy, accuracy on x + v_t (y != t) over all v_t of all rounds, and over those of
    the first round.
    """
    x, y = x.to(home(model), precision(model)), y.to(home(model))
    with untouched(model):
        clean = float(_right(model, x, y).double().mean())
        rounds = [resisted(model, x, y, found, threat) for found in used]
    hits, of = (sum(counts[i] for counts in rounds) for i in (0, 1))
    return clean, hits / of, rounds[0][0] / rounds[0][1]


@torch.no_grad()
def resisted(
    model: nn.Module, x: Tensor, y: Tensor, found: Semantic, threat: Threat
) -> tuple[int, int]:
    """How many of how many x + v_t, clipped, with y != t, keep their label. The model is asked as
    it is: put it into eval mode.
    """
    hits = of = 0
    for t, v in zip(found.classes.tolist(), found.values, strict=True):
        moved = (x[y != t] + v.to(x)).clamp_(threat.low, threat.high)
        hits += int(_right(model, moved, y[y != t]).sum())
        of += len(moved)
    return hits, of


def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([model(part).argmax(1) for part in torch.split(x, 256)]) == y


def stored_patterns(out: str | Path, number: int) -> Semantic:
    """The patterns of round `number`, from the folder of a run; raises FileError."""
    return Semantic(**checkpoint.read(_file(Path(out), number))[0])


def _file(path: Path, number: int) -> Path:
    return path / f"patterns-{number}.safetensors"


@dataclass(frozen=True)
class Shelf:
    """Where the rounds are kept: patterns-N.safetensors and a folder of `fit` per round; nowhere
    without a path.
    """

    path: Path | None
    save: Save | None

    @classmethod
    def claimed(
        cls,
        out: str | Path | None,
        resume: bool,
        model: nn.Module,
        data: tuple[Tensor, Tensor],
        settings: Settings,
        about: Mapping[str, Any],
        save: Save | None,
    ) -> Shelf:
        """A shelf for this run; raises InputError for a folder that holds a run which is not to be
        resumed, ResumeError for one of another run.
        """
        if out is None:
            return cls(None, save)
        identity = {
            "schema": "torchproof.region/1",
            "settings": settings.model_dump(exclude=set(FREE)),
            "network": digest(model.state_dict()),
            "data": digest({"x": data[0], "y": data[1]}),
            **{name: described(thing) for name, thing in about.items()},
        }
        Folder(Path(out), identity, None).claim(resume)
        return cls(Path(out), save)

    def training(self, number: int) -> Path | None:
        return None if self.path is None else self.path / f"round-{number}"

    def kept(self, number: int, make: Callable[[], Semantic]) -> Semantic:
        """The patterns of a round: read where they are stored, else made and stored."""
        if self.path is None:
            return make()
        path = _file(self.path, number)
        if path.exists():
            return stored_patterns(self.path, number)
        found = make()
        if distributed.rank() == 0:
            checkpoint.write(path, vars(found), {"round": number, "label": LABEL})
        return found

    def save_with(self, more: Mapping[str, Any]) -> Save | None:
        """The caller's `save`, the cards enlarged by `more`."""
        given = self.save
        if given is None:
            return None
        return lambda model, path, card: given(model, path, {**card, **more})
