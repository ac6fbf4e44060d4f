"""One problem written out in full, for solvers, and the bound that multipliers prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torchproof.verify.programme.solve import Value
from torchproof.verify.sdp.doubts import Doubting, Doubts, Offs, Part, error
from torchproof.verify.sdp.eigenvalue import dual_value, proved
from torchproof.verify.sdp.lifted import Lifted
from torchproof.verify.sdp.products import Factors


@dataclass(frozen=True)
class Product:
    """<left_k, y> <right_k, y> >= 0 on the network, or = 0, for each row k; (m, n) each. off: how
    far either form may be from the network's own, (m,) each.
    """

    left: np.ndarray
    right: np.ndarray
    zero: bool = False
    off: tuple[np.ndarray | float, np.ndarray | float] = (0.0, 0.0)

    def part(self, multipliers: np.ndarray) -> Part:
        """As `doubts.error` takes it."""
        sizes = [np.abs(form).sum(1) for form in (self.left, self.right)]
        offs = [np.broadcast_to(off, sizes[0].shape) for off in self.off]
        return Part(multipliers, sizes[0], offs[0], sizes[1], offs[1])

    def coefficients(self) -> np.ndarray:
        """(m, n * n) entries of the symmetric matrices of the products."""
        outer = self.left[:, :, None] * self.right[:, None, :]
        both: np.ndarray = (outer + outer.transpose(0, 2, 1)) / 2
        return both.reshape(len(both), -1)


@dataclass(frozen=True)
class Written:
    """Linear forms of y = (t, w), (M, n) a row for each ReLU, of the entries of y that there are;
    inputs: how many of these are the input's; settled: (M,); offs: what they are off by.
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
    offs: Offs

    @classmethod
    def of(cls, lifted: Lifted, doubting: Doubting | None = None) -> Written:
        """Of a single problem; doubting: without it, forms are taken to be exact."""
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
        doubts = doubting(lifted) if doubting else Doubts.none(len(on))
        forms_of = {"on": on, "off": off, "low": low, "high": high}
        sizes = {name: np.abs(form).sum(1) for name, form in forms_of.items()}
        offs = Offs.of(lifted, doubts, sizes)
        return cls(t, on, off, low, high, before, after, margin, inputs, settled, offs)

    def __len__(self) -> int:
        return len(self.t)

    @property
    def objective(self) -> np.ndarray:
        """(n, n): y^T objective y is t * margin."""
        outer = np.outer(self.t, self.margin)
        both: np.ndarray = (outer + outer.T) / 2
        return both

    def with_one(self, factors: np.ndarray, off: np.ndarray | float = 0.0) -> Product:
        """t * factor >= 0."""
        return Product(np.broadcast_to(self.t, factors.shape), factors, off=(0.0, off))

    def bound(
        self, products: Sequence[Product], multipliers: Sequence[np.ndarray], kappa: np.ndarray
    ) -> Value:
        """What multipliers (m,) of the products, and kappa (n,) of y_i^2 <= 1, prove of the margin,
        whoever found them: signs are mended, and the smallest eigenvalue of the matrix is proved.
        """
        matrix, parts = self.objective, []
        for product, given in zip(products, multipliers, strict=True):
            allowed = given if product.zero else np.maximum(given, 0.0)
            parts.append(product.part(allowed))
            part = (product.left * allowed[:, None]).T @ product.right
            matrix = matrix - (part + part.T) / 2
        whole = torch.from_numpy(matrix + np.diag(kappa))
        if not bool(whole.isfinite().all()):
            return Value(-np.inf, 0.0)
        least = proved(whole, float(torch.linalg.eigvalsh(whole)[0]))
        margin = Product(self.t[None], self.margin[None], off=(0.0, self.offs.doubts.margin))
        off = error(parts, margin.part(np.ones(1)), kappa, self.offs.doubts.times)
        return Value(dual_value(torch.from_numpy(kappa), least), off)
