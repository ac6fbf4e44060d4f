"""Friendly adversarial training (Zhang, Xu, Han, Niu, Cui, Sugiyama and Kankanhalli 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.core.objectives import Hypocritical
from torchproof.train.inner import Adversarial
from torchproof.train.method import Batch, Method, layers
from torchproof.train.wrapper import Wrapper

Schedule = tuple[tuple[float, float], ...]

# (share of the training, tau until then), from the authors' epochs
TAUS: dict[str, Schedule] = {
    "AT": ((50 / 120, 0), (90 / 120, 1), (1, 2)),
    "TRADES": ((30 / 85, 0), (50 / 85, 1), (70 / 85, 2), (1, 3)),
    "MART": ((20 / 90, 0), (40 / 90, 1), (60 / 90, 2), (80 / 90, 3), (1, 4)),
}
PUBLISHED = "published"


@dataclass(frozen=True)
class FAT(Wrapper):
    """FAT: the inner method on friendly images, taken from its attack tau wrong answers after the
    first one (Zhang et al. 2020, alg. 1, early-stopped PGD).

    An image leaves the search at its wrong answer number tau + 1, the clean start included; right
    answers in between do not count, nor do they take back what was counted. 0 takes the first
    image that is misclassified, inf (or the number of steps) is the inner method, bit for bit.
    tau: a number; pairs (share of the training, tau until then), the last share 1; or a schedule
    of the authors, "AT", "TRADES" or "MART"; "published" is the one of the inner method (AT's
    for others). The figure `friendly_steps` counts the gradients that the inner attack
    took for an image.

    The inner method brings the random start. Deviation: the authors add noise of 0.001 at each
    step around AT; here that is AT's own argument noise. Raises InputError for a tau that is
    none, for a method without an inner attack, whose attack has no steps or has a patience of its
    own, and for THRM, whose attack seeks right answers.
    """

    tau: float | str | Schedule = PUBLISHED

    def __post_init__(self) -> None:
        super().__post_init__()
        inside = [inner for _, inner in layers(self.method)]
        attacks = [inner for inner in inside if isinstance(inner, Adversarial)]
        if not attacks:
            given = f"{type(self.method).__name__} in FAT"
            raise InputError(given, "a method with an inner attack", "write FAT(AT(), tau=1)")
        if all(inner.idle for inner in attacks):
            given = f"{type(attacks[0]).__name__} with steps = 0 in FAT"
            expected = "an attack that can end early: without a step there is no friendly image"
            raise InputError(given, expected, "leave FAT out, or raise steps")
        if any(isinstance(inner.objective, Hypocritical) for inner in attacks):
            remedy = "write THRM alone: hypocritical images are made to be answered right"
            raise InputError("THRM in FAT", "an attack that makes answers wrong", remedy)
        own = next((inner for inner in attacks if inner.patience != math.inf), None)
        if own is not None:
            given = f"{type(own).__name__} with patience = {own.patience!r} in FAT"
            raise InputError(given, "one of both: tau is the patience", "leave patience out")
        if any(isinstance(inner, FAT) for inner in inside):
            raise InputError("FAT around FAT", "one tau", "leave the inner one out")
        _check(self.schedule)

    @property
    def schedule(self) -> Schedule:
        """(share of the training, tau until then), in order."""
        if isinstance(self.tau, str):
            name = _kind(self.method) if self.tau == PUBLISHED else self.tau
            if name not in TAUS:
                raise unknown("schedule of tau", name, [*TAUS, PUBLISHED])
            return TAUS[name]
        return tuple(self.tau) if isinstance(self.tau, (tuple, list)) else ((1, self.tau),)

    def due(self, progress: float) -> float:
        """The tau for a share of the training that is over."""
        return next((tau for until, tau in self.schedule if progress < until), self.schedule[-1][1])

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        tau = self.due(batch.progress)
        ready = self.method.prepare(model, replace(batch, patience=min(tau, batch.patience)))
        noted = {"friendly_steps": _taken(ready)} | ({"tau": tau} if math.isfinite(tau) else {})
        return replace(ready, patience=batch.patience).with_note(**noted)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.method.losses(model, batch)


def _taken(batch: Batch) -> float:
    """Gradients that the inner attacks took for each image, those of a sum's parts together."""
    own = 0.0 if batch.taken is None else float(batch.taken.double().sum())
    return own / max(len(batch.x), 1) + sum(_taken(part) for part in batch.parts)


def _kind(method: Method) -> str:
    """Whose published schedule suits a method."""
    names = (type(inner).__name__ for _, inner in layers(method))
    return next((name for name in names if name in TAUS), "AT")


def _check(schedule: Schedule) -> None:
    try:
        ends, taus = [float(until) for until, _ in schedule], [float(tau) for _, tau in schedule]
    except (TypeError, ValueError):
        ends, taus = [], []
    rising = ends == sorted(set(ends)) and bool(ends) and ends[0] > 0 and ends[-1] == 1
    if not rising or not all(tau >= 0 for tau in taus):
        raise InputError(
            f"tau = {schedule!r}",
            "a number >= 0, or pairs (share of the training, tau until then) up to the share 1",
            "write tau=1, or tau=((0.5, 0), (1, 2))",
        )
