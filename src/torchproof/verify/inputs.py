"""What a network is asked about: every image within a threat, around given ones.

One set for every method, so that methods can be compared: a norm ball cut with the pixel box, both
exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.sets import TOLERANCE, Ball
from torchproof.core.sites import Input
from torchproof.core.threats import AnyThreat, Threat
from torchproof.verify.interval import Interval
from torchproof.verify.whose import Whose


@dataclass(frozen=True)
class InputSet:
    """x (B, ...), and the perturbations d that are allowed around each."""

    x: Tensor
    ball: Ball

    @classmethod
    def of(cls, x: Tensor, threat: AnyThreat) -> InputSet:
        """The threat around images x (B, C, H, W).

        Raises InputError for a threat on anything but the input, and for x outside its pixel box.
        """
        if not isinstance(threat, Threat) or not isinstance(threat.site, Input):
            given = f"{threat} for a bound"
            raise InputError(given, "a threat on the input with one norm", "write linf:8/255")
        refuse_outside(x, threat)
        ball = threat.set(lambda images: images, x)
        assert isinstance(ball, Ball)
        return cls(x, ball)

    @classmethod
    def between(cls, low: Tensor, high: Tensor) -> InputSet:
        """Every input between low and high (B, ...)."""
        middle = low + (high - low) / 2
        infinite = torch.full_like(low.flatten(1)[:, 0], torch.inf)
        one = torch.ones_like(infinite)
        return cls(middle, Ball.of(Linf(), infinite, low - middle, high - middle, one))

    def box(self) -> Interval:
        """The smallest box that holds the set."""
        return Interval(self.x + self.ball.floor, self.x + self.ball.ceiling)

    def lowest(self, rows: Tensor, example: Tensor) -> Tensor:
        """(R,) the least <row, d> over the perturbations of example[r]; rows (R, ...)."""
        ball = self.ball
        if isinstance(ball.norm, Linf):  # a box: its middle, and half its width
            whose = Whose.of(example, len(self.x))
            half = (ball.ceiling - ball.floor) / 2
            return whose.products(rows, ball.floor + half) - whose.products(rows.abs(), half)
        part = (ball.radius[example], ball.floor[example], ball.ceiling[example])
        return -ball.norm.support(-rows, *part)

    def take(self, rows: Tensor) -> InputSet:
        """The set of some of the examples."""
        b = self.ball
        parts = (b.radius, b.scale, b.low, b.high, b.floor, b.ceiling)
        return InputSet(self.x[rows], Ball(b.norm, *(part[rows] for part in parts)))


def refuse_outside(x: Tensor, threat: AnyThreat) -> None:
    """Raises InputError for x outside the threat's pixel box by more than float noise: around it
    the set may be empty, and bounds on nothing say anything.
    """
    if not isinstance(threat, Threat):
        return
    inside = (x >= threat.low - TOLERANCE) & (x <= threat.high + TOLERANCE)
    if not bool(inside.all()):
        given = f"inputs between {float(x.min()):.4g} and {float(x.max()):.4g}"
        expected = f"the pixel box [{threat.low:g}, {threat.high:g}] of the threat"
        raise InputError(given, expected, "scale the inputs, or give the threat their low and high")


def rows_of(labels: Tensor, classes: int) -> Tensor:
    """(B, K - 1, K) rows that take logits to margins: of the label over every other class; raises
    InputError for a label that is no class.
    """
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        given = f"labels from {int(labels.min())} to {int(labels.max())}"
        raise InputError(given, f"classes 0 to {classes - 1}", "count classes from 0")
    unit = torch.eye(classes, device=labels.device)
    others = torch.arange(classes, device=labels.device).expand(len(labels), -1)
    wrong = others[others != labels[:, None]].view(len(labels), classes - 1)
    return unit[labels][:, None] - unit[wrong]
