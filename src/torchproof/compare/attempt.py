"""One library's run: the model and all random states as they were afterwards, failures told."""

from __future__ import annotations

import io
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.attack.untouched import untouched
from torchproof.compare.library import Library, Offer, Plan
from torchproof.compare.watched import Watched
from torchproof.core import keys
from torchproof.core.sites import Model


@dataclass(frozen=True)
class Attempt:
    """points (N, C, H, W): what was returned; asked, furthest, best (N,), forward, backward: as
    `Watched` counted them; seconds: of the attack alone.
    """

    points: Tensor
    asked: Tensor
    furthest: Tensor
    best: Tensor
    forward: int
    backward: int
    seconds: float


def attempt(
    library: Library, offer: Offer, plan: Plan, model: Model, x: Tensor, y: Tensor
) -> Attempt:
    """Runs one attack on x, y, batch by batch; raises whatever the library raises."""
    watched = Watched(_module(model), plan.threat, x, y)
    with _left_alone(model, plan):
        watched.eval()  # the model's own modes are put back afterwards
        rows = torch.arange(len(x), device=x.device)
        size = len(x) if library.whole else plan.batch
        began, points = perf_counter(), []
        for batch in torch.split(rows, size):
            watched.attend(batch)
            # clones, because some libraries mark what they are given
            found = library.call(plan, offer, watched, x[batch].clone(), y[batch].clone())
            points.append(found.detach().to(x))
        seconds = perf_counter() - began - watched.bookkeeping
    whole = torch.cat(points)
    if whole.shape != x.shape:
        raise ValueError(f"images of shape {tuple(whole.shape)} were returned")
    counts = (watched.forward_samples, watched.backward_samples)
    return Attempt(whole, watched.asked, watched.furthest, watched.best, *counts, seconds)


def _module(model: Model) -> nn.Module:
    """The model as the module that other libraries ask for."""
    return model if isinstance(model, nn.Module) else _Function(model)


class _Function(nn.Module):
    """A plain function as a module."""

    def __init__(self, function: Model) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.function(x)
        return out


@contextmanager
def _left_alone(model: Model, plan: Plan) -> Iterator[None]:
    """Eval mode and seeded random states inside (torch, numpy, Python); modes, buffers, gradients
    and all random states as before afterwards. What the libraries print and warn of stays inside.
    """
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    kept = [(p, p.grad, p.requires_grad) for p in parameters]
    seed = keys.seed_of(plan.seed, plan.attack)
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        for p, _, _ in kept:
            p.grad = None  # some libraries add to it
        np.random.seed(seed % 2**32)
        random.seed(seed)
        with (
            untouched(model, seed, plan.device),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(plan.device.type, enabled=False),
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for p, grad, required in kept:
            p.grad = grad
            p.requires_grad_(required)
