"""Feature denoising (Xie et al. 2019): blocks that filter the maps of a network, one class per
filter, and the null block, which filters nothing and is the control of all others.

Pixels beyond the border of a map belong to no window: shares, means and medians are of those
inside (the specification leaves borders open).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, unknown


class Denoise(nn.Module):
    """x + BN(Conv1x1(D(x))) on maps x (B, C, H, W) (Xie et al. 2019, section 4); D by subclass.

    The scale of the normalisation starts at 0, so that a fresh block is the identity. In the first
    step only the normalisation has gradients; convolution and D have theirs once the scale moved.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def filtered(self, x: Tensor) -> Tensor:
        """D(x), of the shape of x."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        correction: Tensor = self.norm(self.conv(self.filtered(x)))
        return x + correction


class NullFilter(Denoise):
    """Denoising without a filter, D(x) = x: the control that shows what the 1x1 convolution does
    alone; the identity at the start.
    """

    def filtered(self, x: Tensor) -> Tensor:
        return x


class MeanFilter(Denoise):
    """Denoising by the mean of a `window` x `window` neighbourhood (Xie et al. 2019); the identity
    at the start. Raises InputError for a window that is not odd.
    """

    def __init__(self, channels: int, window: int = 3) -> None:
        super().__init__(channels)
        self.window = _odd(window)

    def filtered(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.window, 1, self.window // 2, count_include_pad=False)


class MedianFilter(Denoise):
    """Denoising by the median of a `window` x `window` neighbourhood, channel by channel (Xie et
    al. 2019); the identity at the start. Gradients go to the selected pixel alone.

    Of an even number of pixels, at borders, the median is the lower one of the middle; equal pixels
    rank in reading order. Raises InputError for a window that is not odd.
    """

    def __init__(self, channels: int, window: int = 3) -> None:
        super().__init__(channels)
        self.window = _odd(window)

    def selected(self, x: Tensor) -> Tensor:
        """(B, C, H, W): the index, among H * W, of the pixel that is the median around each.

        Counts what is smaller, slot by slot: quicker than sorting so few, and stable.
        """
        around = torch.stack(windows(x.detach(), self.window, math.inf))
        middle = (inside(x, self.window).sum(1, keepdim=True) - 1) // 2
        chosen = torch.zeros_like(x, dtype=torch.int64)
        for slot, one in enumerate(around):
            before = (around[:slot] <= one).sum(0, dtype=torch.int16)
            after = (around[slot + 1 :] < one).sum(0, dtype=torch.int16)
            chosen = torch.where(before + after == middle, slot, chosen)
        height, width = x.shape[2:]
        reach = range(-(self.window // 2), self.window // 2 + 1)
        moves = torch.tensor([i * width + j for i in reach for j in reach], device=x.device)
        here = torch.arange(height * width, device=x.device).view(height, width)
        # among NaN no slot may have the middle rank; any pixel will do then
        return (here + moves[chosen]).clamp(0, height * width - 1)

    def filtered(self, x: Tensor) -> Tensor:
        return x.flatten(2).gather(2, self.selected(x).flatten(2)).view_as(x)


class Gaussian(nn.Module):
    """The weighting softmax_j(theta(x_i) . phi(x_j) / sqrt(C/2)); theta and phi are 1x1
    convolutions without bias to C/2 channels, drawn from N(0, 0.01^2).
    """

    products = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.theta = nn.Conv2d(channels, inner, 1, bias=False)
        self.phi = nn.Conv2d(channels, inner, 1, bias=False)
        self.scale = inner**-0.5
        nn.init.normal_(self.theta.weight, std=0.01)
        nn.init.normal_(self.phi.weight, std=0.01)

    def forward(self, x: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        """What is multiplied: of the pixels that ask, and of those they look at."""
        return self.theta(x) * self.scale, self.phi(others)

    def shares(self, scores: Tensor, dim: int, known: Tensor | None = None) -> Tensor:
        """Weights along `dim` from scores; `known` is False beyond the border."""
        inner = scores if known is None else scores.masked_fill(~known, -math.inf)
        return inner.softmax(dim)


class DotProduct(nn.Module):
    """The weighting x_i . x_j / J of J pixels, without embedding and without weights to learn."""

    products = True

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        return x, others

    def shares(self, scores: Tensor, dim: int, known: Tensor | None = None) -> Tensor:
        """As those of `Gaussian`; beyond the border the scores are 0 already."""
        return scores / (scores.shape[dim] if known is None else known.sum(dim, keepdim=True))


FORMS: dict[str, type[Gaussian] | type[DotProduct]] = {"softmax": Gaussian, "dot": DotProduct}
"""How pixels are weighted, by the name that NonLocal and Bilateral take as `form`."""


class NonLocal(Denoise):
    """Denoising by non-local means: each pixel becomes a weighted sum of all pixels x_j (Xie et
    al. 2019); form: softmax, the embedded Gaussian and the best of the paper, or dot.

    The values x_j are not embedded. The identity at the start. Takes memory for (H W)^2 weights per
    image, but for dot with few channels, where the sums are taken in the other order. pool: side of
    the squares whose maxima stand for the pixels that are looked at (Wang et al. 2018), which
    divides memory by its square. Raises UnknownName for another form, InputError for pool < 1.
    """

    def __init__(self, channels: int, form: str = "softmax", pool: int = 1) -> None:
        super().__init__(channels)
        self.weighting = _weighting(form, channels)
        self.pool = _whole("pool", pool)

    def looked_at(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.pool, ceil_mode=True) if self.pool > 1 else x

    def weights(self, x: Tensor) -> Tensor:
        """(B, N, J): what each of N pixels takes of each of the J that it looks at."""
        asking, seen = (t.flatten(2) for t in self.weighting(x, self.looked_at(x)))
        return self.weighting.shares(asking.transpose(1, 2) @ seen, 2)

    def filtered(self, x: Tensor) -> Tensor:
        values = self.looked_at(x).flatten(2)
        (channels, count), pixels = values.shape[1:], x.shape[2] * x.shape[3]
        # products per image: C C (N + J) through C x C, 2 C N J through N x J
        if self.weighting.products and channels * (pixels + count) <= 2 * pixels * count:
            return ((values / count) @ values.transpose(1, 2) @ x.flatten(2)).view_as(x)
        return (values @ self.weights(x).transpose(1, 2)).view_as(x)


class Bilateral(Denoise):
    """Denoising by a bilateral filter: `NonLocal` that looks at a `window` x `window` neighbourhood
    only (Xie et al. 2019); form: softmax or dot; the identity at the start.

    Raises UnknownName for another form, InputError for a window that is not odd.
    """

    def __init__(self, channels: int, form: str = "softmax", window: int = 3) -> None:
        super().__init__(channels)
        self.weighting = _weighting(form, channels)
        self.window = _odd(window)

    def weights(self, x: Tensor) -> Tensor:
        """(B, N, J): what each of N pixels takes of the J slots of its window, 0 of those beyond
        the border.
        """
        return self._shares(x).flatten(2).transpose(1, 2)

    def _shares(self, x: Tensor) -> Tensor:
        """(B, J, H, W)."""
        asking, seen = self.weighting(x, x)
        scores = [(asking * near).sum(1) for near in windows(seen, self.window)]
        return self.weighting.shares(torch.stack(scores, 1), 1, inside(x, self.window))

    def filtered(self, x: Tensor) -> Tensor:
        pairs = zip(torch.split(self._shares(x), 1, 1), windows(x, self.window), strict=True)
        return sum((share * near for share, near in pairs), torch.zeros_like(x))


def windows(x: Tensor, window: int, beyond: float = 0.0) -> list[Tensor]:
    """window^2 maps like x, moved so that together they hold the neighbourhood of each pixel, in
    reading order; `beyond` outside the map.
    """
    height, width = x.shape[2:]
    wide = F.pad(x, (window // 2,) * 4, value=beyond)
    return [wide[:, :, i : i + height, j : j + width] for i in range(window) for j in range(window)]


def inside(x: Tensor, window: int) -> Tensor:
    """(1, window^2, H, W): which slots of the neighbourhoods lie within the map."""
    return torch.cat(windows(x.new_ones(1, 1, *x.shape[2:]), window), 1) > 0


def _weighting(form: str, channels: int) -> Gaussian | DotProduct:
    if form not in FORMS:
        raise unknown("form", str(form), FORMS)
    return FORMS[form](channels)


def _odd(window: int) -> int:
    if isinstance(window, bool) or not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise InputError(f"window = {window!r}", "an odd number such as 3", "write window=3")
    return window


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} = {value!r}", "a whole number >= 1", f"write {name}=2")
    return value
