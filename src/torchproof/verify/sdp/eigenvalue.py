"""Smallest eigenvalues: estimated by Lanczos, proved by a Cholesky factorisation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

TRIES = 6


def lanczos(
    times: Callable[[Tensor], Tensor], start: Tensor, steps: int, count: int = 1
) -> tuple[Tensor, Tensor]:
    """(P, count) estimates, from above, of the smallest eigenvalues of P symmetric matrices, and
    vectors (P, count, N), of length 1 where they were found; times: A y for y (P, N); start (P, N),
    such as vectors of similar matrices. Every direction is made orthogonal to all before it, twice.
    """
    basis = [start / start.norm(dim=1, keepdim=True)]
    across, along = [], []
    alive = torch.ones(len(start), dtype=torch.bool, device=start.device)
    size = torch.zeros_like(start[:, 0])
    for step in range(min(steps, start.shape[1])):
        moved = times(basis[-1])
        along.append((moved * basis[-1]).sum(1))
        size = torch.maximum(size, moved.norm(dim=1))
        known = torch.stack(basis, 1)
        for _ in range(2):
            inside = torch.bmm(known, moved.unsqueeze(2))
            moved = moved - torch.bmm(known.transpose(1, 2), inside)[:, :, 0]
        left = moved.norm(dim=1)
        # a space that is used up: what follows is kept apart, and out of the way
        along[-1] = torch.where(alive, along[-1], size + 1)
        alive = alive & (left > 1e-12 * size)
        if step + 1 == steps or not bool(alive.any()):
            break
        across.append(torch.where(alive, left, 0.0))
        basis.append(torch.where(alive, 1 / left.clamp_min(1e-300), 0.0)[:, None] * moved)
    small = torch.diag_embed(torch.stack(along, 1))
    if across := across[: len(along) - 1]:
        side = torch.stack(across, 1)
        small = small + torch.diag_embed(side, 1) + torch.diag_embed(side, -1)
    values, vectors = torch.linalg.eigh(small)
    vectors = torch.bmm(vectors[:, :, :count].transpose(1, 2), torch.stack(basis[: len(along)], 1))
    return values[:, :count], vectors


def proved(matrix: Tensor, guess: float) -> float:
    """A lower bound of the smallest eigenvalue of a symmetric matrix (N, N) in float64, as near to
    `guess` as can be proved; -inf where nothing near it can.

    If floating-point Cholesky of S = A - s I runs to its end, the factor R has R^T R = S + E with
    ||E|| <= g / (1 - g) tr S, g = (N + 1) u / (1 - (N + 1) u), for sums in any order (Higham 2002,
    thm. 10.3 and the proof of 10.7; Rump 2006), so that no eigenvalue of A is below s - ||E||, and
    the rounding of the diagonal of S besides.
    """
    unit, n = torch.finfo(torch.float64).eps / 2, len(matrix)
    gamma = (n + 2) * unit / (1 - (n + 2) * unit)
    diagonal = matrix.diagonal()
    size = max(float(diagonal.abs().max()), abs(guess), 1e-300)
    step = 1e-9 * size
    for _ in range(TRIES):
        shift = guess - step
        moved = matrix.clone()
        moved.diagonal().sub_(shift)
        trace = float(moved.diagonal().abs().sum())
        if math.isfinite(trace) and int(torch.linalg.cholesky_ex(moved)[1]) == 0:
            rounding = 2 * unit * (size + abs(shift))
            return shift - 1.01 * (gamma / (1 - gamma) * trace + rounding)
        step *= 20
    return -math.inf


def dual_value(kappa: Tensor, least: float) -> float:
    """A lower bound of y^T A y over y_0 = 1, |y_i| <= 1, where no eigenvalue of A + diag(kappa) is
    below `least`; kappa (N,), of any sign: y^T A y >= sum_i (least - kappa_i) y_i^2, where y_0^2 is
    1 and every other square at worst 0 or 1. Less the rounding of that sum.
    """
    room = least - kappa
    rounding = 2 * len(kappa) * torch.finfo(kappa.dtype).eps * room.abs().sum()
    return float(room[0] + room[1:].clamp_max(0).sum() - rounding)
