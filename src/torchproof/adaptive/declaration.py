"""Is what a defence says of itself true? Its forward pass is watched, and its answers compared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from torchproof.adaptive.predictor import Declared
from torchproof.attack.untouched import home, untouched
from torchproof.core import keys
from torchproof.core.errors import ModelError
from torchproof.core.objectives import margin
from torchproof.core.sites import Model
from torchproof.core.unaware import logits_of

PASSES = 5
MOVED = 1e-4  # of the largest number: beyond what batched sums differ by in float32
BLIND = 0.1  # share of images without a usable gradient
_LEAST = 1e-12  # a largest entry below this is no gradient in float32


@dataclass(frozen=True)
class Measured:
    """What was seen on `images` images.

    moved: the largest difference between repeated answers, relative to the largest number; flips:
    share of images whose class changes from pass to pass; cut: no gradient at all; zero, undefined:
    shares of images at which the gradient of the margin is zero, or not finite; reject_blind: the
    same for the score of rejection, None without one; autograd: how often autograd ran inside one
    forward pass; rejects: is there a score of rejection; reject_constant: is it the same for all.
    """

    images: int
    moved: float
    flips: float
    cut: bool
    zero: float
    undefined: float
    reject_blind: float | None
    autograd: int
    rejects: bool
    reject_constant: bool

    @property
    def properties(self) -> Declared:
        """The measured properties, as a defence would declare them."""
        blind = self.cut or max(self.zero, self.undefined, self.reject_blind or 0.0) >= BLIND
        return Declared(self.moved > MOVED, blind, self.autograd > 0, self.rejects)


@dataclass(frozen=True)
class Declaration:
    """declared: None for a model that declares nothing; false: the sentences about declared
    properties that are not so, and about a score of rejection that cannot be meant.
    """

    declared: Declared | None
    measured: Measured
    false: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Was nothing declared that is not so?"""
        return not self.false


def declaration(model: Model, x: Tensor, y: Tensor, seed: int = 0) -> Declaration:
    """Measures a model on images x (N, C, H, W) with labels y (N,), and holds the result against
    what it declares; the model stays as it was. Costs 7 forward and 2 backward passes.

    Raises ModelError for answers that are not finite.
    """
    place = home(model, x.device)
    x, y = x.to(place), y.to(place)
    with untouched(model, keys.seed_of(seed, "declaration"), place):
        measured = _measure(model, x, y)
    declared = getattr(model, "declared", None)
    told = declared if isinstance(declared, Declared) else None
    return Declaration(told, measured, tuple(_false(told, measured)))


def _measure(model: Model, x: Tensor, y: Tensor) -> Measured:
    with torch.no_grad():
        answers = [model(x) for _ in range(PASSES)]
        with autograd_calls() as count:
            model(x)
    tables = [_numbers(answer) for answer in answers]
    if not all(bool(t.isfinite().all()) for t in tables):
        expected = "finite logits and scores"
        raise ModelError("a model that answers NaN or infinity", expected, "look at its forward")
    scale = float(tables[0].abs().max())
    moved = max(float((t - tables[0]).abs().max()) for t in tables) / max(scale, 1e-30)
    classes = torch.stack([logits_of(answer).detach().argmax(1) for answer in answers])
    rejects = isinstance(answers[0], Mapping) and "reject" in answers[0]
    scores = answers[0]["reject"] if rejects else None
    cut, zero, undefined, hidden = _gradients(model, x, y, rejects)
    return Measured(
        images=len(x),
        moved=moved,
        flips=float((classes != classes[0]).any(0).float().mean()),
        cut=cut,
        zero=zero,
        undefined=undefined,
        reject_blind=hidden,
        autograd=count(),
        rejects=rejects,
        reject_constant=scores is not None and len(x) > 1 and bool((scores == scores[0]).all()),
    )


def _numbers(out: Any) -> Tensor:
    """Logits and score of rejection side by side, (B, K) or (B, K + 1)."""
    logits = logits_of(out).detach().float()
    if not isinstance(out, Mapping) or "reject" not in out:
        return logits
    return torch.cat([logits, out["reject"].detach().to(logits)[:, None]], 1)


