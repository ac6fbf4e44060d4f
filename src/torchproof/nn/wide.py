"""Wide residual networks (Zagoruyko and Komodakis 2016), with the parameter names of TRADES.

The names (`block1.layer.0.convShortcut`, `bn1`, `fc`) and the initialisation are those of the code
of Zhang et al. 2019, which most published robust WideResNets share.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.nn.activations import activation_of


class WideBlock(nn.Module):
    """A pre-activation block; where the width changes both paths start from the rectified input."""

    def __init__(
        self, before: int, after: int, stride: int, dropout: float, act1: nn.Module, act2: nn.Module
    ) -> None:
        super().__init__()
        self.act1, self.act2 = act1, act2
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.convShortcut = (
            None if before == after else nn.Conv2d(before, after, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(x))
        kept = x if self.convShortcut is None else self.convShortcut(out)
        out = self.dropout(self.act2(self.bn2(self.conv1(out))))
        added: Tensor = self.conv2(out) + kept
        return added


class _Stage(nn.Module):
    """`blocks` blocks, of which the first changes width and resolution; the name `layer` is
    TRADES'.
    """

    def __init__(
        self,
        blocks: int,
        stride: int,
        dropout: float,
        widths: tuple[int, int],
        acts: list[nn.Module],
    ) -> None:
        super().__init__()
        (before, after), (act1, act2) = widths, acts
        first = WideBlock(before, after, stride, dropout, act1, act2)
        rest = [WideBlock(after, after, 1, dropout, act2, act2) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """WRN-`depth`-`width`: x (B, C, S, S) to logits (B, K).

    Three stages of (depth - 4) / 6 blocks with 16, 32, 64 times `width` channels; `dropout` acts
    between the convolutions of a block; `activation`: a name of ACTIVATIONS. The last stage is
    averaged over all its pixels, so any size works.

    Raises InputError when depth is not 6 n + 4.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        depth: int = 28,
        width: int = 10,
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            remedy = "use 10, 16, 22, 28, 34, 40 or 70"
            raise InputError(f"depth={depth}", "6 n + 4 layers, n at least 1", remedy)
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        widths = [16, 16 * width, 32 * width, 64 * width]
        acts = [activation_of(activation, channels) for channels in widths]
        self.block1 = _Stage(blocks, 1, dropout, (widths[0], widths[1]), acts[0:2])
        self.block2 = _Stage(blocks, 2, dropout, (widths[1], widths[2]), acts[1:3])
        self.block3 = _Stage(blocks, 2, dropout, (widths[2], widths[3]), acts[2:4])
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.act = acts[3]
        self.fc = nn.Linear(64 * width, classes)
        own = {part for act in acts for part in act.modules()}  # initialise themselves
        for module in self.modules():
            if module not in own:
                _initialise(module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        logits: Tensor = self.fc(self.act(self.bn1(x)).mean((2, 3)))
        return logits


def _initialise(module: nn.Module) -> None:
    """Convolutions N(0, 2 / fan-out) (He et al. 2015, eq. 14), no bias in the last layer at the
    start.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear):
        with torch.no_grad():
            module.bias.zero_()
