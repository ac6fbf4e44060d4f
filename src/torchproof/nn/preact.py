"""Pre-activation ResNets (He et al. 2016b), the usual network of fast and of overfitting studies.

Parameter names are those of the pytorch-cifar collection (`layer1.0.bn1`, `layer2.0.shortcut.0`,
`linear`); with `final_norm` those of Rice et al. 2020 and of RobustBench, which add `bn`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.nn.activations import activation_of


class PreActBlock(nn.Module):
    """Normalise, rectify, convolve, twice; where the shape changes the shortcut is a 1 x 1
    convolution.

    That shortcut takes the rectified input, an identity shortcut the raw one, as in the paper.
    `act1` and `act2` are the activations of the two widths.
    """

    def __init__(
        self, before: int, after: int, stride: int, act1: nn.Module, act2: nn.Module
    ) -> None:
        super().__init__()
        self.act1, self.act2 = act1, act2
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(out)
        added: Tensor = self.conv2(self.act2(self.bn2(self.conv1(out)))) + kept
        return added


class PreActResNet(nn.Module):
    """Four stages of `blocks` pre-activation blocks: x (B, C, S, S) to logits (B, K).

    Without `final_norm` the averaged features go straight to the linear layer (pytorch-cifar); with
    it a batch norm and an activation come before the average, as in the paper. `activation`: a name
    of ACTIVATIONS; `stem_stride`: 1, 2 or 4, of the first convolution; as many later stages keep
    their resolution, so that the last maps have the usual size. Raises UnknownName, InputError.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        blocks: Sequence[int],
        width: int = 64,
        final_norm: bool = False,
        activation: str = "relu",
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if stem_stride not in STEM_STRIDES:
            remedy = "write stem_stride=2, or leave it out"
            raise InputError(f"stem_stride = {stem_stride!r}", "1, 2 or 4", remedy)
        second, third = STEM_STRIDES[stem_stride]
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stem_stride, padding=1, bias=False)
        acts = [activation_of(activation, width * 2**stage) for stage in range(4)]
        self.layer1 = _stage(width, width, blocks[0], 1, acts[0], acts[0])
        self.layer2 = _stage(width, 2 * width, blocks[1], second, *acts[0:2])
        self.layer3 = _stage(2 * width, 4 * width, blocks[2], third, *acts[1:3])
        self.layer4 = _stage(4 * width, 8 * width, blocks[3], 2, *acts[2:4])
        self.bn = nn.BatchNorm2d(8 * width) if final_norm else None
        self.act = acts[3]
        self.linear = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if self.bn is not None:
            x = self.act(self.bn(x))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


# stride of the first convolution -> strides of the second and the third stage
STEM_STRIDES = {1: (2, 2), 2: (1, 2), 4: (1, 1)}


def _stage(
    before: int, after: int, blocks: int, stride: int, act1: nn.Module, act2: nn.Module
) -> nn.Sequential:
    """`blocks` blocks, of which the first changes width and resolution."""
    rest = [PreActBlock(after, after, 1, act2, act2) for _ in range(blocks - 1)]
    return nn.Sequential(PreActBlock(before, after, stride, act1, act2), *rest)


def preact_resnet18(
    channels: int,
    size: int,
    classes: int,
    width: int = 64,
    final_norm: bool = False,
    activation: str = "relu",
    stem_stride: int = 1,
) -> nn.Module:
    """PreActResNet-18 (He et al. 2016b); `final_norm` as in Rice et al. 2020 and RobustBench."""
    blocks = (2, 2, 2, 2)
    return PreActResNet(channels, classes, blocks, width, final_norm, activation, stem_stride)
