"""A small convolutional network: seconds to train on a CPU, and quick to attack."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.nn.activations import activation_of


class SmallCNN(nn.Module):
    """Two strided convolutions and two linear layers: x (B, C, S, S) to logits (B, K).

    The shape of the small network of Wong and Kolter 2018 (kernel 4, stride 2, padding 1, which
    halves even sizes exactly), with its widths as options: `widths` are the channels of the
    convolutions, `hidden` the units of the first linear layer. `batch_norm` follows each
    convolution, `dropout` is the probability with which a unit before the last layer is dropped in
    training. `activation`: a name of ACTIVATIONS; `stem_stride`: 2, or 4 for a first convolution on
    patches of 4 x 4 pixels, after which the second (kernel 3) keeps the resolution.

    Raises InputError for images below 4 pixels, `widths` that are not two numbers, another
    stem_stride; UnknownName for another activation.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        widths: Sequence[int] = (16, 32),
        hidden: int = 100,
        batch_norm: bool = False,
        dropout: float = 0.0,
        activation: str = "relu",
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        if size < 4:
            remedy = "enlarge the images, or use the network 'mlp'"
            raise InputError(f"images of {size} x {size}", "at least 4 x 4 for small-cnn", remedy)
        if len(widths) != 2:
            remedy = "give two numbers such as widths=(16, 32)"
            raise InputError(f"widths={widths!r}", "the channels of two convolutions", remedy)
        if stem_stride not in (2, 4):
            remedy = "write stem_stride=4, or leave it out"
            raise InputError(f"stem_stride = {stem_stride!r}", "2 or 4", remedy)
        first, second = widths
        bias, patches = not batch_norm, stem_stride == 4
        self.conv1 = nn.Conv2d(
            channels, first, 4, stride=stem_stride, padding=0 if patches else 1, bias=bias
        )
        self.bn1 = nn.BatchNorm2d(first) if batch_norm else nn.Identity()
        self.act1 = activation_of(activation, first)
        kernel, stride = (3, 1) if patches else (4, 2)
        self.conv2 = nn.Conv2d(first, second, kernel, stride=stride, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(second) if batch_norm else nn.Identity()
        self.act2 = activation_of(activation, second)
        self.fc1 = nn.Linear(second * (size // 4) ** 2, hidden)
        self.act3 = activation_of(activation, hidden, maps=False)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        x = self.act3(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(self.dropout(x))
        return logits
