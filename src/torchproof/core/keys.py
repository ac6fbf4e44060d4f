"""Counter-based random numbers: pure functions of (key, step, stream), never of batch size or
order.

A key is one int64 per problem, mixed from whatever the numbers may depend on: the seed, the
example's id, the purpose, the restart. The generator is splitmix64 (Steele, Lea and Flood 2014),
two 23-bit floats from each 64-bit hash, so every row is bit-identical whatever stands beside it.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB
_HALF = (1 << 23) - 1
_ALL = (1 << 64) - 1
_SHIFTS, _LAST = (np.uint64(30), np.uint64(27)), np.uint64(31)
_FACTORS = np.uint64(_FIRST & _ALL), np.uint64(_SECOND & _ALL)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of an int64 tensor."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _scramble(z: Tensor) -> Tensor:
    """The splitmix64 finaliser, in place; int64 arithmetic wraps around as it needs to."""
    if type(z) is Tensor and z.device.type == "cpu":
        _scramble_array(z.numpy().view(np.uint64))
        return z
    z.bitwise_xor_(_shift(z, 30)).mul_(_FIRST)
    z.bitwise_xor_(_shift(z, 27)).mul_(_SECOND)
    return z.bitwise_xor_(_shift(z, 31))


def _scramble_array(z: npt.NDArray[np.uint64]) -> None:
    """The same, twice as fast: unsigned numbers shift as they should, and small arrays cost less
    per operation than small tensors.
    """
    for bits, factor in zip(_SHIFTS, _FACTORS, strict=True):
        z ^= z >> bits
        z *= factor
    z ^= z >> _LAST


def purpose(name: str) -> int:
    """A stable number for a purpose named in words."""
    return zlib.crc32(name.encode())


def mix(*parts: Tensor | int | str) -> Tensor:
    """One int64 key per row from integers, words and int64 tensors, which broadcast; shape (P,), on
    the device of the tensors.

    >>> bool(mix(0, "start", torch.arange(3))[1] == mix(0, "start", torch.tensor([1]))[0])
    True
    """
    device = next((p.device for p in parts if isinstance(p, Tensor)), None)
    alike: list[int | str] = []  # what stands before the first tensor is the same for all rows
    for part in parts:
        if isinstance(part, Tensor):
            break
        alike.append(part)
    key = torch.tensor([_mixed(*alike)], dtype=torch.int64, device=device)
    for part in parts[len(alike) :]:
        number = purpose(part) if isinstance(part, str) else part
        key = _scramble((key * 3 + number).add_(_GOLDEN))
    return key


def _mixed(*parts: int | str) -> int:
    """`mix` of integers and words, as a signed 64-bit number: without tensors, each of whose
    operations would take longer than all of this.
    """
    key = 0
    for part in parts:
        number = purpose(part) if isinstance(part, str) else int(part)
        z = (key * 3 + number + _GOLDEN) & _ALL
        z = ((z ^ (z >> 30)) * _FIRST) & _ALL
        z = ((z ^ (z >> 27)) * _SECOND) & _ALL
        key = z ^ (z >> 31)
    return key - (1 << 64) if key >> 63 else key


def seed_of(*parts: int | str) -> int:
    """A seed in [0, 2**63) for torch's own generators, from integers and words."""
    return _mixed(*parts) & ((1 << 63) - 1)


def _hashes(key: Tensor, step: Tensor | int, count: int, stream: int) -> Tensor:
    """(P, count) hashes of 64 bits."""
    start = mix(key, step, stream).unsqueeze(1)
    z = torch.arange(1, count + 1, dtype=torch.int64, device=start.device).mul_(_GOLDEN)
    return _scramble(start + z)


def uniform(
    key: Tensor,
    step: Tensor | int,
    shape: tuple[int, ...],
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(P, *shape) numbers in the open interval (0, 1): upper and lower 23 bits of each hash."""
    n = math.prod(shape)
    half = (n + 1) // 2
    z = _hashes(key, step, half, stream)
    out = torch.empty(len(z), 2 * half, dtype=dtype, device=z.device)
    out[:, half:] = z.bitwise_and(_HALF)
    out[:, :half] = _shift(z, 41)
    return out.add_(0.5).mul_(2.0**-23)[:, :n].reshape(-1, *shape)


def normal(
    key: Tensor,
    step: Tensor | int,
    shape: tuple[int, ...],
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(P, *shape) standard normal numbers (Box and Muller 1958)."""
    n = math.prod(shape)
    half = (n + 1) // 2
    u = uniform(key, step, (2 * half,), stream, dtype)
    radius, angle = u[:, :half].log_().mul_(-2).sqrt_(), u[:, half:].mul_(2 * math.pi)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :n].reshape(-1, *shape)


def integers(
    key: Tensor, step: Tensor | int, high: Tensor | int, shape: tuple[int, ...], stream: int = 0
) -> Tensor:
    """(P, *shape) integers in [0, high), int64; `high` is a number or a (P,) tensor."""
    u = uniform(key, step, shape, stream, torch.float64)
    top = high if isinstance(high, int) else high.reshape(-1, *(1,) * len(shape))
    return (u * top).long()


def signs(
    key: Tensor,
    step: Tensor | int,
    shape: tuple[int, ...],
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(P, *shape) fair signs, -1 or 1."""
    return uniform(key, step, shape, stream, dtype).sub_(0.5).sign_()


def permutation(n: int, *parts: int | str) -> Tensor:
    """A permutation of n things keyed by `parts`, int64."""
    return mix(mix(*parts), torch.arange(n)).argsort(dim=0, stable=True)
