"""ResNets for small images (He et al. 2016a), with the CIFAR stem and parameter names of kuangliu.

The names (`conv1`, `bn1`, `layer1.0.conv1`, `layer2.0.shortcut.0`, `linear`) are those of the
pytorch-cifar collection, which RobustBench and most robust-training code share.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.nn.activations import activation_of


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, a 1 x 1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int, act: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        answer: Tensor = self.act(out + self.shortcut(x))
        return answer


class ResNet(nn.Module):
    """Stages `layer1`, `layer2`, ... of `blocks` basic blocks, widths w, 2w, 4w, ...: x (B, C, S,
    S) to logits (B, K).

    The stem is one 3 x 3 convolution of stride `stem_stride`, without pooling, as for CIFAR. The
    last stage is averaged over all its pixels, so any size works; at 32 x 32 and four stages this
    is the 4 x 4 average pooling of the original. `activation`: a name of ACTIVATIONS; one with
    weights is shared by all blocks of a stage. Raises InputError, UnknownName.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        blocks: Sequence[int],
        width: int = 64,
        activation: str = "relu",
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if not blocks or min(blocks) < 1:
            remedy = "write blocks=(2, 2, 2, 2) for ResNet-18"
            raise InputError(f"blocks={blocks!r}", "a number of blocks per stage", remedy)
        if stem_stride not in (1, 2, 4):
            remedy = "write stem_stride=2, or leave it out"
            raise InputError(f"stem_stride = {stem_stride!r}", "1, 2 or 4", remedy)
        self.stages = len(blocks)
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act = activation_of(activation, width)
        before, act = width, self.act
        for stage, number in enumerate(blocks):
            after = width * 2**stage
            act = act if stage == 0 else activation_of(activation, after)
            self.add_module(
                f"layer{stage + 1}", _stage(before, after, number, 1 + (stage > 0), act)
            )
            before = after
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(before: int, after: int, blocks: int, stride: int, act: nn.Module) -> nn.Sequential:
    """`blocks` blocks, of which the first changes width and resolution."""
    rest = [BasicBlock(after, after, 1, act) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(before, after, stride, act), *rest)


def resnet(
    channels: int,
    size: int,
    classes: int,
    blocks: Sequence[int] = (1, 1),
    width: int = 16,
    activation: str = "relu",
    stem_stride: int = 2,
) -> nn.Module:
    """A ResNet of any depth (He et al. 2016a): `blocks` per stage; by default small and quick."""
    return ResNet(channels, classes, blocks, width, activation, stem_stride)


def resnet18(
    channels: int, size: int, classes: int, width: int = 64, activation: str = "relu"
) -> nn.Module:
    """ResNet-18 with the CIFAR stem (He et al. 2016a); `width` is that of the first stage."""
    return ResNet(channels, classes, (2, 2, 2, 2), width, activation)


def resnet34(
    channels: int, size: int, classes: int, width: int = 64, activation: str = "relu"
) -> nn.Module:
    """ResNet-34 with the CIFAR stem (He et al. 2016a); `width` is that of the first stage."""
    return ResNet(channels, classes, (3, 4, 6, 3), width, activation)
