"""Clean and robust accuracy on the held-out rows: what the checkpoint is chosen by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import home, precision, untouched
from torchproof.core import keys
from torchproof.core.objectives import CrossEntropy
from torchproof.core.room import Room
from torchproof.core.threats import AnyThreat
from torchproof.train import distributed
from torchproof.train.rows import Rows

SINGLE = PGD(1, 1.0, Zero())  # FGSM, for every threat that can take a step
_SLOTS, _PAIRS = 256, 10


@dataclass(frozen=True)
class Measured:
    """Fractions of n rows; None where nothing was held out, or no threat is known. `attack` says
    against what; collapsed: one answer to all rows would be right as often; fgsm: against a single
    step of length eps; confused: (label, answer, count) of images that the attack moved, the most
    frequent first.
    """

    n: int
    clean: float | None = None
    robust: float | None = None
    attack: str | None = None
    collapsed: bool = False
    fgsm: float | None = None
    confused: tuple[tuple[int, int, int], ...] = ()

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
    """Accuracy on the rows, clean, against a single step, and against PGD on cross-entropy with a
    random start, in the model's own precision.

    Only correctly classified images are attacked, and each leaves when it is lost. The seed is the
    same in every epoch, so that a difference is the network's. Processes share the rows.
    """
    if not len(rows):
        return Measured(0)
    mine = rows.part(slice(distributed.rank(), None, distributed.world()))
    x, y = mine.tensors(home(model), precision(model))
    room, found = Room(_SLOTS), []

    def attempt() -> None:
        logits = _logits(model, x, seed, room.slots)
        right = (logits.argmax(1) == y).nonzero()[:, 0].cpu()
        run = Run(keys.seed_of(seed, "held-out attack"), mine.index[right], room.slots)
        found.append((right, _attacked(model, x, y, right, threat, steps, run, logits)))

    while not room.survives(attempt):
        pass
    ((right, (single, kept, pairs)),) = found
    clean, fgsm, robust = distributed.total(len(right), single, kept)
    distributed.sum_([pairs])
    n = len(rows)
    counts = rows.y[rows.index].bincount()
    collapsed = clean <= int(counts.max()) < n
    if threat is None:
        return Measured(n, clean / n, collapsed=collapsed)
    named = f"PGD-{steps}, {threat}"
    return Measured(n, clean / n, robust / n, named, collapsed, fgsm / n, _frequent(pairs))


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor, seed: int, slots: int) -> Tensor:
    """(N, K), at least one row: a process without rows asks about an image of zeros."""
    asked = x if len(x) else x.new_zeros(1, *x.shape[1:])
    with untouched(model, keys.seed_of(seed, "clean"), x.device):
        return torch.cat([model(part) for part in torch.split(asked, slots)])[: len(x)]


def _attacked(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    right: Tensor,
    threat: AnyThreat | None,
    steps: int,
    run: Run,
    logits: Tensor,
) -> tuple[int, int, Tensor]:
    """How many of the correctly classified rows `right` stand FGSM and PGD; (K, K) how often PGD
    turned each label into each answer.
    """
    classes = logits.shape[1]
    pairs = torch.zeros(classes, classes, dtype=torch.int64, device=x.device)
    if threat is None or not len(right):
        return 0, 0, pairs
    at = right.to(x.device)
    own, label = x[at], y[at]
    single = Attack(threat, CrossEntropy(), SINGLE)(model, own, label, run=run).lost
    found = Attack(threat, CrossEntropy(), PGD(steps))(model, own, label, run=run)
    lost = found.lost.to(x.device)
    if isinstance(found.value, Tensor) and bool(lost.any()):
        moved = (own + found.value.to(own))[lost]
        answer = _logits(model, moved, run.seed, run.slots).argmax(1)
        flat = label[lost] * classes + answer
        pairs += torch.bincount(flat, minlength=classes**2).view_as(pairs)
    return len(right) - int(single.sum()), len(right) - int(lost.sum()), pairs


def _frequent(pairs: Tensor) -> tuple[tuple[int, int, int], ...]:
    """The pairs (label, answer, count) of a table (K, K), the ten most frequent, first ones first
    where they tie.
    """
    counts = pairs.cpu()
    order = counts.flatten().argsort(descending=True, stable=True)[:_PAIRS].tolist()
    rows = [(i // len(counts), i % len(counts), int(counts.flatten()[i])) for i in order]
    return tuple(row for row in rows if row[2])
