"""Attacks whose objective compares with the model's clean answers, and the sets that hold these."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from torchproof.attack.cases import Found
from torchproof.attack.combine import Attack
from torchproof.attack.run import Run
from torchproof.core.errors import InputError
from torchproof.core.norms import Norm
from torchproof.core.sets import Ball
from torchproof.core.sites import Input, Model
from torchproof.core.threats import AnyThreat


@dataclass(frozen=True)
class Known(Ball):
    """A ball that knows the model's answer at its centre: clean (P, K), in at least float32."""

    clean: Tensor


class Asked(Input):
    """`Input` where the model is asked about every clean input once, when its search begins."""

    entry: ClassVar[int] = 1


@dataclass(frozen=True)
class WithClean:
    """`threat`, whose sets hold the model's answers at the unperturbed inputs.

    The model is asked once per run of an example (a restart, a target), never again in its steps.
    Raises InputError at construction unless the threat is a ball around every input by itself, and
    when called for a model that does not return one tensor.
    """

    threat: AnyThreat

    def __post_init__(self) -> None:
        if not isinstance(self.threat.site, Input):
            raise InputError(
                f"clean answers kept for {self.threat!r}",
                "a threat to each input by itself",
                "pass a Threat such as parse('linf:8/255')",
            )

    @property
    def site(self) -> Input:
        """The input, whose model is asked about clean and moved images."""
        return Asked()

    @property
    def offers(self) -> frozenset[str]:
        """What the threat inside offers."""
        return self.threat.offers

    @property
    def norm(self) -> Norm | None:
        """That of the threat inside, None where it has none."""
        return getattr(self.threat, "norm", None)

    def set(self, model: Model, x: Tensor) -> Known:
        """The threat's balls, with the model's answers to the clean x (B, C, H, W)."""
        ball = self.threat.set(model, x)
        assert isinstance(ball, Ball), "inputs are perturbed within balls"
        with torch.no_grad():
            out = model(x)
        if not isinstance(out, Tensor):
            given = f"a model that returns a {type(out).__name__}"
            raise InputError(given, "logits (B, K)", "choose an attack other than GAMA")
        clean = out.to(torch.promote_types(out.dtype, torch.float32))
        return Known(**{f.name: getattr(ball, f.name) for f in fields(Ball)}, clean=clean)


@dataclass(frozen=True)
class Informed(Attack):
    """An attack whose objective reads the model's clean answers, as `goal.clean`.

    Its threat stays the plain one; when called it attacks `WithClean(threat)`. Raises InputError
    at construction as `WithClean` does.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        WithClean(self.threat)  # which says what does not fit

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        target: Tensor | None = None,
        run: Run = Run(),
    ) -> Found:
        threat, parts = WithClean(self.threat), (self.objective, self.search)
        told = Attack(threat, *parts, self.restarts, self.targets, self.wrap)
        return told(model, x, y, target=target, run=run)