def _gradients(
    model: Model, x: Tensor, y: Tensor, rejects: bool
) -> tuple[bool, float, float, float | None]:
    """Is the graph cut; shares of images with a gradient of the margin that is zero, or not finite;
    the share with an unusable one of the score, None without a score.
    """
    with torch.enable_grad():
        live = x.detach().clone().requires_grad_()
        out = model(live)
        top = _slope(margin(logits_of(out), y), live)
        score = _slope(out["reject"], live) if rejects else None
    zero, undefined = (1.0, 0.0) if top is None else _blind(top)
    hidden = None
    if rejects:
        hidden = 1.0 if score is None else sum(_blind(score))
    return top is None, zero, undefined, hidden


def _slope(value: Tensor, live: Tensor) -> Tensor | None:
    """The gradient of the sum, None where there is no graph."""
    if not value.requires_grad:
        return None
    (found,) = torch.autograd.grad(value.sum(), [live], retain_graph=True, materialize_grads=True)
    return found


def _blind(grad: Tensor) -> tuple[float, float]:
    """Shares of rows that are zero, and that are not finite."""
    flat = grad.flatten(1)
    finite = flat.isfinite().all(1)
    zero = (flat.nan_to_num().abs().amax(1) <= _LEAST) & finite
    return float(zero.float().mean()), float((~finite).float().mean())


def _false(told: Declared | None, seen: Measured) -> Iterator[str]:
    """The sentences that are not so."""
    if seen.reject_constant:
        yield "the score of rejection is the same for all images"
    if told is None:
        return
    found = seen.properties
    worst = f"zero at {seen.zero:.0%}, not finite at {seen.undefined:.0%} of {seen.images} images"
    worst = "cut" if seen.cut else worst
    if seen.reject_blind:
        worst += f", that of the score of rejection unusable at {seen.reject_blind:.0%}"
    rows = (
        ("random", told.random, found.random,
         f"answers to the same image differ by {seen.moved:.2g} of the largest number"),
        ("non-differentiable", told.non_differentiable, found.non_differentiable,
         f"the gradient is {worst}"),
        ("optimising at test time", told.optimises_at_test_time, found.optimises_at_test_time,
         f"autograd ran {seen.autograd} times inside the forward pass"),
        ("rejecting", told.rejects, found.rejects,
         f"answers have {'a' if seen.rejects else 'no'} score of rejection"),
    )  # fmt: skip
    for name, said, so, why in rows:
        if said != so:
            yield f"declared {'' if said else 'not '}{name}, but {why}"


@contextmanager
def autograd_calls() -> Iterator[Callable[[], int]]:
    """Counts calls of torch.autograd's `grad` and `backward` inside the block, however they were
    imported; what else is profiled goes on being. Under a profiler written in C (cProfile) only
    calls by way of torch are seen.
    """
    watched = {torch.autograd.grad.__code__, torch.autograd.backward.__code__}
    calls, before = 0, sys.getprofile()
    if before is not None and not callable(before):
        with _replaced() as count:
            yield count
        return

    def look(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal calls
        if event == "call" and frame.f_code in watched:
            calls += 1
        if before is not None:
            before(frame, event, arg)  # type: ignore[arg-type]

    sys.setprofile(look)
    try:
        yield lambda: calls
    finally:
        sys.setprofile(before)


@contextmanager
def _replaced() -> Iterator[Callable[[], int]]:
    """The same, by putting counters in the place of the two functions."""
    calls: list[str] = []

    def counted(name: str, call: Any) -> Callable[..., Any]:
        def inside(*args: Any, **more: Any) -> Any:
            calls.append(name)
            return call(*args, **more)

        return inside

    with ExitStack() as stack:
        for name in ("grad", "backward"):
            call = getattr(torch.autograd, name)
            setattr(torch.autograd, name, counted(name, call))
            stack.callback(setattr, torch.autograd, name, call)
        yield lambda: len(calls)
