"""CIFS: channels weighed by what they matter for the likeliest classes (Yan, Zhang, Niu, Feng, Tan
and Sugiyama 2021, arXiv 2102.05311).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.asides import labels_of, tell
from torchproof.core.errors import InputError, unknown

MASK_GRADIENTS = ("detached", "full", "smooth")

_asked: ContextVar[str | None] = ContextVar("mask gradient", default=None)


@contextmanager
def mask_gradient(kind: str) -> Iterator[None]:
    """Inside, every CIFS block gives the named gradient, whatever it was built with: an adaptive
    attack on a trained network. Answers stay what they are, bit for bit.

    detached: none through the mask; full: the exact one, that of a fixed choice of classes; smooth:
    as full, and the choice itself counts as softmax(r / T), straight through (BPDA, Athalye et al.
    2018). Raises UnknownName.
    """
    if kind not in MASK_GRADIENTS:
        raise unknown("mask gradient", kind, MASK_GRADIENTS)
    token = _asked.set(kind)
    try:
        yield
    finally:
        _asked.reset(token)


class LinearProbe(nn.Module):
    """r = W p + b of the mean p of each map; the relevance of the classes a, b is W_a + W_b."""

    def __init__(self, channels: int, classes: int, hidden: int, beta: float) -> None:
        super().__init__()
        self.out = nn.Linear(channels, classes)

    def forward(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.out(pooled)
        return logits

    def relevance(self, pooled: Tensor, chosen: Tensor) -> Tensor:
        """(B, C): the gradient of sum_k chosen_k r_k, chosen (B, K), in pooled (B, C)."""
        return chosen @ self.out.weight


class MLPProbe(nn.Module):
    """r = W2 softplus(W1 p + b1) + b2 of the mean p of each map, softplus(u) = log(1 + e^(beta u))
    / beta.
    """

    def __init__(self, channels: int, classes: int, hidden: int, beta: float) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(channels, hidden), nn.Linear(hidden, classes)
        self.beta = beta

    def forward(self, pooled: Tensor) -> Tensor:
        # linear only where its slope is 1 to the last bit of float64
        logits: Tensor = self.out(F.softplus(self.inner(pooled), self.beta, threshold=40.0))
        return logits

    def relevance(self, pooled: Tensor, chosen: Tensor) -> Tensor:
        """(B, C), as in `LinearProbe`: W1^T [sigmoid(beta u) * (W2_a + W2_b)], u = W1 p + b1."""
        slope = torch.sigmoid(self.beta * self.inner(pooled))
        weighed: Tensor = (slope * (chosen @ self.out.weight)) @ self.inner.weight
        return weighed


PROBES: dict[str, Callable[[int, int, int, float], nn.Module]] = {
    "linear": LinearProbe,
    "mlp": MLPProbe,
}

IMGFS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda g: g.softmax(1),
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "ones": torch.ones_like,
}
"""Importance-mask generating functions, relevance (B, C) to masks >= 0. ones: no mask at all, which
leaves the probe alone, the control.
"""


class CIFS(nn.Module):
    """Maps z (B, C, H, W) to m * z, the mask m (B, C) made of the relevance of channels to two
    classes (Yan et al. 2021, section 4).

    A probe answers r (B, K) from the means of the maps and says so (`tell("probe", r)`), for a
    joint loss. Chosen are the `k` classes it ranks first; where the true labels may be seen
    (`core.asides.labels`), the label and the ranks 2 to k, in which it may occur again. The
    relevance g of a channel is the gradient of the chosen logits' sum in its map, summed over its
    pixels, in closed form, so that there is no autograd in `forward`; m = imgf(g).

    probe: linear or mlp (`hidden` units, softplus of sharpness `beta`); imgf: a name of IMGFS;
    rescale: makes the mean of each mask 1 (a softmax mask divides maps by about C); mask_grad: see
    `mask_gradient`, which overrides it; temperature: T there, of the logits. The mask carries no
    gradient into z in the authors' code, hence "detached"; the weights of the probe get one.

    Not the identity at the start: with the small first weights of a probe a softmax mask is close
    to 1 / C everywhere, and to 1 with `rescale`; imgf="ones" is the identity. Raises InputError,
    UnknownName.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        probe: str = "linear",
        hidden: int = 128,
        beta: float = 5.0,
        k: int = 2,
        imgf: str = "softmax",
        rescale: bool = False,
        mask_grad: str = "detached",
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        kinds = (("probe", probe, PROBES), ("imgf", imgf, IMGFS))
        for kind, name, known in (*kinds, ("mask gradient", mask_grad, MASK_GRADIENTS)):
            if name not in known:
                raise unknown(kind, name, known)
        if not 1 <= k <= classes or hidden < 1 or not beta > 0 or not temperature > 0:
            given = f"k = {k}, hidden = {hidden}, beta = {beta}, temperature = {temperature}"
            expected = f"1 <= k <= {classes}, the number of classes, and positive numbers"
            raise InputError(given, expected, "leave them at 2, 128, 5 and 1")
        self.k, self.imgf, self.rescale = k, imgf, rescale
        self.mask_grad, self.temperature = mask_grad, temperature
        self.probe = PROBES[probe](channels, classes, hidden, beta)

    def forward(self, z: Tensor) -> Tensor:
        pooled = z.mean((2, 3))
        r: Tensor = self.probe(pooled)
        tell("probe", r)
        m = self.mask(pooled, r, labels_of(z))
        return z * m.to(z.dtype)[:, :, None, None]

    def mask(self, pooled: Tensor, r: Tensor, y: Tensor | None = None) -> Tensor:
        """(B, C) >= 0 from means of maps (B, C), logits (B, K) and, where they are known, labels
        (B,).
        """
        kind = _asked.get() or self.mask_grad
        chosen = self._chosen(r.detach(), y)
        if kind == "detached":
            pooled = pooled.detach()
        elif kind == "smooth":
            soft = (self.k - (y is not None)) * (r / self.temperature).softmax(1)
            chosen = chosen + (soft - soft.detach())  # 0 but for its gradient
        m = IMGFS[self.imgf](self.probe.relevance(pooled, chosen))  # type: ignore[operator]
        return m / m.mean(1, keepdim=True) if self.rescale else m

    def _chosen(self, r: Tensor, y: Tensor | None) -> Tensor:
        """(B, K) how often each class is counted, k in all."""
        top = r.topk(self.k, dim=1).indices
        if y is not None:
            top = torch.cat([y.to(top)[:, None], top[:, 1:]], 1)
        return torch.zeros_like(r).scatter_add(1, top, torch.ones_like(top, dtype=r.dtype))

    def extra_repr(self) -> str:
        return f"k={self.k}, imgf={self.imgf}, rescale={self.rescale}, mask_grad={self.mask_grad}"
