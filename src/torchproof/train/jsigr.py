"""Jacobian norm and selective input-gradient regularisation (Liu et al. 2024), reconstructed: the
authors published no training code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home, precision
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.train.factor import check_factor
from torchproof.train.method import Batch, Method, answers
from torchproof.train.rows import Rows
from torchproof.train.saliency import saliency


@dataclass(frozen=True)
class JSIGR(Method):
    """J-SIGR: jacobian / 2 |dz/dx|_F^2 + selective sum_{d not salient} (dz_y/dx_d)^2, terms to be
    added to a loss: Sum(AT(), JSIGR(jacobian=0.1)).

    Reconstructed from the abstract of Liu et al. 2024 and its sources. z are logits; the norm is
    estimated from `projections` random directions (Hoffman et al. 2019, eq. 8), 0 for all K of
    them. A pixel is salient where blurring it moves the probabilities by at least `threshold` of
    the largest move (`saliency`, with `stride` and `blur`); maps are made for each batch, which
    costs (H / stride)(W / stride) passes, or before every `renew`-th epoch for all training images,
    which fits no augmentation that moves pixels. Best with smooth activations: the second
    derivatives of ReLU networks vanish. Raises InputError for settings that cannot be meant, and
    where training starts, for `renew` with an augmentation.
    """

    jacobian: float = 0.1
    selective: float = 0.1
    projections: int = 1
    threshold: float = 0.2
    stride: int = 4
    blur: int = 5
    renew: int = 0
    maps: Tensor | None = field(default=None, init=False, repr=False, compare=False)
    age: int = field(default=0, init=False, repr=False, compare=False)

    memory: ClassVar[tuple[str, ...]] = ("maps", "age")
    regulariser: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("jacobian", "selective"):
            check_factor(name, getattr(self, name), "0.1 is usual, for both")
        if self.jacobian == self.selective == 0:
            given = "jacobian = selective = 0"
            raise InputError(given, "not both 0", "write JSIGR(jacobian=0.1)")
        least = {"projections": 0, "stride": 1, "renew": 0, "blur": 1}
        counts = {k: getattr(self, k) for k in least}
        counted = all(type(n) is int and n >= least[k] for k, n in counts.items())
        if not counted or self.blur % 2 == 0 or not 0 <= self.threshold <= 1:
            raise InputError(
                f"projections = {self.projections}, stride = {self.stride}, blur = {self.blur}, "
                f"renew = {self.renew}, threshold = {self.threshold}",
                "counts, an odd blur, and a threshold in [0, 1]",
                "leave them at their defaults: 1, 4, 5, 0 and 0.2",
            )

    def accept(self, augmented: bool) -> None:
        """Raises InputError for augmented images whose maps would be those of other pixels."""
        if augmented and self.selective and self.renew:
            raise InputError(
                f"JSIGR(renew={self.renew}) with an augmentation",
                "images as they stand in the data: maps kept over epochs are of their pixels",
                "write renew=0, which makes maps for each batch, or leave the augmentation out",
            )

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        if self.selective == 0 or self.renew == 0:
            return
        age = 0 if progress == 0 else self.age  # 0: a new run, perhaps of a method used before
        if age % self.renew == 0:
            maps = torch.zeros(len(data.x), *data.x.shape[2:], dtype=torch.bool)
            for rows in torch.split(torch.arange(len(data)), 256):
                part = data.part(rows)
                x, _ = part.tensors(home(model), precision(model))
                maps[part.index] = self._salient(model, x).cpu()
            object.__setattr__(self, "maps", maps)
        object.__setattr__(self, "age", age + 1)

    def _salient(self, model: nn.Module, x: Tensor) -> Tensor:
        """(B, H, W) bool."""
        return saliency(model, x, self.stride, self.blur) >= self.threshold

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        if self.selective == 0:
            return batch
        if self.maps is not None:
            salient, asked = self.maps[batch.ids].to(batch.x.device), 0
        else:
            salient = self._salient(model, batch.x)
            height, width = batch.x.shape[2:]
            cells = -(-height // self.stride) * -(-width // self.stride)
            asked = len(batch.x) * (cells + 1)
        spent = (batch.spent[0] + asked, batch.spent[1])
        ready = replace(batch, drawn={**batch.drawn, "salient": salient}, spent=spent)
        return ready.with_note(salient_share=salient.flatten(1).float().mean(1))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        with torch.enable_grad():
            x = batch.x.detach().requires_grad_()
            z = answers(model, x)
            total = z.new_zeros(len(x))
            if self.jacobian:
                total = total + self.jacobian / 2 * self._norm(z, x, batch)
            if self.selective:
                own = z.gather(1, batch.y[:, None]).sum()
                slope = _gradient(own, x).square().sum(1)
                total = total + self.selective * (slope * ~batch.drawn["salient"]).sum((1, 2))
        return total

    def _norm(self, z: Tensor, x: Tensor, batch: Batch) -> Tensor:
        """(B,) squared Frobenius norms of dz/dx, or their unbiased estimates."""
        classes = z.shape[1]
        if self.projections == 0:
            return sum(
                (_gradient(z[:, k].sum(), x).square().flatten(1).sum(1) for k in range(classes)),
                start=z.new_zeros(len(x)),
            )
        total, key = z.new_zeros(len(x)), keys.mix(batch.seed, batch.ids, "projections")
        for number in range(self.projections):
            # keyed by the batch, so that every reading of a batch draws the same
            v = keys.normal(key, number, (classes,), dtype=torch.float64).to(z)
            v = v / v.norm(dim=1, keepdim=True)
            total = total + _gradient((v * z).sum(), x).square().flatten(1).sum(1)
        return total * classes / self.projections


def _gradient(value: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(value, x, create_graph=True)[0]
