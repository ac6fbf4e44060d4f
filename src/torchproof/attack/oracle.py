"""Oracles: what happens at this point? Functions of (cases, delta), without memory; wrappers have
the same one method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from torchproof.attack.cases import Cases, Point, undefined_in
from torchproof.core.errors import InputError, ModelError
from torchproof.core.grid import on_grid
from torchproof.core.objectives import Goal, Objective
from torchproof.core.sets import Ball
from torchproof.core.sites import Model, Site
from torchproof.core.values import Value, leaves, tree


class Oracle(Protocol):
    """Answers about P problems at once; `progress` (P,) in [0, 1] says how far each search is."""

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point: ...


@dataclass(frozen=True)
class Plain:
    """Asks the model once: one forward, and one backward when the gradient is wanted.

    Losses are computed in at least float32, whatever the model answers in. A gradient that is NaN
    or infinite is held against its own problem: such entries become 0 and are counted. Raises
    ModelError for NaN or infinite answers, and at shared sites, where there is but one problem, for
    such gradients; InputError where `aim`, the largest target there is, is no class of the model.
    scored: is the score read? If not, losses stand in its place.
    """

    model: Model
    site: Site
    objective: Objective
    aim: int = -1
    scored: bool = True

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        live = tree(lambda d: d.detach().requires_grad_(gradient), delta)
        with torch.enable_grad() if gradient else torch.inference_mode():
            out = _precise(self.site.outputs(self.model, cases.x, live))
            told = progress.expand(len(cases.y)), cases.key, getattr(cases.set, "clean", None)
            goal = Goal(cases.y, cases.target, *told)
            _check_aim(out, self.aim)
            loss = self.site.gather(self.objective.loss(out, goal))
            grad = _gradient(loss, live) if gradient else None
        with torch.no_grad():
            out = tree(torch.detach, out)
            score = loss.detach()
            seen = out if isinstance(out, Tensor) else score
            if self.scored or not math.isfinite(float(seen.sum())):
                score = self.site.gather(self.objective.score(out, goal))
                _check_finite(score)
            won = self.site.gather_won(self.objective.won(out, goal))
            grad, undefined = (None, None) if grad is None else _mended(grad, self.site)
            # what was made under inference mode could not be written to later; a copy can
            loss = loss.detach() if gradient else loss.clone()
        # a model that averages several answers into one says how many it asked for
        samples = len(cases.x) // len(loss) * getattr(self.model, "draws", 1)
        return Point(loss, score, won, grad, (samples, samples * gradient), None, undefined)


def _check_finite(score: Tensor) -> None:
    """Raises ModelError for scores that are NaN or infinite: the model's answers are."""
    if not math.isfinite(float(score.sum())) and not bool(score.isfinite().all()):
        raise ModelError(
            "a model that answers NaN or infinity at some allowed perturbation",
            "finite logits",
            "look for divisions, logarithms and overflows in its forward pass",
        )


def _check_aim(out: Any, aim: int) -> None:
    """Raises InputError for a target beyond the logits (B, K); only shapes are looked at."""
    logits = out.get("logits") if isinstance(out, Mapping) else out
    if isinstance(logits, Tensor) and logits.ndim == 2 and aim >= logits.shape[1]:
        expected = f"classes 0 to {logits.shape[1] - 1}"
        raise InputError(f"target {aim}", expected, "count classes from 0")


def _precise(out: Any) -> Any:
    """Half-precision answers as float32."""
    return tree(lambda t: t.float() if t.dtype in (torch.float16, torch.bfloat16) else t, out)


def _gradient(loss: Tensor, live: Value) -> Value:
    """The gradient of the summed losses in every leaf: rows do not mix, so each row is its own
    loss's.
    """
    inputs = list(leaves(live))
    if not loss.requires_grad:
        raise ModelError(
            "a model whose output does not depend on its input by differentiable operations",
            "logits with a gradient",
            "use a search without gradients (Square), or wrap the layer that cuts it in BPDA",
        )
    found = torch.autograd.grad(loss, inputs, torch.ones_like(loss), materialize_grads=True)
    parts = iter(found)
    return tree(lambda _: next(parts), live)


def _mended(grad: Value, site: Site) -> tuple[Value, Tensor | None]:
    """The gradient with 0 where it is NaN or infinite, and a 1 for each problem (P,) with such
    entries; None where there are none.
    """
    # a sum is the cheapest test; a finite gradient with an infinite sum is looked at again
    parts = list(leaves(grad))
    if all(math.isfinite(float(g.sum())) or bool(g.isfinite().all()) for g in parts):
        return grad, None
    if site.shared:
        raise ModelError(
            "a model whose gradient is NaN or infinite at some allowed perturbation",
            "finite gradients",
            "look for square roots and logarithms of 0 in its forward pass",
        )
    found = [(~g.isfinite()).reshape(len(g), -1).any(1) for g in parts]
    return tree(lambda g: g.nan_to_num(0.0, 0.0, 0.0), grad), torch.stack(found).any(0).long()


@dataclass(frozen=True)
class EOT:
    """Expectation over transformation: the mean of `samples` answers of a randomised model
    (Athalye et al. 2018).

    A point has won when it wins in more than half of the draws.
    """

    inner: Oracle
    samples: int = 20

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(
                f"samples = {self.samples}", "a whole number >= 1", "the usual number is 20"
            )

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        points = [self.inner(cases, delta, gradient, progress) for _ in range(self.samples)]

        def mean(ts: list[Tensor]) -> Tensor:
            return torch.stack(ts).mean(0)

        grad = tree(lambda *g: mean(list(g)), *(p.grad for p in points)) if gradient else None
        won = mean([p.won.float() for p in points]) > 0.5
        forward, backward = (sum(p.cost[i] for p in points) for i in (0, 1))
        loss, score = mean([p.loss for p in points]), mean([p.score for p in points])
        cost, undefined = (forward, backward), undefined_in(points)
        return Point(loss, score, won, grad, cost, points[0].at, undefined)


@dataclass(frozen=True)
class Quantised:
    """Asks about perturbations rounded to 8-bit images within the set (`core.grid`), so that what
    wins survives saving (straight-through gradient). The clean images have to be 8-bit ones.
    """

    inner: Oracle
    levels: int = 255

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        fits = isinstance(delta, Tensor) and delta.shape == cases.x.shape
        if not fits or not isinstance(cases.set, Ball):
            raise InputError(
                "8-bit rounding of a perturbation that is not one image per example",
                "a threat at the site Input",
                "leave Quantised out",
            )
        rounded = on_grid(cases.set, delta, self.levels)
        return self.inner(cases, rounded, gradient, progress)._replace(at=rounded)
