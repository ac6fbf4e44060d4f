"""Backdoors over budgets: what is gained and what is lost, and which settings nothing beats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.backdoor.inject import inject
from torchproof.backdoor.metrics import Measured, measure
from torchproof.backdoor.triggers import Trigger
from torchproof.core.errors import InputError

BUDGETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True)
class Setting:
    """One backdoor: its budget, the weight of the stamped inputs in its loss, what it does."""

    eps: float
    weight: float
    measured: Measured


@dataclass(frozen=True)
class Sweep:
    """Backdoors in one network at several budgets and weights."""

    settings: tuple[Setting, ...]

    @property
    def front(self) -> tuple[Setting, ...]:
        """Those that no other one beats in attack success and in agreement at once."""
        return tuple(s for s in self.settings if not any(_beats(o, s) for o in self.settings))

    def at(self, weight: float) -> tuple[Setting, ...]:
        """The settings of one weight, by budget."""
        mine = [s for s in self.settings if s.weight == weight]
        return tuple(sorted(mine, key=lambda s: s.eps))


def _beats(one: Setting, other: Setting) -> bool:
    mine, its = (
        (s.measured.success.share, s.measured.agreement.share) for s in (one, other)
    )  # fmt: skip
    return mine != its and mine[0] >= its[0] and mine[1] >= its[1]


def sweep(
    model: nn.Module, x: Tensor, trigger: Trigger, target: int, test: tuple[Tensor, Tensor], *,
    budgets: Sequence[float] = BUDGETS, weights: Sequence[float] = (1.0,),
    attack: Attack | None = None, seed: int = 0, on_done: Callable[[Setting], None] | None = None,
    **settings: Any,
) -> Sweep:  # fmt: skip
    """`inject` with x at every budget and weight, measured on the test inputs (x, y).

    There is a cliff: below some budget the trigger does nothing, about it the backdoor is in but
    clean answers are lost, and only above it both hold; no single eps tells that. settings: further
    arguments of `inject`; attack: for robust accuracy. Raises InputError for no budgets or no
    weights, and as `inject` and `measure` do.
    """
    if not budgets or not weights:
        given = f"budgets = {tuple(budgets)}, weights = {tuple(weights)}"
        raise InputError(given, "at least one of each", "leave them out for the usual ones")
    found = []
    for weight in weights:
        for eps in budgets:
            injected = inject(
                model, x, trigger, target, eps=eps, weight=weight, seed=seed, **settings
            )
            measured = measure(
                injected.model, model, *test, trigger, target, attack=attack, seed=seed
            )
            found.append(Setting(eps, weight, measured))
            if on_done is not None:
                on_done(found[-1])
    return Sweep(tuple(found))
