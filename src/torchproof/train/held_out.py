"""Clean and robust accuracy on the held-out rows: what the checkpoint is chosen by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.attack.ascend import Run
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.untouched import home, precision, untouched
from torchproof.core import keys
from torchproof.core.objectives import CrossEntropy
from torchproof.core.room import Room
from torchproof.core.threats import AnyThreat
from torchproof.train import distributed
from torchproof.train.rows import Rows

_SLOTS = 256


@dataclass(frozen=True)
class Measured:
    """Fractions of n rows; None where nothing was held out, or no threat is known. `attack` says
    against what.
    """

    n: int
    clean: float | None = None
    robust: float | None = None
    attack: str | None = None
    collapsed: bool = False

    def merit(self, by: str) -> tuple[float, float]:
        """What the best checkpoint has most of: robust accuracy, then clean; or clean accuracy
        alone.
        """
        clean = -1.0 if self.clean is None else self.clean
        robust = -1.0 if self.robust is None or by == "clean" else self.robust
        return robust, clean


def measure(
    model: nn.Module, rows: Rows, threat: AnyThreat | None, steps: int, seed: int
) -> Measured:
    """Accuracy on the rows, clean and against PGD on cross-entropy with a random start, in the
    model's own precision.

    Only correctly classified images are attacked, and each leaves when it is lost. The seed is the
    same in every epoch, so that a difference is the network's. Processes share the rows.
    """
    if not len(rows):
        return Measured(0)
    mine = rows.part(slice(distributed.rank(), None, distributed.world()))
    x, y = mine.tensors(home(model), precision(model))
    room, found = Room(_SLOTS), []

    def attempt() -> None:
        answer = _classes(model, x, seed, room.slots)
        right = (answer == y).nonzero()[:, 0].cpu()
        run = Run(keys.seed_of(seed, "held-out attack"), mine.index[right], room.slots)
        found.append((answer, right, _survivors(model, x, y, right, threat, steps, run)))

    while not room.survives(attempt):
        pass
    ((answer, right, kept),) = found
    clean, robust = distributed.total(len(right), kept)
    n = len(rows)
    collapsed = _single(answer, rows.y[rows.index])
    if threat is None:
        return Measured(n, clean / n, collapsed=collapsed)
    return Measured(n, clean / n, robust / n, f"PGD-{steps}, {threat}", collapsed)


@torch.no_grad()
def _classes(model: nn.Module, x: Tensor, seed: int, slots: int) -> Tensor:
    if not len(x):
        return x.new_zeros(0, dtype=torch.int64)
    with untouched(model, keys.seed_of(seed, "clean"), x.device):
        return torch.cat([model(part).argmax(1) for part in torch.split(x, slots)])


def _survivors(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    right: Tensor,
    threat: AnyThreat | None,
    steps: int,
    run: Run,
) -> int:
    """How many of the correctly classified rows `right` the attack does not break."""
    if threat is None:
        return 0
    attack = Attack(threat, CrossEntropy(), PGD(steps))
    at = right.to(x.device)
    return len(right) - int(attack(model, x[at], y[at], run=run).lost.sum())


def _single(answer: Tensor, labels: Tensor) -> bool:
    """Do all processes answer one class, and the same, while there are several labels?"""
    low, high = (int(answer.min()), int(answer.max())) if len(answer) else (-1, -1)
    first = distributed.from_first(low)
    differing = int(len(answer) > 0 and (low != first or high != first))
    return distributed.total(differing)[0] == 0 and bool((labels != labels[0]).any())
