"""The tail index of gradient noise (Simsekli et al. 2019), and what else could explain it.

The published reading pools all coordinates of all batches and takes them for independent draws of
one stable law. Gaussian numbers of unequal scale, exact zeros, and coordinates that move together
are all read below 2, too; the controls say how much of a reading that is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.diagnose.gradient_noise import BATCHES, GradientNoise, Loss, gradient_noise
from torchproof.diagnose.stable import Estimate, characteristic, hill, mcculloch, mohammadi
from torchproof.diagnose.tail_checks import (
    TailCurve,
    curve_of,
    gaussian_share,
    level,
    median_reading,
    objections,
    scaling,
)

ENTRIES = 10_000  # numbers that are not exactly zero; less leave alpha uncertain by 0.15
ZERO = 1e-20
_CHECKED = 200_000  # numbers that the cross-checks look at
_DRAWN = 1_000_000  # numbers that the curve is made of
_COLUMNS = 2000  # coordinates that are read one by one
_NULLS = 39  # Gaussian draws for the reading per coordinate


@dataclass(frozen=True)
class Tails:
    """Readings of one matrix of noise, batches by coordinates. 2 is Gaussian, less is heavier.

    - zeros: the share of numbers below 1e-20; hardly ever by chance.
    - pooled: the published reading, row by row, zeros and all. filtered: without zeros.
    - per_coordinate: the median over coordinates, each read across batches.
    - standardised: like filtered, each coordinate divided by its standard deviation over batches.
    - gaussian: filtered, of independent Gaussian numbers with those standard deviations.
    - correlated: filtered, of Gaussian noise with the same covariance, which keeps how coordinates
      move together (our addition); correlated_standardised, gaussian_per_coordinate: that noise
      read in the two other ways.
    - hill, quantile, characteristic: cross-checks on the numbers of `filtered`.
    - scaling: the noise freed of unequal scales and of moving together (`level` of tail_checks),
      read with sums of 10, 100 and 1000: a stable law reads the same, finite variance rises to 2.
    - gaussian_share: of coordinates that the test of Anderson and Darling does not reject as
      Gaussian at 5 %; 0.95 for Gaussian noise.
    - curve: tails of the noise, for pictures, and how far the two laws are from it.
    - heavy_tailed: whether nothing speaks against calling the noise so; because: what does.
    """

    batches: int
    coordinates: int
    zeros: float
    pooled: Estimate
    filtered: Estimate
    per_coordinate: Estimate
    standardised: Estimate
    gaussian: Estimate
    correlated: Estimate
    correlated_standardised: Estimate
    gaussian_per_coordinate: Estimate
    hill: Estimate
    quantile: Estimate
    characteristic: Estimate
    scaling: tuple[Estimate, ...]
    gaussian_share: float
    curve: TailCurve
    heavy_tailed: bool
    because: tuple[str, ...]


@dataclass(frozen=True)
class LayerTails:
    """The tails of one parameter, or why there are none."""

    name: str
    tails: Tails | None
    refused: str = ""


@dataclass(frozen=True)
class TailIndex:
    """The noise of all parameters together, and parameter by parameter."""

    overall: Tails
    layers: tuple[LayerTails, ...]
    batch_size: int


@dataclass(frozen=True)
class TailTrack:
    """Tails at steps of a training; silent: the steps at which every gradient was exactly zero."""

    steps: tuple[int, ...]
    tails: tuple[Tails, ...]
    silent: tuple[int, ...]


def tail_index(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 100, *, loss: str | Loss = "nll",
    mode: Literal["eval", "train"] = "eval", limit: int | None = None, seed: int | None = 0,
    layers: bool = True,
) -> TailIndex:  # fmt: skip
    """The tail index of the noise of mini-batch gradients of a network, with its controls.

    The arguments are those of `gradient_noise`; layers: also read every parameter alone. Raises
    InputError as that does, and where less than 10,000 numbers are not exactly zero, saying how
    many images are needed. A parameter with less is listed with that reason.
    """
    noise = gradient_noise(model, x, y, batch_size, loss=loss, mode=mode, limit=limit, seed=seed)
    own = 0 if seed is None else seed
    overall = tails(noise.values, batch_size, own)
    each = tuple(_layer(noise, n, own) for n in noise.names) if layers else ()
    return TailIndex(overall, each, batch_size)


def tail_index_over_training(
    checkpoints: Iterable[tuple[int, nn.Module]], x: Tensor, y: Tensor, batch_size: int = 100, *,
    loss: str | Loss = "nll", mode: Literal["eval", "train"] = "eval", limit: int | None = None,
    seed: int | None = 0,
) -> TailTrack:  # fmt: skip
    """Overall tails of every (step, network), as a training loop yields them or files give them;
    one network may be yielded again and again. The arguments and errors are those of `tail_index`.
    """
    steps: list[int] = []
    found: list[Tails] = []
    silent: list[int] = []
    for step, model in checkpoints:
        noise = gradient_noise(
            model, x, y, batch_size, loss=loss, mode=mode, limit=limit, seed=seed
        )
        if _silent(noise.values):
            silent.append(step)
            continue
        steps.append(step)
        found.append(tails(noise.values, batch_size, 0 if seed is None else seed))
    return TailTrack(tuple(steps), tuple(found), tuple(silent))


def tails(noise: Tensor, batch_size: int = 1, seed: int = 0) -> Tails:
    """The readings of noise (P, M) whose columns have mean 0; batch_size: images per row, for the
    numbers in errors. Raises InputError for too few numbers, or none but zeros.
    """
    live, zeros = _live(noise.detach().float(), batch_size)
    batches, coordinates = noise.shape
    made = _generator(seed, "surrogates")
    spread = live.std(0)
    drawn = torch.randn(live.shape, generator=made).to(live) * spread
    mixed = _mixed(live, made)
    chosen = _some(live.shape[1], seed)
    drawable = chosen[: max(_DRAWN // batches, 1)]
    few = live[:, chosen[: max(_CHECKED // batches, 1)]]
    flat = _numbers(few)
    columns = few[:, :_COLUMNS]
    nulls = [median_reading(_mixed(columns, made)).alpha for _ in range(_NULLS)]
    levelled = level(few, made)
    filtered, standardised = _read(live), _read(live / spread)
    pooled = mohammadi(noise.detach().float().flatten(), clusters=batches)
    readings = {
        "filtered": filtered,
        "standardised": standardised,
        "per_coordinate": median_reading(columns),
        "gaussian": _read(drawn - drawn.mean(0)),
        "correlated": _read(mixed),
        "correlated_standardised": _read(mixed / mixed.std(0)),
        "gaussian_per_coordinate": _middle(nulls, columns.numel()),
    }
    scales = scaling(levelled)
    curve = curve_of(_numbers(live[:, drawable]), levelled, _numbers(mixed[:, drawable]))
    because = objections(readings, scales, curve)
    return Tails(
        batches=batches, coordinates=coordinates, zeros=zeros, pooled=pooled, **readings,
        hill=hill(flat), quantile=mcculloch(flat), characteristic=characteristic(flat),
        scaling=scales, gaussian_share=gaussian_share(columns), curve=curve,
        heavy_tailed=not because, because=because,
    )  # fmt: skip


def _silent(noise: Tensor) -> bool:
    return not bool((noise.abs() >= ZERO).any())


def _live(noise: Tensor, batch_size: int) -> tuple[Tensor, float]:
    """The columns that are not all zero, and the share of zeros in all; raises InputError."""
    batches = noise.shape[0]
    some = noise.abs() >= ZERO
    count = int(some.sum())
    if not count:
        remedy = "look at an earlier checkpoint, other images or another loss"
        raise InputError("gradients that are the same in all batches", "noise", remedy)
    needed = max(BATCHES, math.ceil(ENTRIES * batches / count))
    if batches < BATCHES or count < ENTRIES:
        given = f"{count} numbers that are not zero, in {batches} batches"
        expected = f"at least {ENTRIES} in {BATCHES} batches or more"
        remedy = f"give at least {needed * batch_size} images, {needed} batches of {batch_size}"
        raise InputError(given, expected, remedy)
    live = noise[:, some.any(0)]
    spread = live.std(0)  # a column of few denormal numbers has none
    return live[:, spread > 0], 1 - count / noise.numel()


def _layer(noise: GradientNoise, name: str, seed: int) -> LayerTails:
    try:
        return LayerTails(name, tails(noise.layer(name), noise.batch_size, seed))
    except InputError as error:
        return LayerTails(name, None, f"{error.given}; {error.remedy}")


def _numbers(values: Tensor) -> Tensor:
    """The numbers that are not zero, row by row, in units of their mean modulus."""
    flat = values.flatten()
    size = flat.abs()
    some = size >= ZERO
    if not bool(some.all()):
        flat, size = flat[some], size[some]
    return flat / size.mean()


def _read(values: Tensor) -> Estimate:
    return mohammadi(_numbers(values), clusters=len(values), floor=0.0)


def _generator(seed: int, word: str) -> torch.Generator:
    """On the CPU, so that devices agree."""
    return torch.Generator().manual_seed(keys.seed_of(seed, "tail index", word))


def _mixed(noise: Tensor, made: torch.Generator) -> Tensor:
    """Gaussian noise (P, M) with the covariance of `noise` between coordinates: its rows mixed with
    Gaussian weights, centred.
    """
    weights = torch.randn(len(noise), len(noise), generator=made).to(noise)
    mixed = weights @ noise / math.sqrt(len(noise))
    return mixed.sub_(mixed.mean(0))


def _some(count: int, seed: int) -> Tensor:
    """`count` columns in a random order."""
    return keys.permutation(count, seed, "columns")


def _middle(values: list[float], n: int) -> Estimate:
    """The median of readings of as many draws, and all but the outermost of them."""
    ordered = sorted(values)
    return Estimate(ordered[len(ordered) // 2], ordered[0], ordered[-1], n)
