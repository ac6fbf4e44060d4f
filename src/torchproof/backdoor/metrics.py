"""What a backdoor does: how often the trigger works, what is left of the clean answers, how far the
weights went.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.run import Run
from torchproof.attack.untouched import home, precision, untouched
from torchproof.backdoor.inputs import check_inputs
from torchproof.backdoor.poison import check_target
from torchproof.backdoor.triggers import Trigger
from torchproof.core.checks import check_labels, check_logits
from torchproof.core.errors import InputError
from torchproof.core.metrics import clopper_pearson

_NOTHING = 1e-6  # decayed weights of 1e-30 are there, and would make any mean of quotients huge


@dataclass(frozen=True)
class Share:
    """hits of `of` examples, their share, and its 95 % interval (Clopper and Pearson 1934)."""

    hits: int
    of: int
    share: float
    low: float
    high: float

    @classmethod
    def count(cls, mask: Tensor) -> Share:
        """Of a mask (N,); raises InputError where N is 0."""
        hits, of = int(mask.sum()), len(mask)
        low, high = clopper_pearson(hits, of)
        return cls(hits, of, hits / of, low, high)


@dataclass(frozen=True)
class Change:
    """How far the weights of two networks of one shape are apart.

    linf: the largest |dw|; mean_relative: mean |dw_j| / |w_j| over the weights of size 1e-6 or
    more, which the near-zero ones dominate all the same; l1_ratio: sum |dw| / sum |w|; weights: how
    many there are; zeros: those of them that were smaller and are left out; buffers: buffers that
    differ (batch-norm statistics, say), which count in none of the figures.
    """

    linf: float
    mean_relative: float
    l1_ratio: float
    weights: int
    zeros: int
    buffers: int


@dataclass(frozen=True)
class Measured:
    """A backdoor beside the network it was put into.

    clean, clean_before: right answers of the backdoored and of the original network; agreement:
    equal answers of both to clean inputs, which tells more of stealth than accuracy does; success,
    success_before: stamped inputs of other classes that are taken for the target; robust,
    robust_before: right under the attack, None without one.
    """

    target: int
    clean: Share
    clean_before: Share
    agreement: Share
    success: Share
    success_before: Share
    robust: Share | None
    robust_before: Share | None
    change: Change


def measure(
    model: nn.Module, original: nn.Module, x: Tensor, y: Tensor, trigger: Trigger, target: int, *,
    attack: Attack | None = None, seed: int = 0, slots: int = 256,
) -> Measured:  # fmt: skip
    """All metrics of a backdoor on test inputs x (N, ...) with labels y (N,), in eval mode; both
    networks stay as they are.

    attack: for robust accuracy, untargeted. Raises InputError for inputs that are all of the target
    class, a target that is no class, networks of two shapes; ModelError for unfit answers.
    """
    _check(x, y)
    after, before = (_answers(m, x, slots, target) for m in (model, original))
    robust = robust_before = None
    if attack is not None:
        robust = _resisted(model, x, y, after == y, attack, seed, slots)
        robust_before = _resisted(original, x, y, before == y, attack, seed, slots)
    return Measured(
        target,
        Share.count(after == y),
        Share.count(before == y),
        Share.count(after == before),
        success(model, x, y, trigger, target, slots=slots),
        success(original, x, y, trigger, target, slots=slots),
        robust,
        robust_before,
        weight_change(model, original),
    )


def clean_accuracy(model: nn.Module, x: Tensor, y: Tensor, *, slots: int = 256) -> Share:
    """Right answers; raises InputError and ModelError."""
    _check(x, y)
    return Share.count(_answers(model, x, slots) == y)


def agreement(model: nn.Module, original: nn.Module, x: Tensor, *, slots: int = 256) -> Share:
    """Equal answers of two networks to the same inputs; no labels needed."""
    check_inputs(x)
    return Share.count(_answers(model, x, slots) == _answers(original, x, slots))


def success(
    model: nn.Module, x: Tensor, y: Tensor, trigger: Trigger, target: int, *, slots: int = 256
) -> Share:
    """Stamped inputs that are taken for the target, of those whose label is another class.

    Raises InputError where there is none of another class and for a target that is no class.
    """
    _check(x, y)
    others = y != target
    if not bool(others.any()):
        given = f"{len(y)} inputs, all of class {target}, which is the target"
        raise InputError(given, "inputs of other classes", "measure on a mixed test set")
    return Share.count(_answers(model, trigger(x[others]), slots, target) == target)


def robust_accuracy(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, *, seed: int = 0, slots: int = 256
) -> Share:
    """Right answers that the attack does not change; wrong ones are not attacked."""
    _check(x, y)
    right = _answers(model, x, slots) == y
    return _resisted(model, x, y, right, attack, seed, slots)


def _resisted(
    model: nn.Module, x: Tensor, y: Tensor, right: Tensor, attack: Attack, seed: int, slots: int
) -> Share:
    """Those of the right answers (N,) that the attack leaves, of all N."""
    at, left = right.nonzero()[:, 0], right.clone()
    if len(at):
        lost = attack(model, x[at], y[at], run=Run(seed, ids=at, slots=slots)).lost
        left[at] = ~lost.to(right.device)
    return Share.count(left)


def weight_change(model: nn.Module, original: nn.Module) -> Change:
    """How far the parameters are apart; raises InputError for networks of two shapes."""
    after, before = dict(model.named_parameters()), dict(original.named_parameters())
    shapes = [{n: tuple(p.shape) for n, p in of.items()} for of in (after, before)]
    if not before or shapes[0] != shapes[1]:
        differing = sorted({*shapes[0].items()} ^ {*shapes[1].items()})[:3]
        given = f"parameters that differ: {differing}" if before else "a network without parameters"
        raise InputError(given, "two networks of one shape", "compare a network with its copy")
    moved = torch.cat([(after[n].detach().double() - before[n].detach().double()).abs().flatten()
                       for n in before])  # fmt: skip
    size = torch.cat([p.detach().double().abs().flatten() for p in before.values()])
    some = size >= _NOTHING
    return Change(
        linf=float(moved.max()),
        mean_relative=float((moved[some] / size[some]).mean()) if bool(some.any()) else math.nan,
        l1_ratio=float(moved.sum() / size.sum()) if bool(size.any()) else math.nan,
        weights=len(size),
        zeros=len(size) - int(some.sum()),
        buffers=sum(_differing_buffers(model, original)),
    )


def _differing_buffers(model: nn.Module, original: nn.Module) -> Iterator[bool]:
    before = dict(original.named_buffers())
    for name, buffer in model.named_buffers():
        yield name not in before or not torch.equal(buffer, before[name].to(buffer))


def _check(x: Tensor, y: Tensor) -> None:
    check_inputs(x)
    check_labels(y, len(x))


def _answers(model: nn.Module, x: Tensor, slots: int, target: int = 0) -> Tensor:
    """(N,) classes, on the device of x."""
    where, kind, parts = home(model, x.device), precision(model), []
    with torch.no_grad(), untouched(model, 0, where):
        for rows in torch.split(x, slots):
            z = model(rows.to(where, kind) if rows.is_floating_point() else rows.to(where))
            check_logits(z, len(rows))
            check_target(target, z.shape[1])
            parts.append(z.argmax(1).to(x.device))
    return torch.cat(parts)
