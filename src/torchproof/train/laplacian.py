"""The Laplacian regulariser: labels should vary alike on the similarity graphs of all layers
(Lassance, Gripon and Ortega 2018, "Laplacian Networks", arXiv 1805.10133).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, ModelError
from torchproof.train.method import Batch, Method


@dataclass(frozen=True)
class LaplacianSmoothness(Method):
    """A term for sums: gamma^power times the mean over neighbouring layers of |s' - s|, s = tr(Y^T
    L^power Y) the smoothness of the labels Y (one-hot) on a layer's graph: Sum(Standard(),
    LaplacianSmoothness()).

    L = D - W is the Laplacian of the cosine similarities W of the batch's examples; layers are the
    answers of all nn.ReLU modules, in the order in which they run. A batch is never split, and each
    process of several looks at its own share of it. Raises InputError for numbers that cannot be
    meant; ModelError in the first step where fewer than two ReLU modules answer.
    """

    gamma: float = 0.01
    power: int = 2

    regulariser: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole = isinstance(self.power, int) and not isinstance(self.power, bool)
        if not (0 <= self.gamma < math.inf and whole and self.power >= 1):
            given = f"gamma = {self.gamma!r}, power = {self.power!r}"
            expected = "a number >= 0 and a whole number >= 1"
            raise InputError(given, expected, "0.01 and 2 are the authors'")

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        # rows are looked at together: marked as if each were mixed with itself
        return replace(batch, pairs=torch.arange(len(batch.x), device=batch.x.device))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        with _heard(model) as answers:
            model(batch.x)
        if len(answers) < 2:
            given = f"a network of which {len(answers)} nn.ReLU modules answer"
            raise ModelError(given, "at least two", "train it by other terms")
        s = [smoothness(h, batch.y, self.power) for h in answers]
        steps = torch.stack([(b - a).abs() for a, b in itertools.pairwise(s)])
        return (self.gamma**self.power * steps.mean()).expand(len(batch.x))


def smoothness(h: Tensor, y: Tensor, power: int = 2) -> Tensor:
    """tr(Y^T L^power Y) of answers h (B, ...) and labels y (B,). For power 1 it is the sum of the
    similarities of all ordered pairs of different labels.
    """
    with torch.autocast(h.device.type, enabled=False):
        flat = h.flatten(1)
        unit = F.normalize(flat.to(torch.promote_types(flat.dtype, torch.float32)), dim=1)
        similar = unit @ unit.T
        laplacian = similar.sum(1).diag() - similar
        labels = F.one_hot(y).to(laplacian)
        raised: Tensor = torch.linalg.matrix_power(laplacian, power)
        return (labels * (raised @ labels)).sum()


@contextmanager
def _heard(model: nn.Module) -> Iterator[list[Tensor]]:
    """What ReLU modules answer while the block runs, before anything changes it in place."""
    answers: list[Tensor] = []

    def after(module: nn.Module, args: object, out: Tensor) -> Tensor:
        answers.append(out)
        return out.clone()

    hooks = [m.register_forward_hook(after) for m in model.modules() if isinstance(m, nn.ReLU)]
    try:
        yield answers
    finally:
        for hook in hooks:
            hook.remove()
