"""What every library is asked for, and how a library answers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.core.threats import Threat
from torchproof.evaluate.versions import installed

ATTACKS: dict[str, tuple[int, str]] = {
    "fgsm": (1, "one step along the sign of the gradient (Goodfellow et al. 2015)"),
    "pgd": (50, "projected gradient ascent on cross-entropy, random start (Madry et al. 2018)"),
    "apgd-ce": (100, "PGD that sets its own step size, on cross-entropy (Croce and Hein 2020a)"),
    "apgd-dlr": (100, "the same on the difference of logits ratio (Croce and Hein 2020a)"),
    "apgd-t": (100, "the same at each of 9 likely wrong classes (Croce and Hein 2020a)"),
    "fab-t": (100, "the nearest point across each likely boundary (Croce and Hein 2020b)"),
    "deepfool": (50, "straight to the nearest linearised boundary (Moosavi-Dezfooli et al. 2016)"),
    "square": (5000, "random search by squares, no gradients (Andriushchenko et al. 2020)"),
    "autoattack": (100, "apgd-ce, apgd-t, fab-t and square in turn (Croce and Hein 2020a)"),
}
"""Name -> (steps or queries that all libraries are given, what it is)."""

TARGETS = 9  # wrong classes that a targeted attack tries, at most K - 1
_HIDDEN = {
    "self", "args", "kwargs", "model", "predict", "estimator", "classifier", "inputs", "labels",
    "threat", "device", "verbose", "callback", "logger", "log_path", "summary_writer", "batch_size",
    "is_tf_model", "estimator_orig", "parallel_pool_size", "seed",
}  # fmt: skip
"""Arguments that are not about what the attack does."""


@dataclass(frozen=True)
class Plan:
    """The question put to every library.

    classes: K; batch: images per call; steps: of the attack (queries for square), as in ATTACKS
    where None; matched: are libraries given the same settings, or left with their own?
    """

    attack: str
    threat: Threat
    classes: int
    seed: int
    batch: int
    device: torch.device
    steps: int | None = None
    matched: bool = True

    def __post_init__(self) -> None:
        if self.attack not in ATTACKS:
            raise unknown("attack", self.attack, ATTACKS)
        if type(self.threat.norm) not in (Linf, L2, L1):
            given = f"a comparison for {self.threat}"
            raise InputError(given, "linf, l2 or l1", "other libraries know no other norm")
        if (self.threat.low, self.threat.high) != (0.0, 1.0):
            given = f"images in [{self.threat.low:g}, {self.threat.high:g}]"
            raise InputError(given, "images in [0, 1]", "other libraries confine images to that")
        if self.steps is not None and (isinstance(self.steps, bool) or self.steps < 2):
            raise InputError(f"steps = {self.steps!r}", "at least 2", "leave it out for the usual")

    @property
    def norm(self) -> type[Norm]:
        """The class of the threat's norm, by which libraries are looked up."""
        return type(self.threat.norm)

    @property
    def order(self) -> float:
        """p of the norm: inf, 2 or 1."""
        return {Linf: math.inf, L2: 2, L1: 1}[self.norm]

    @property
    def label(self) -> str:
        """The norm as AutoAttack writes it."""
        return self.norm.__name__

    @property
    def eps(self) -> float:
        """The threat's radius, in input units."""
        return self.threat.eps

    @property
    def count(self) -> int:
        """Steps, or queries for square."""
        return ATTACKS[self.attack][0] if self.steps is None else self.steps

    @property
    def stride(self) -> float:
        """The step of PGD in units of eps (Madry et al. 2018's rule)."""
        return 2.5 / self.count

    @property
    def targets(self) -> int:
        """How many target classes a targeted attack goes through."""
        return min(TARGETS, self.classes - 1)


@dataclass(frozen=True)
class Offer:
    """One attack of one library: its function or class, what it is always given, and what it is
    given so that all libraries do the same.
    """

    function: Callable[..., Any]
    always: Mapping[str, Any] = field(default_factory=dict)
    matched: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self, plan: Plan) -> dict[str, Any]:
        """Keyword arguments of the library's attack for this plan."""
        return {**self.always, **(self.matched if plan.matched else {})}

    def told(self, plan: Plan) -> str:
        """The call with every setting, those that the library fills in itself too."""
        given = self.arguments(plan)
        parameters = inspect.signature(self.function).parameters.values()
        own = {p.name: p.default for p in parameters if p.default is not p.empty}
        every = {k: v for k, v in {**own, **given}.items() if k not in _HIDDEN}
        called = getattr(self.function, "__name__", type(self.function).__name__)
        return f"{called}({', '.join(f'{k}={_short(v)}' for k, v in every.items())})"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(getattr(value, "__name__", None) or repr(value))


Call = Callable[[Plan, Offer, nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Library:
    """A library: how to load what it offers for a plan, and how to run one of its attacks.

    offers: attack -> Offer for the plan's norm; imports the library, and may raise anything. call:
    (plan, offer, model, x, y) -> adversarial images; whole: it makes batches itself. package: the
    distribution whose version is told; remedy: what to do where it does not load.
    """

    name: str
    package: str
    remedy: str
    offers: Callable[[Plan], dict[str, Offer]]
    call: Call
    whole: bool = False
    version: Callable[[], str] | None = None

    def release(self) -> str:
        """The version that runs."""
        return installed(self.package) if self.version is None else self.version()
