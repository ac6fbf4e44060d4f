"""A rectifier whose gate is a learned map of the image, after "Sparta" (Guo et al. 2021, arXiv
2105.08269). Reconstructed from the abstract: the authors published no code.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.asides import heard, tell
from torchproof.core.errors import InputError, unknown

Form = Literal["relu", "swish"]

SATURATED = 8.0
"""Where |h| is above this, the gate's slope is below 1/2980: nearly no gradient passes through."""


class Sparta(nn.Module):
    """max(X, 0) G(X), or X G(X) in the form "swish", with a gate G = scale sigmoid(h(X)) and
    h = Conv1x1(ReLU(DWConv3x3(X))): X (B, C, H, W) to the same shape.

    scale: 1 or 2, the largest value of the gate; shared: one gate for all channels; reduction: the
    3 x 3 convolution turns `reduction` channels into one, 1 for a depthwise one; norm: a group norm
    of one group behind it (no batch norm, whose statistics would go on moving in a frozen gate).

    At the start the last convolution is 0 and its bias 4, or 0 for scale=2: the gate is 0.982 or 1
    everywhere, which is nearly ReLU; the form "swish" starts nearly linear, at 0.982 X. Without
    `maps`, X is (B, C) and there is no space to attend to: a plain ReLU without weights. Tells
    "gate", (B,) shares of |h| above 8, unless it is compiled. Raises UnknownName, InputError.
    """

    def __init__(
        self,
        channels: int,
        form: Form = "relu",
        scale: int = 1,
        shared: bool = False,
        reduction: int = 1,
        norm: bool = False,
        maps: bool = True,
    ) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise unknown("form", form, get_args(Form))
        if scale not in (1, 2):
            raise InputError(f"scale = {scale!r}", "1 or 2", "write scale=1")
        if reduction < 1 or (maps and channels % reduction):
            remedy = "write reduction=1"
            raise InputError(f"reduction = {reduction!r}", f"a divisor of {channels}", remedy)
        self.form, self.scale = form, scale
        self.h: nn.Module | None = None
        if maps:
            inner, bias = channels // reduction, 4.0 if scale == 1 else 0.0
            self.h = _score(channels, inner, 1 if shared else channels, norm, bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.h is None:
            return F.relu(x)
        h = self.h(x)
        # torch.compile cannot look at who listens
        if heard():
            tell("gate", (h.detach().abs() > SATURATED).flatten(1).float().mean(1))
        gated = F.relu(x) if self.form == "relu" else x
        return gated * (self.scale * torch.sigmoid(h))

    def extra_repr(self) -> str:
        return f"form={self.form!r}, scale={self.scale}"


def _score(channels: int, inner: int, gates: int, norm: bool, bias: float) -> nn.Sequential:
    """h, which is `bias` everywhere at the start."""
    last = nn.Conv2d(inner, gates, 1)
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]  # a convolution with a bias
    parts: list[tuple[str, nn.Module]] = [
        ("depthwise", nn.Conv2d(channels, inner, 3, padding=1, groups=inner, bias=not norm)),
        *([("norm", nn.GroupNorm(1, inner))] if norm else []),
        ("relu", nn.ReLU()),
        ("pointwise", last),
    ]
    return nn.Sequential(OrderedDict(parts))
