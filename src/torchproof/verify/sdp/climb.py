"""Uphill on the dual of the semidefinite relaxation, matrix-free: Adam on supergradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.verify.adam import uphill
from torchproof.verify.sdp.eigenvalue import lanczos
from torchproof.verify.sdp.lifted import Lifted
from torchproof.verify.sdp.products import ONE_OF, WITHIN, Quadratic, crown

SMALL = 256  # rows up to which all eigenvalues are worked out in every step
KRYLOV, CHECK = 16, 60  # directions of Lanczos in a step, and where a value is looked at
SMALL_COUNT, COUNT = 16, 4  # lowest vectors that a step uses
RATE, SLOW = 0.3, 0.1  # of Adam; with Lanczos, where there is time for fewer steps
DECAY, SOFT = 0.01, 0.01  # the fall of the rate in all; width of the soft minimum
BETA, MEAN, EVERY = 0.9, 0.1, 25  # moments; weight of the newest in the mean; steps between checks

Lowest = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""From multipliers, kappa, vectors to begin with and directions to eigenvalues and vectors."""


@dataclass
class Climb:
    """Adam uphill on multipliers and kappa, in units of `scale` (P, 1). A step is told by the few
    lowest eigenvectors, so that its value is not exact, and steps go back and forth: what counts is
    their mean, which the value, being concave, favours, and which is looked at now and then. best:
    (P,) estimates of the largest value so far, multipliers and kappa: where that was.
    """

    quadratic: Quadratic
    lowest_of: Lowest
    rate: float
    scale: Tensor
    now: tuple[Tensor, Tensor]
    mean: tuple[Tensor, Tensor]
    moments: tuple[tuple[Tensor, Tensor], ...]
    gate: Tensor
    lowest: Tensor
    best: Tensor
    multipliers: Tensor
    kappa: Tensor
    made: int = 0

    @classmethod
    def of(cls, lifted: Lifted) -> Climb:
        quadratic = Quadratic(lifted)
        multipliers = crown(quadratic)
        kappa = linear_kappa(quadratic, multipliers)
        scale = (multipliers.sum((1, 2)) + kappa[:, 1:].sum(1)) / lifted.mask.sum(1)
        scale = scale.clamp_min(1e-12)[:, None]
        now = (multipliers / scale[:, :, None], kappa / scale)
        mean = (now[0].clone(), now[1].clone())
        moments = tuple((torch.zeros_like(t), torch.zeros_like(t)) for t in now)
        gate = lifted.open[:, None].repeat(1, 5, 1)
        gate[:, WITHIN] = lifted.high > lifted.low
        best = torch.full_like(scale[:, 0], -torch.inf)
        small = kappa.shape[1] <= SMALL
        lowest_of: Lowest = Exact.of(quadratic) if small else Krylov(quadratic)
        made = cls(quadratic, lowest_of, RATE if small else SLOW, scale, now, mean, moments, gate,
                   noise(lifted, 0), best, multipliers, kappa)  # fmt: skip
        made.look()
        return made

    def step(self, part: float) -> None:
        """One step; part: of the whole way, in [0, 1]."""
        self.made += 1
        lifted = self.quadratic.lifted
        multipliers, kappa = self.now[0] * self.scale[:, :, None], self.now[1] * self.scale
        values, vectors = self.lowest_of(multipliers, kappa, self.lowest, KRYLOV)
        self.lowest = vectors[:, 0] + 0.03 * noise(lifted, self.made)
        # the soft minimum of the lowest eigenvalues, whose width goes to nothing
        width = SOFT * self.scale * (1 - part) + 1e-9 * self.scale
        weights = torch.softmax((values[:, :1] - values) / width, 1)[:, :, None]
        active = (values[:, :1] < kappa) & lifted.mask
        active[:, 0] = True
        count = active.sum(1)[:, None]
        up_kappa = count * (weights * vectors.square()).sum(1) - active.to(kappa)
        lost = (weights[:, :, :, None] * self.quadratic.each(vectors)).sum(1)
        ups = (-count[:, :, None] * lost * self.gate, up_kappa * lifted.mask)
        rate = self.rate * DECAY**part
        for value, up, moment in zip(self.now, ups, self.moments, strict=True):
            value.copy_(uphill(value, up, moment, self.made, rate, (BETA, BETA)))
        free = self.now[0][:, ONE_OF].clone()
        self.now[0].clamp_min_(0)[:, ONE_OF] = free
        self.now[1][:, 1:].clamp_min_(0)
        for mean, value in zip(self.mean, self.now, strict=True):
            mean.lerp_(value, MEAN)
        if self.made % EVERY == 0:
            self.look()

    def look(self) -> None:
        """Estimates the value of the mean, and keeps it where it is the best."""
        multipliers, kappa = self.mean[0] * self.scale[:, :, None], self.mean[1] * self.scale
        values, _ = self.lowest_of(multipliers, kappa, self.lowest, CHECK)
        room = (values[:, :1] - kappa) * self.quadratic.lifted.mask
        value = room[:, 0] + room[:, 1:].clamp_max(0).sum(1)
        better = value > self.best
        self.best = torch.where(better, value, self.best)
        self.multipliers = torch.where(better[:, None, None], multipliers, self.multipliers)
        self.kappa = torch.where(better[:, None], kappa, self.kappa)


