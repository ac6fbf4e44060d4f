"""Max pooling as a choice of entries and a maximum over them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from torchproof.core.errors import ModelError
from torchproof.verify.steps import Steps


def max_pool(
    steps: Steps, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil: bool = False, *_: Any,
) -> bool:  # fmt: skip
    """Windows as an axis of their own: entries are chosen by index, twice where windows overlap,
    and in the place of padding an entry of the same window.
    """
    two = [tuple(v) if len(v) == 2 else tuple(v) * 2 for v in map(_listed, (kernel, padding,
                                                                           dilation))]  # fmt: skip
    step = _listed(stride) or list(two[0])
    step = step if len(step) == 2 else step * 2
    chosen = partial(_windows, kernel=two[0], stride=step, padding=two[1], dilation=two[2],
                     ceil=ceil)  # fmt: skip
    steps.add("row_max", partial(torch.amax, dim=-1), steps.add("index", chosen, x))
    return True


def max_pool_of_rows(
    steps: Steps, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil: bool = False, *_: Any,
) -> bool:  # fmt: skip
    """max_pool1d, as pooling of an image of one row."""
    size, pad, wide = (_listed(v)[0] for v in (kernel, padding, dilation))
    step = (_listed(stride) or [size])[0]
    row = steps.add("unsqueeze", torch.unsqueeze, x, -2)
    max_pool(steps, row, (1, size), (1, step), (0, pad), (1, wide), ceil)
    steps.add("squeeze", torch.squeeze, steps.last, -2)
    return True


def adaptive_max_pool(steps: Steps, x: Any, size: Any) -> bool:
    """Windows that cover the image, of as equal sizes as its own allows."""
    high, wide = (_listed(size) * 2)[:2]
    chosen = partial(_shares, high=high, wide=wide)
    steps.add("row_max", partial(torch.amax, dim=-1), steps.add("index", chosen, x))
    return True


def _listed(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value or ())


def _windows(
    x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool
) -> Tensor:
    """(B, C, H, W) to (B, C, H', W', entries of a window)."""
    rows, columns = (
        _places(x.shape[axis], kernel[i], stride[i], padding[i], dilation[i], ceil)
        for i, axis in enumerate((-2, -1))
    )
    return _taken(x, rows, columns)


def _shares(x: Tensor, high: int, wide: int) -> Tensor:
    return _taken(x, _covering(x.shape[-2], high), _covering(x.shape[-1], wide))


def _taken(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The entries at these places (windows, kernel) of both axes."""
    places = rows[:, None, :, None] * x.shape[-1] + columns[None, :, None, :]
    shape = places.shape
    flat = places.reshape(-1).to(x.device)
    taken = x.flatten(-2)[..., flat]
    return taken.view(*x.shape[:-2], *shape[:2], shape[2] * shape[3])


def _places(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> Tensor:
    """(windows, kernel) positions along one axis; outside ones are the window's first inside."""
    reach = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (reach + stride - 1 if ceil else reach) // stride + 1
    if ceil and (count - 1) * stride >= size + padding:
        count -= 1  # torch drops windows that start beyond the input
    starts = torch.arange(count) * stride - padding
    places = starts[:, None] + torch.arange(kernel) * dilation
    inside = (places >= 0) & (places < size)
    if not bool(inside.any(1).all()):
        given = f"windows of {kernel} entries, {dilation} apart, of which one sees padding alone"
        raise ModelError(given, "an entry of the image in every window", "use less padding")
    first = inside.long().argmax(1, keepdim=True)
    return torch.where(inside, places, places.gather(1, first))


def _covering(size: int, windows: int) -> Tensor:
    """(windows, longest) positions along one axis; a shorter window names its first once more."""
    starts = [i * size // windows for i in range(windows)]
    ends = [-(-(i + 1) * size // windows) for i in range(windows)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    rows = [
        [*range(start, end), *[start] * (longest - end + start)]
        for start, end in zip(starts, ends, strict=True)
    ]
    return torch.tensor(rows)
