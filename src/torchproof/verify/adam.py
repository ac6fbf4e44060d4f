"""One step of Adam (Kingma and Ba 2015) uphill, for searches whose rows come and go."""

from __future__ import annotations

from torch import Tensor

BETAS = (0.9, 0.999)


def uphill(
    value: Tensor, slant: Tensor, moments: tuple[Tensor, Tensor], step: int,
    rate: float | Tensor, betas: tuple[float, float] = BETAS,
) -> Tensor:  # fmt: skip
    """The value after step 1, 2, ...; writes over the moments, which begin at 0."""
    first, second = moments
    first.lerp_(slant, 1 - betas[0])
    second.lerp_(slant.square(), 1 - betas[1])
    spread = (second / (1 - betas[1] ** step)).sqrt_().add_(1e-8)
    moved: Tensor = value + rate / (1 - betas[0] ** step) * first / spread
    return moved
