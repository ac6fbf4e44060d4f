"""CLEVER (Weng et al. 2018): an estimate of the radius from sampled slopes. Not a certificate: the
true radius may be smaller, and an attack may succeed within it.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.core.norms import Norm
from torchproof.verify.inputs import rows_of
from torchproof.verify.lipschitz.margin import dual

SHAPES = (1.0, 5.0, 30.0)  # of the distribution, at which the fit starts
ROWS = 4096  # points asked at once


def clever(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    within: float,
    batches: int = 50,
    samples: int = 128,
    seed: int = 0,
    ids: Tensor | None = None,
) -> Tensor:
    """(B,) estimates of the distance to another class, input units, at most `within`; 0 where the
    class is not y.

    The largest dual norms of the slope of z_y - z_t in `batches` sets of `samples` points of the
    ball of radius `within` follow a reverse Weibull distribution, whose end, fitted, estimates the
    Lipschitz constant there (alg. 1 and 2). Points depend on the seed and on the examples' ids
    ((B,), their places by default) alone. The paper takes 500 sets of 1024 points. Deviation: no
    pixel box.
    """
    found = []
    for row in range(len(x)):
        name = torch.tensor([row]) if ids is None else ids[row : row + 1]
        key = keys.mix(
            seed, name.to(x.device), "clever", torch.arange(batches * samples).to(x.device)
        )
        found.append(_one(model, x[row : row + 1], y[row : row + 1], norm, within, key, batches))
    return torch.stack(found)


def _one(
    model: nn.Module, x: Tensor, y: Tensor, norm: Norm, within: float, key: Tensor, batches: int
) -> Tensor:
    with torch.no_grad():
        logits = model(x)
        rows = rows_of(y, logits.shape[1]).to(logits.dtype)[0]
        gaps = rows @ logits[0]
        radius = x.new_full((len(key),), within)
        points = x + norm.sample(key, radius, x.expand(len(key), *x.shape[1:]))
    lengths = torch.cat([_slopes(model, part, rows, norm) for part in torch.split(points, ROWS)])
    maxima = lengths.view(batches, -1, len(rows)).amax(1).double().cpu().numpy()
    ends = torch.tensor([end_of(maxima[:, t]) for t in range(len(rows))]).to(gaps)
    ratio = torch.where(ends > 0, gaps / ends, torch.full_like(gaps, torch.inf))
    return torch.where((gaps > 0).all(), ratio.amin().clamp_max(within), gaps.new_zeros(()))


def _slopes(model: nn.Module, points: Tensor, rows: Tensor, norm: Norm) -> Tensor:
    """(N, T) dual norms of the slopes of the margins at points (N, ...)."""
    with torch.enable_grad():
        at = points.detach().requires_grad_()
        margins = model(at) @ rows.T
        slopes = [
            torch.autograd.grad(margins[:, t].sum(), at, retain_graph=t + 1 < len(rows))[0]
            for t in range(len(rows))
        ]
    return torch.stack([dual(norm).length(slope) for slope in slopes], 1)


def end_of(maxima: NDArray[np.float64]) -> float:
    """The right end of a reverse Weibull distribution, fitted by maximum likelihood to (N,) values;
    the largest of them where they hardly differ or no fit is better.
    """
    from scipy.stats import weibull_max  # takes as long to load as half of torch

    top, spread = float(maxima.max()), float(maxima.std())
    if spread <= 1e-6 * abs(top):
        return top
    scaled = (maxima - top) / spread
    best, end = np.inf, 0.0
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # starts from which the search goes astray are dropped
        for shape in SHAPES:
            found = weibull_max.fit(scaled, shape, loc=0.1, scale=1.0)
            likelihood = float(weibull_max.nnlf(found, scaled))
            if np.isfinite(likelihood) and likelihood < best and found[1] >= 0:
                best, end = likelihood, float(found[1])
    return top + spread * end
