"""Random concepts without images (Soni et al. 2020): noise in activation space, orthogonal to the
concept by Gram-Schmidt.

That random concepts come from Gram-Schmidt and need no further images is the paper's; what is made
orthogonal to what, and the length of the noise, are our reading. As the only negatives such noise
makes recall 1 and the false-positive rate 1: activations after a ReLU are never negative, noise is
far from all of them, and any image is then on the concept's side.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import InputError

RANK = 1e-10  # singular values below this share of the largest one are rounding


def span(a: Tensor) -> Tensor:
    """(D, r) an orthonormal basis, float64, of what activations a (N, D) span."""
    u, s, _ = torch.linalg.svd(a.double().T, full_matrices=False)
    basis: Tensor = u[:, s > RANK * s.max()]
    return basis


def residuals(a: Tensor, concept: Tensor) -> Tensor:
    """a (M, D) without its component in the span of the concept's activations (N, D), float64."""
    q, rows = span(concept), a.double()
    rows = rows - (rows @ q) @ q.T
    return rows - (rows @ q) @ q.T  # once more, for what rounding left


def random_concepts(concept: Tensor, n: int, seed: int = 0) -> Tensor:
    """(n, D) normal noise, orthogonal to the span of the concept's activations (N, D) and to each
    other, each as long as those are on average.

    Raises InputError where the space has not so many dimensions left.
    """
    width, r = concept.shape[1], span(concept).shape[1]
    if not 1 <= n <= width - r:
        given = f"{n} random concepts in {width} dimensions, of which the concept takes {r}"
        raise InputError(given, f"1 to {width - r}", "ask for fewer, or give fewer images")
    rows = torch.arange(n)
    noise = keys.normal(keys.mix(seed, "random concepts", rows), 0, (width,), dtype=torch.float64)
    free = residuals(noise, concept)
    q = torch.linalg.qr(free.T).Q.T  # Gram-Schmidt, row after row, up to signs
    q = q * torch.sign((q * free).sum(1, keepdim=True))
    lengths: Tensor = concept.double().norm(dim=1)
    made: Tensor = q * lengths.mean()
    return made
