"""Twins for the study of neural ODEs: a CNN, an ODENet and a TisODE of (nearly) the same weights
(Yan et al. 2020), and an ODE block for other networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, unknown
from torchproof.nn.ode import ODEBlock

Readout = Literal["pool", "flatten"]


def group_norm(width: int, groups: int) -> nn.GroupNorm:
    """Group norm of `groups` groups, or of the next smaller number that divides `width`."""
    if groups < 1:
        raise InputError(f"groups = {groups!r}", "a whole number >= 1", "32 is usual")
    fit = next(g for g in range(min(groups, width), 0, -1) if width % g == 0)
    return nn.GroupNorm(fit, width)


class Flow(nn.Module):
    """f(z) or f(t, z): twice a 3 x 3 convolution, group norm and ReLU, (B, width, H, W) to the
    same.

    time: t is one more channel of either convolution, which then has a bias. It ends in ReLU as in
    the authors' code, so that no coordinate of z ever falls; with rising=False it ends in the norm,
    which starts at 0, so that the flow first stands still.
    """

    def __init__(
        self, width: int, groups: int = 32, time: bool = False, rising: bool = True
    ) -> None:
        super().__init__()
        self.time, self.rising = time, rising
        self.conv1 = nn.Conv2d(width + time, width, 3, padding=1, bias=time)
        self.norm1 = group_norm(width, groups)
        self.conv2 = nn.Conv2d(width + time, width, 3, padding=1, bias=time)
        self.norm2 = group_norm(width, groups)
        if not rising:
            nn.init.zeros_(self.norm2.weight)

    def forward(self, t: Any, z: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(self._with_time(t, z))))
        h = self.norm2(self.conv2(self._with_time(t, h)))
        return F.relu(h) if self.rising else h

    def _with_time(self, t: Any, z: Tensor) -> Tensor:
        return torch.cat([z, torch.zeros_like(z[:, :1]) + t], 1) if self.time else z


class Residual(nn.Module):
    """z + f(z): one Euler step of length 1."""

    def __init__(self, field: Flow) -> None:
        super().__init__()
        self.field = field

    def forward(self, z: Tensor) -> Tensor:
        after: Tensor = z + self.field(0.0, z)
        return after


class ODENet(nn.Module):
    """Feature extractor, `middle` (B, width, H, W) to the same, linear layer: x (B, C, S, S) to
    logits (B, K).

    The extractor is Conv(3) - GN - ReLU - Conv(4, stride 2) - GN - ReLU. Raises InputError for
    images below 6 pixels, UnknownName for another readout.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int,
        groups: int,
        readout: str,
        middle: nn.Module,
    ) -> None:
        super().__init__()
        channels, size, classes = shape
        if size < 6:
            remedy = "enlarge the images, or use the network 'mlp'"
            raise InputError(f"images of {size} x {size}", "at least 6 x 6", remedy)
        if readout not in ("pool", "flatten"):
            raise unknown("readout", str(readout), ("pool", "flatten"))
        self.conv1 = nn.Conv2d(channels, width, 3)
        self.norm1 = group_norm(width, groups)
        self.conv2 = nn.Conv2d(width, width, 4, stride=2, padding=1)
        self.norm2 = group_norm(width, groups)
        self.middle = middle
        self.pooled = readout == "pool"
        pixels = 1 if self.pooled else (size // 2 - 1) ** 2
        self.linear = nn.Linear(width * pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.norm1(self.conv1(x)))
        z = self.middle(F.relu(self.norm2(self.conv2(z))))
        logits: Tensor = self.linear(z.mean((2, 3)) if self.pooled else z.flatten(1))
        return logits


def ode_cnn(
    channels: int, size: int, classes: int, width: int = 64, groups: int = 32,
    readout: Readout = "pool",
) -> nn.Module:  # fmt: skip
    """The CNN twin of odenet and tisode: one residual block in the place of the flow (Yan et al.
    2020).
    """
    middle = Residual(Flow(width, groups))
    return ODENet((channels, size, classes), width, groups, readout, middle)


def odenet(
    channels: int, size: int, classes: int, width: int = 64, groups: int = 32,
    readout: Readout = "pool", t_pred: float = 1.0, h: float = 0.1, solver: str = "euler",
    ss_window: Sequence[float] | None = None,
) -> nn.Module:  # fmt: skip
    """A neural ODE dz/dt = f(t, z) between convolutions and a linear layer (Chen et al. 2018, in
    the shape of Yan et al. 2020).
    """
    middle = ODEBlock(Flow(width, groups, time=True), t_pred, h, solver, ss_window)
    return ODENet((channels, size, classes), width, groups, readout, middle)


def tisode(
    channels: int, size: int, classes: int, width: int = 64, groups: int = 32,
    readout: Readout = "pool", t_pred: float = 1.0, h: float = 0.05, solver: str = "euler",
    ss_window: Sequence[float] | None = None,
) -> nn.Module:  # fmt: skip
    """A time-invariant neural ODE dz/dt = f(z), to be trained to come to rest by the method TisODE
    (Yan et al. 2020).
    """
    middle = ODEBlock(Flow(width, groups), t_pred, h, solver, ss_window)
    return ODENet((channels, size, classes), width, groups, readout, middle)


def ode_block(
    channels: int,
    groups: int = 32,
    t_pred: float = 1.0,
    h: float = 0.25,
    solver: str = "euler",
    time: bool = False,
    ss_window: Sequence[float] | None = None,
) -> nn.Module:
    """A neural ODE z -> z(t_pred) of its own f, the identity before it is trained: the f of tisode
    without its last ReLU, which would keep an f of 0 at 0 for good.
    """
    return ODEBlock(Flow(channels, groups, time, rising=False), t_pred, h, solver, ss_window)
