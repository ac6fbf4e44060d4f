"""GradAlign (Andriushchenko and Flammarion 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.starts import Uniform
from torchproof.attack.untouched import forked, untouched
from torchproof.core import keys
from torchproof.core.asides import heard
from torchproof.core.errors import InputError
from torchproof.core.sites import Input
from torchproof.core.threats import AnyThreat
from torchproof.train.factor import check_factor
from torchproof.train.method import Batch, Method, answers, cross_entropy

_WATCHED = 32  # rows whose cosine is noted: all of them would cost as much as the FGSM step


@dataclass(frozen=True)
class GradAlign(Method):
    """A term for sums: lam (1 - cos(g(x), g(x + noise))), g the gradient of CE in the image, noise
    uniform in the ball (Andriushchenko and Flammarion 2020, eq. 4).

    Sum(FGSMAT(), GradAlign()) is the paper's method. As in the authors' code g(x) is a constant,
    and a row one of whose gradients is 0 has no part in it. lam: 0.2 for 8/255 (2 for 16/255). The
    figure `gradient_cosine` is the mean cosine of the first rows of each batch, in eval mode.
    Deviations: x + noise stays in the range of images; the two passes see the same dropout and
    leave batch-norm statistics alone; rows without part count in the mean over the batch. Raises
    InputError for lam < 0 and for threats to anything but images.
    """

    threat: AnyThreat
    lam: float = 0.2

    regulariser: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_factor("lam", self.lam, "0.2 suits eps = 8/255")
        if type(self.threat.site) is not Input:
            given = f"GradAlign with a threat to {type(self.threat.site).__name__}"
            raise InputError(given, "a threat to images", "pass parse('linf:8/255'), for example")

    @property
    def passes(self) -> int:
        return 2

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        key = keys.mix(batch.seed, batch.ids, "GradAlign").to(batch.x.device)
        near = (batch.x + Uniform()(self.threat.set(model, batch.x), key)).to(batch.x.dtype)
        ready = replace(batch, drawn={**batch.drawn, "near": near})
        part = ready.split(_WATCHED)[0] if batch.pairs is None else ready
        with untouched(model, keys.seed_of(batch.seed, "GradAlign"), batch.x.device):
            cosine, known = _cosine(model, part, graph=False)
        count, n = int(known.sum()), len(part.x)
        spent = (batch.spent[0] + 2 * n, batch.spent[1] + 2 * n)
        ready = replace(ready, spent=spent)
        return ready.with_note(gradient_cosine=cosine[known].sum() / count) if count else ready

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        with _buffers_aside(model):
            cosine, known = _cosine(model, batch, graph=True)
        return torch.where(known, self.lam * (1 - cosine), 0.0)


def _cosine(model: nn.Module, batch: Batch, graph: bool) -> tuple[Tensor, Tensor]:
    """(B,) cosines of the two gradients, and for which rows there is one."""
    here = _gradient(model, batch, batch.x, graph=False)
    there = _gradient(model, batch, batch.drawn["near"], graph)
    sizes = [g.detach().abs().amax(1, keepdim=True) for g in (here, there)]
    known = ((sizes[0] > 0) & (sizes[1] > 0))[:, 0]
    # scaled first: squares of small gradients underflow; a constant in the rows left out
    one, other = (
        torch.where(known[:, None], g, 1.0) / torch.where(known[:, None], size, 1.0)
        for g, size in zip((here, there), sizes, strict=True)
    )
    return F.cosine_similarity(one, other, dim=1), known


def _gradient(model: nn.Module, batch: Batch, x: Tensor, graph: bool) -> Tensor:
    """(B, D) gradients of the cross-entropy in x, with the same dropout whatever x is."""
    point = x.detach().requires_grad_()
    with forked(keys.seed_of(batch.seed, "GradAlign"), x.device), torch.enable_grad():
        loss = cross_entropy(answers(model, point), batch).sum()
        kept = graph or heard()  # what blocks told whoever listens is part of this graph
        return torch.autograd.grad(loss, point, create_graph=graph, retain_graph=kept)[0].flatten(1)


@contextmanager
def _buffers_aside(model: nn.Module) -> Iterator[None]:
    """Passes inside see and change copies of the buffers. The graph holds on to these: to write the
    old values back would make it invalid.
    """
    stores = [(m._buffers, name, b) for m in model.modules() for name, b in m._buffers.items()]
    try:
        for store, name, buffer in stores:
            store[name] = None if buffer is None else buffer.clone()
        yield
    finally:
        for store, name, buffer in stores:
            store[name] = buffer
