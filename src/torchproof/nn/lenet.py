"""LeNet in the widths that Caffe made common: 20 and 50 maps, 500 hidden units."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError


class LeNet(nn.Module):
    """Two 5x5 convolutions with max pooling and two linear layers: x (B, C, S, S) to logits (B, K).

    After LeCun et al. 1998, with the widths 20-50-500 of Caffe's example. `widths` are the channels
    of the convolutions, `hidden` the units of `fc1`, whose output before the ReLU is the latent
    space of LADDER; `padding` is that of the convolutions, 2 for images below 16 pixels.

    Raises InputError for images that the convolutions use up, or `widths` that are not two numbers.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        widths: Sequence[int] = (20, 50),
        hidden: int = 500,
        padding: int = 0,
    ) -> None:
        super().__init__()
        if len(widths) != 2:
            remedy = "give two numbers such as widths=(20, 50)"
            raise InputError(f"widths={widths!r}", "the channels of two convolutions", remedy)
        left = (((size - 4 + 2 * padding) // 2) - 4 + 2 * padding) // 2
        if left < 1:
            remedy = "pass padding=2, or enlarge the images"
            raise InputError(f"images of {size} x {size}", "at least 16 x 16 for lenet", remedy)
        first, second = widths
        self.conv1 = nn.Conv2d(channels, first, 5, padding=padding)
        self.conv2 = nn.Conv2d(first, second, 5, padding=padding)
        self.fc1 = nn.Linear(second * left**2, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        logits: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return logits
