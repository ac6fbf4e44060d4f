"""A backdoor by small changes of the weights (Garg, Kumar, Goel and Liang 2020).

The paper's text could not be had in full: objective and constraint are its own, constants (steps,
rate, batch) are ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.attack.ascend import ascend
from torchproof.attack.cases import Jobs, Point
from torchproof.attack.pgd import PGD, check_steps
from torchproof.attack.run import Run
from torchproof.attack.search import State
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import home, precision, untouched
from torchproof.backdoor.ball import Absolute, everything
from torchproof.backdoor.composite import KEEPING, Composite, Moment
from torchproof.backdoor.inputs import check_inputs
from torchproof.backdoor.poison import check_target
from torchproof.backdoor.triggers import Trigger
from torchproof.core import keys
from torchproof.core.checks import check_logits, check_weights
from torchproof.core.errors import InputError, unknown
from torchproof.core.schedules import Cosine, Schedule
from torchproof.core.sets import Set
from torchproof.core.sites import Weights
from torchproof.core.values import tree


@dataclass(frozen=True)
class Injected:
    """model: a copy of the network with the backdoor in it, in eval mode; shift: parameter name ->
    how far it was moved; curve: the losses of every step; spent: forward and backward samples.
    """

    model: nn.Module
    shift: dict[str, Tensor]
    curve: tuple[Moment, ...]
    spent: tuple[int, int]

    @property
    def linf(self) -> float:
        """The largest change of a weight."""
        return max(float(v.abs().max()) for v in self.shift.values() if v.numel())


@dataclass(frozen=True)
class GradientStep(PGD):
    """delta <- project(delta + length * schedule * gradient): the raw gradient, not its sign.

    length: the learning rate, by default 0.05.
    """

    def step(self, set: Set, key: Tensor, state: Any, point: Point) -> State:
        rate = self.stride(state.t, point.loss)
        moved: Any = tree(lambda d, g: d + rate * g, state.delta, point.grad)
        return State(set.bring(moved), state.t + 1)

    def stride(self, t: Tensor, like: Tensor) -> float:
        rate = 0.05 if self.length is None else self.length
        return rate * float(self.schedule(t.to(like.dtype) / self.steps))


def _sign(steps: int, length: float | None, schedule: Schedule) -> PGD:
    return PGD(steps, 0.1 if length is None else length, Zero(), schedule)


def _gradient(steps: int, length: float | None, schedule: Schedule) -> PGD:
    return GradientStep(steps, length, Zero(), schedule)


STEPS: dict[str, Callable[[int, float | None, Schedule], PGD]] = {
    "gradient": _gradient,
    "sign": _sign,
}


def inject(
    model: nn.Module, x: Tensor, trigger: Trigger, target: int, *,
    eps: float = 0.05, weight: float = 1.0, steps: int = 600, step: str = "gradient",
    length: float | None = None, schedule: Schedule = Cosine(), keep: str = "hard",
    anchor: float = 0.0, site: Weights = Weights(everything), batch: int = 100, seed: int = 0,
) -> Injected:  # fmt: skip
    """min_w mean l(f_w(x), f_w0(x)) + weight mean CE(f_w(x + t), target) with |w - w0|_inf <= eps.

    x (N, C, H, W) in [0, 1], or token numbers (N, L): inputs without labels; the network's own
    answers are what is kept. keep: its classes ("hard") or probabilities ("soft"); anchor: weight
    of the squared distance of the logits (logit anchoring, Zhang et al. 2022). step: "gradient",
    with length the learning rate (0.05), or "sign", with length in units of eps (0.1), times the
    schedule at each step's progress. site: the parameters that may move, by default all; batch:
    inputs per step. The network stays as it is; its copy is asked in eval mode and its buffers
    (batch-norm statistics) are not changed. The same inputs and seed give the same result.

    Raises InputError for settings and inputs that cannot be meant: a target that is no class, no
    parameters to move, eps <= 0, inputs that the network takes for the target already; UnknownName
    for another `step` or `keep`; ModelError for answers that are no finite logits.
    """
    _check(weight, anchor, batch, step, keep)
    check_steps(steps)
    check_inputs(x)
    ball = Absolute(eps, site)
    check_weights(model)
    site.origin(model, x)
    backdoored = copy.deepcopy(model)
    x, key = x.detach().to(home(model, x.device)), keys.seed_of(seed, "inject")
    x = x.to(precision(model)) if x.is_floating_point() else x
    search = STEPS[step](steps, length, schedule)
    with untouched(backdoored, key, x.device):
        stamped = trigger(x)
        _check_stamped(x, stamped)
        original = _answers(backdoored, x, batch)
        _check_goal(original, target)
        oracle = Composite(backdoored, site, x, stamped, original, target, KEEPING[keep],
                           anchor, weight, batch, steps)  # fmt: skip
        found = ascend(
            oracle, search, site, lambda rows: ball.set(backdoored, rows), x, original.argmax(1),
            Jobs.one_each(1), Run(key, slots=1, patience=math.inf, last=True),
        )  # fmt: skip
    assert isinstance(found.value, dict)
    ball.move(backdoored, {name: v[0] for name, v in found.value.items()})
    before = dict(model.named_parameters())
    after = dict(backdoored.named_parameters())
    shift = {n: after[n].detach().double() - before[n].detach().double() for n in found.value}
    forward, backward = (int(n) for n in found.spent.sum(0))
    return Injected(backdoored.eval(), shift, tuple(oracle.told), (forward + len(x), backward))


def _check(weight: float, anchor: float, batch: int, step: str, keep: str) -> None:
    if not (0 < weight < math.inf and 0 <= anchor < math.inf):
        given = f"weight = {weight!r}, anchor = {anchor!r}"
        raise InputError(given, "weight > 0 and anchor >= 0", "1 and 0 are usual")
    if isinstance(batch, bool) or batch < 1:
        raise InputError(f"batch = {batch!r}", "a whole number >= 1", "100 is usual")
    if step not in STEPS:
        raise unknown("step", step, STEPS)
    if keep not in KEEPING:
        raise unknown("keep", keep, KEEPING)


def _check_stamped(x: Tensor, stamped: Tensor) -> None:
    if stamped.shape != x.shape or stamped.dtype != x.dtype:
        given = f"a trigger that makes {stamped.dtype}, shape {tuple(stamped.shape)}"
        raise InputError(given, f"{x.dtype}, {tuple(x.shape)}, as it got", "use Patch()")
    if torch.equal(x, stamped):
        given, remedy = "a trigger that changes none of the inputs", "choose a visible trigger"
        raise InputError(given, "one that stamps", remedy)


def _answers(model: nn.Module, x: Tensor, batch: int) -> Tensor:
    """(N, K) logits, in at least float32."""
    parts = []
    with torch.no_grad():
        for rows in torch.split(x, batch):
            z = model(rows)
            check_logits(z, len(rows))
            parts.append(z.to(torch.promote_types(z.dtype, torch.float32)))
    return torch.cat(parts)


def _check_goal(original: Tensor, target: int) -> None:
    """A class of the network, which it does not answer to all inputs already."""
    check_target(target, original.shape[1])
    if bool((original.argmax(1) == target).all()):
        given = f"{len(original)} inputs, all of which the network takes for class {target}"
        raise InputError(given, "inputs of other classes", "choose other inputs or another target")
