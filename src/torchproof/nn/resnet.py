"""ResNets for small images (He et al. 2016a), with the CIFAR stem and parameter names of kuangliu.

The names (`conv1`, `bn1`, `layer1.0.conv1`, `layer2.0.shortcut.0`, `linear`) are those of the
pytorch-cifar collection, which RobustBench and most robust-training code share.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, a 1 x 1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
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

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Four stages of `blocks` basic blocks, widths w, 2w, 4w, 8w: x (B, C, S, S) to logits (B, K).

    The stem is one 3 x 3 convolution without pooling, as for CIFAR. The last stage is averaged over
    all its pixels, so any size works; at 32 x 32 this is the 4 x 4 average pooling of the original.
    """

    def __init__(self, channels: int, classes: int, blocks: Sequence[int], width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks[0], 1)
        self.layer2 = _stage(width, 2 * width, blocks[1], 2)
        self.layer3 = _stage(2 * width, 4 * width, blocks[2], 2)
        self.layer4 = _stage(4 * width, 8 * width, blocks[3], 2)
        self.linear = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(before: int, after: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` blocks, of which the first changes width and resolution."""
    rest = [BasicBlock(after, after, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(before, after, stride), *rest)


def resnet18(channels: int, size: int, classes: int, width: int = 64) -> nn.Module:
    """ResNet-18 with the CIFAR stem (He et al. 2016a); `width` is that of the first stage."""
    return ResNet(channels, classes, (2, 2, 2, 2), width)


def resnet34(channels: int, size: int, classes: int, width: int = 64) -> nn.Module:
    """ResNet-34 with the CIFAR stem (He et al. 2016a); `width` is that of the first stage."""
    return ResNet(channels, classes, (3, 4, 6, 3), width)