def linear_kappa(quadratic: Quadratic, multipliers: Tensor) -> Tensor:
    """(P, N) the best kappa where A is c + <b, w>: |b_i| / 2 for w_i, and for t what leaves the
    bound c - sum |b_i|.
    """
    lifted = quadratic.lifted
    one = torch.zeros_like(lifted.mask, dtype=multipliers.dtype)
    one[:, 0] = 1.0
    slant = quadratic.times(multipliers, one)
    kappa = slant.abs()
    kappa[:, 0] = kappa[:, 1:].sum(1) - slant[:, 0]
    return kappa


@dataclass(frozen=True)
class Krylov:
    """The lowest eigenvectors of A + diag(kappa) by a few steps of Lanczos from those before."""

    quadratic: Quadratic

    def __call__(
        self, multipliers: Tensor, kappa: Tensor, near: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        def times(y: Tensor) -> Tensor:
            return self.quadratic.times(multipliers, y) + kappa * y

        return lanczos(times, near, steps, COUNT)


@dataclass(frozen=True)
class Exact:
    """All of them, by building the matrix; those of entries that there are."""

    quadratic: Quadratic
    columns: Quadratic
    unit: Tensor
    away: Tensor

    @classmethod
    def of(cls, quadratic: Quadratic) -> Exact:
        lifted = quadratic.lifted
        problems, size = lifted.mask.shape
        which = torch.arange(problems, device=lifted.rows.device).repeat_interleave(size)
        unit = torch.eye(size, dtype=lifted.rows.dtype, device=lifted.rows.device)
        away = torch.diag_embed(~lifted.mask)
        return cls(quadratic, Quadratic(lifted.take(which)), unit.repeat(problems, 1), away)

    def __call__(
        self, multipliers: Tensor, kappa: Tensor, near: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        size = kappa.shape[1]
        many = multipliers.repeat_interleave(size, 0)
        matrix = self.columns.times(many, self.unit).view(-1, size, size)
        matrix = matrix + torch.diag_embed(kappa)
        far = 1e3 * matrix.abs().amax((1, 2), keepdim=True)
        matrix = torch.where(self.away, far, matrix)
        values, vectors = torch.linalg.eigh((matrix + matrix.transpose(1, 2)) / 2)
        return values[:, :SMALL_COUNT], vectors[:, :, :SMALL_COUNT].transpose(1, 2)


def noise(lifted: Lifted, step: int) -> Tensor:
    """(P, N) random vectors of about length 1."""
    mask = lifted.mask
    key = keys.mix("lanczos", torch.arange(len(mask), device=mask.device))
    drawn = keys.normal(key, step, tuple(mask.shape[1:]), dtype=lifted.rows.dtype) * mask
    size: Tensor = drawn.norm(dim=1, keepdim=True)
    return drawn / size
