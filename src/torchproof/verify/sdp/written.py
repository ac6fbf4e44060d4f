"""One problem written out in full, for solvers, and the bound that multipliers prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torchproof.verify.sdp.eigenvalue import dual_value, proved
from torchproof.verify.sdp.lifted import Lifted
from torchproof.verify.sdp.products import Factors


@dataclass(frozen=True)
class Product:
    """<left_k, y> <right_k, y> >= 0 on the network, or = 0, for each row k; (m, n) each."""

    left: np.ndarray
    right: np.ndarray
    zero: bool = False

    def coefficients(self) -> np.ndarray:
        """(m, n * n) entries of the symmetric matrices of the products."""
        outer = self.left[:, :, None] * self.right[:, None, :]
        both: np.ndarray = (outer + outer.transpose(0, 2, 1)) / 2
        return both.reshape(len(both), -1)


@dataclass(frozen=True)
class Written:
    """Linear forms of y = (t, w), (M, n) a row for each ReLU, of the entries of y that there are;
    inputs: how many of these are the input's; settled: (M,).
    """

    t: np.ndarray
    on: np.ndarray
    off: np.ndarray
    low: np.ndarray
    high: np.ndarray
    before: np.ndarray
    after: np.ndarray
    margin: np.ndarray
    inputs: int
    settled: np.ndarray

    @classmethod
    def of(cls, lifted: Lifted) -> Written:
        """Of a single problem."""
        kept = lifted.mask[0]
        unit = torch.eye(len(kept), dtype=lifted.rows.dtype, device=kept.device)[kept]
        many = lifted.take(torch.zeros(len(unit), dtype=torch.long, device=kept.device))
        forms = many.forms(unit)
        factors = Factors.of(many, forms)
        t, on, off, low, high, before, after, margin = (
            part.T.cpu().numpy() if part.dim() > 1 else part.cpu().numpy()
            for part in (forms.t, factors.on, factors.off, factors.low, factors.high,
                         forms.before, forms.after, forms.margin)
        )  # fmt: skip
        inputs = int(kept[1 : 1 + lifted.box.lower.shape[1]].sum())
        settled = ~lifted.open[0].cpu().numpy()
        return cls(t, on, off, low, high, before, after, margin, inputs, settled)

    def __len__(self) -> int:
        return len(self.t)

    @property
    def objective(self) -> np.ndarray:
        """(n, n): y^T objective y is t * margin."""
        outer = np.outer(self.t, self.margin)
        both: np.ndarray = (outer + outer.T) / 2
        return both

    def with_one(self, factors: np.ndarray) -> Product:
        """t * factor >= 0."""
        return Product(np.broadcast_to(self.t, factors.shape), factors)

    def bound(
        self, products: Sequence[Product], multipliers: Sequence[np.ndarray], kappa: np.ndarray
    ) -> float:
        """What multipliers (m,) of the products, and kappa (n,) of y_i^2 <= 1, prove of the margin,
        whoever found them: signs are mended, and the smallest eigenvalue of the matrix is proved.
        """
        matrix = self.objective
        for product, given in zip(products, multipliers, strict=True):
            allowed = given if product.zero else np.maximum(given, 0.0)
            part = (product.left * allowed[:, None]).T @ product.right
            matrix = matrix - (part + part.T) / 2
        whole = torch.from_numpy(matrix + np.diag(kappa))
        if not bool(whole.isfinite().all()):
            return -np.inf
        least = proved(whole, float(torch.linalg.eigvalsh(whole)[0]))
        return dual_value(torch.from_numpy(kappa), least)
