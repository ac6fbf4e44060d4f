"""Windows of maps, and the operations that slide over maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Places(NamedTuple):
    """Places (P,) in the maps of a batch: of which example, and where in a map of `shape`."""

    example: Tensor
    at: tuple[Tensor, ...]
    shape: tuple[int, ...]


class Window(NamedTuple):
    """What an entry at place p of a map sees of another: along each axis, `size` entries from
    stride * p + start on.
    """

    stride: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def itself(cls, axes: int) -> Window:
        return cls((1,) * axes, (0,) * axes, (1,) * axes)

    def joined(self, other: Window | None) -> Window | None:
        """The least window that holds both; None where they move differently."""
        if other is None or self.stride != other.stride:
            return self if other is None else None
        start = tuple(map(min, self.start, other.start))
        ends = map(max, self.ends, other.ends)
        return Window(self.stride, start, tuple(e - s for s, e in zip(start, ends, strict=True)))

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(s + n for s, n in zip(self.start, self.size, strict=True))

    def beyond(self, shape: tuple[int, ...], places: tuple[int, ...]) -> list[tuple[int, int]]:
        """Along each axis, how far windows of the places 0 to n - 1 reach beyond a map of `shape`,
        before and behind it.
        """
        axes = zip(*self, shape, places, strict=True)
        return [(max(0, -b), max(0, s * (n - 1) + b + w - full)) for s, b, w, full, n in axes]

    def cut(self, values: Tensor, places: Places, outside: float = 0.0) -> Tensor:
        """(P, C, *size): what the places see of values (B, C, ...)."""
        beyond = self.beyond(values.shape[2:], places.shape)
        pads = [side for sides in reversed(beyond) for side in sides]
        seen = F.pad(values, pads, value=outside) if any(pads) else values
        for axis, (before, _) in enumerate(beyond):
            first = self.start[axis] + before
            seen = seen.narrow(axis + 2, first, seen.shape[axis + 2] - first)
            seen = seen.unfold(axis + 2, self.size[axis], self.stride[axis])
        index: tuple[Any, ...] = (places.example, slice(None), *places.at)
        return seen[index]


class Slide(NamedTuple):
    """A sliding operation: what of each axis one entry reads; which argument is the padding."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    which: int

    def read(self, window: Window) -> Window:
        """The window of the input that a window of the answer is made of."""
        axes = list(zip(*window, *self[:4], strict=True))
        return Window(
            tuple(s * stride for stride, _, _, _, s, _, _ in axes),
            tuple(s * start - p for _, start, _, _, s, p, _ in axes),
            tuple(s * (n - 1) + d * (k - 1) + 1 for _, _, n, k, s, _, d in axes),
        )


def _convolution(
    axes: int, x: Any, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Slide | None:  # fmt: skip
    if isinstance(padding, str):
        return None
    step, pad, gap = (_each(value, axes) for value in (stride, padding, dilation))
    return Slide(tuple(weight.shape[2:]), step, pad, gap, 4)


def _average(
    axes: int, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False,
    padded: bool = True, *_: Any,
) -> Slide | None:  # fmt: skip
    size, pad = _each(kernel, axes), _each(padding, axes)
    step = _each(stride or (), axes) or size
    return None if ceil or (any(pad) and not padded) else Slide(size, step, pad, (1,) * axes, 3)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    many = (value,) if isinstance(value, int) else tuple(value)
    return many * axes if len(many) == 1 else many


SLIDING: dict[str, Callable[..., Slide | None]] = {
    **{f"conv{axes}d": partial(_convolution, axes) for axes in (1, 2, 3)},
    **{f"avg_pool{axes}d": partial(_average, axes) for axes in (1, 2)},
}
"""From the arguments of an operation to what it reads; None where windows cannot say that."""
