"""ME-Net: masks and estimates against a naive singular value decomposition, and the row."""

from __future__ import annotations

import numpy as np
import torch

from torchproof.adaptive.zoo.me_net import MatrixEstimation


def test_the_estimate_drops_small_singular_values() -> None:
    w = torch.rand(3, 2, 8, 6, generator=torch.Generator().manual_seed(0))
    found = MatrixEstimation(cut=0.3).estimate(w)
    for n in range(3):
        for c in range(2):
            u, s, v = np.linalg.svd(w[n, c].numpy().astype(np.float64), full_matrices=False)
            s = np.where(s >= 0.3 * s[0], s, 0)
            expected = np.clip(u @ np.diag(s) @ v, 0, 1)
            np.testing.assert_allclose(found[n, c].numpy(), expected, atol=1e-4)


def test_a_share_of_the_pixels_is_kept_and_enlarged() -> None:
    x = torch.full((200, 1, 20, 20), 0.25)
    seen: list[torch.Tensor] = []

    class Watching(MatrixEstimation):
        def estimate(self, w: torch.Tensor) -> torch.Tensor:
            seen.append(w)
            return super().estimate(w)

    torch.manual_seed(0)
    Watching(kept=(0.4, 0.6))(x)
    share = (seen[0] != 0).float().mean((1, 2, 3))
    assert 0.3 < float(share.min()) < 0.45 < 0.55 < float(share.max()) < 0.7
    scale = 0.25 / seen[0].amax((1, 2, 3))  # the p that was drawn
    assert float((share - scale).abs().max()) < 0.1
    assert float(scale.min()) >= 0.4 and float(scale.max()) <= 0.6


def test_nothing_is_lost_where_all_is_kept() -> None:
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = MatrixEstimation(kept=(1.0, 1.0), cut=0.0)(x)
    torch.testing.assert_close(found, x, atol=1e-4, rtol=0)
    live = x.clone().requires_grad_()
    assert not MatrixEstimation()(live).requires_grad
