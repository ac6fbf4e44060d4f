"""The gradients of mini-batches, minus their mean: what stochastic gradient descent adds to the
gradient (Simsekli et al. 2019, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.checks import check, check_logits, check_weights
from torchproof.core.errors import InputError, ModelError, unknown

BATCHES = 50  # fewer say nothing about a coordinate
MOST = 50_000_000  # numbers held at once; those who read them hold a few copies

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, K) and labels (B,) to the mean loss of the batch."""


def linear_hinge(logits: Tensor, y: Tensor) -> Tensor:
    """The mean over images and classes of max(0, 1 - b_k o_k), b_k = 1 for the label, else -1."""
    sides = 2 * F.one_hot(y, logits.shape[1]).to(logits) - 1
    return (1 - sides * logits).clamp_min(0).mean()


LOSSES: dict[str, Loss] = {"nll": F.cross_entropy, "hinge": linear_hinge}


@dataclass(frozen=True, eq=False)
class GradientNoise:
    """values (P, M), float32: row p is the gradient of batch p minus the mean of all P, parameter
    after parameter; names and sizes: of these parameters, the sizes adding up to M.
    """

    values: Tensor
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    batch_size: int

    def layer(self, name: str) -> Tensor:
        """(P, m) of one parameter."""
        if name not in self.names:
            raise unknown("parameter", name, self.names)
        number = self.names.index(name)
        start = sum(self.sizes[:number])
        return self.values[:, start : start + self.sizes[number]]


def gradient_noise(
    model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 100, *, loss: str | Loss = "nll",
    mode: Literal["eval", "train"] = "eval", limit: int | None = None, seed: int | None = 0,
) -> GradientNoise:  # fmt: skip
    """One pass over the images x (N, C, H, W) in [0, 1], y (N,), in batches of `batch_size`, which
    should be that of training; images that do not fill a batch are left out.

    loss: nll (cross-entropy), hinge (linear), or a function. mode: `train` lets batch
    normalisation and dropout act. limit: of a parameter with more entries, so many consecutive
    ones are kept; None: all, or as many as keep the numbers within MOST. seed: of the order in
    which images are put into batches (the published code keeps theirs: None). Tied weights count
    once, and a parameter that the answer does not depend on has zeros. Weights, buffers, modes and
    generators are left as they are.

    Raises InputError: less than 50 batches, saying how many images are needed; a loss that is not
    one finite number. ModelError: no parameters, or an answer that has no gradient in them.
    """
    check(x, y)
    check_weights(model)
    if isinstance(loss, str) and loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    measure = LOSSES[loss] if isinstance(loss, str) else loss
    named = [(n, p) for n, p in model.named_parameters() if p.is_floating_point() and p.numel()]
    if not named:
        raise ModelError("a model without parameters", "weights to take gradients in", "train one")
    batches = _batches(x, y, batch_size, seed)
    limit = _fitting([p.numel() for _, p in named], len(batches)) if limit is None else limit
    sizes = [min(p.numel(), max(limit, 1)) for _, p in named]
    values = torch.empty(len(batches), sum(sizes), device=named[0][1].device)
    with untouched(model, keys.seed_of(0 if seed is None else seed, "gradient noise"), x.device):
        model.train(mode == "train")
        with _differentiable([p for _, p in named]):
            for row, rows in zip(values, batches, strict=True):
                _gradient(model, x[rows], y[rows], measure, [p for _, p in named], sizes, row)
    for block in torch.split(
        values, 65536, dim=1
    ):  # the mean in float64, a constant minus which is 0
        block.sub_(block.double().mean(0).float())
    return GradientNoise(values, tuple(n for n, _ in named), tuple(sizes), batch_size)


def _batches(x: Tensor, y: Tensor, batch_size: int, seed: int | None) -> list[Tensor]:
    if batch_size < 1 or len(x) // batch_size < BATCHES:
        given = f"{len(x)} images in batches of {batch_size}"
        expected = f"at least {BATCHES} batches, {BATCHES * max(batch_size, 1)} images"
        raise InputError(given, expected, "give more images, or smaller batches")
    order = torch.arange(len(x))
    if seed is not None:
        order = keys.permutation(len(x), seed, "batches of gradient noise")
    whole = len(x) // batch_size * batch_size
    return list(torch.split(order[:whole].to(y.device), batch_size))


def _fitting(entries: list[int], batches: int) -> int:
    """The largest limit, halving from all, with which the numbers are not above MOST."""
    limit = max(entries)
    while limit > 1 and batches * sum(min(n, limit) for n in entries) > MOST:
        limit //= 2
    return limit


def _gradient(
    model: nn.Module, x: Tensor, y: Tensor, measure: Loss, parameters: list[nn.Parameter],
    sizes: list[int], row: Tensor,
) -> None:  # fmt: skip
    """Writes the gradient of one batch into `row`."""
    logits = model(x)
    check_logits(logits, len(x))
    value = measure(logits.to(torch.promote_types(logits.dtype, torch.float32)), y)
    if value.ndim or not bool(value.isfinite()):
        given = f"a loss of shape {tuple(value.shape)}, {value.detach().flatten()[:1].tolist()}"
        raise InputError(given, "the mean loss of a batch, finite", "return loss.mean()")
    if not value.requires_grad:
        remedy = "use the network itself, not an exported or detached copy"
        raise ModelError("an answer without gradient", "one that the weights can change", remedy)
    found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    start = 0
    for gradient, size in zip(found, sizes, strict=True):
        flat = gradient.reshape(-1)
        first = (len(flat) - size) // 2  # the middle, which is no border of an image
        row[start : start + size] = flat[first : first + size]
        start += size
    if not bool(row.isfinite().all()):
        raise ModelError("gradients with NaN or infinity", "finite ones", "try float32")


@contextmanager
def _differentiable(parameters: list[nn.Parameter]) -> Iterator[None]:
    flags = [p.requires_grad for p in parameters]
    try:
        for p in parameters:
            p.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for p, flag in zip(parameters, flags, strict=True):
            p.requires_grad_(flag)
