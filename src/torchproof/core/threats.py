"""Threats: how far a perturbation may go at a site. `parse("linf:8/255")` reads the usual one.

`Threat` is a ball around every input (or any other site) cut with the box of valid values;
`Relative` scales the ball of each weight tensor with its length, `Region` closes the box outside a
mask, `Free` has no bound, `Both` perturbs inputs and weights at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from torchproof.core.errors import InputError, unknown
from torchproof.core.norms import L2, NORMS, Norm, name_of
from torchproof.core.sets import Ball, Each, Product, Set
from torchproof.core.sites import Input, Joint, Latent, Model, Site, Universal, Weights

BOUNDED = frozenset({"bounded"})


class AnyThreat(Protocol):
    """What an attack asks of a threat; `offers`: "bounded" where the set is."""

    @property
    def site(self) -> Site: ...

    @property
    def offers(self) -> frozenset[str]: ...

    def set(self, model: Model, x: Tensor) -> Set: ...


def _positive(eps: float, what: str) -> None:
    if (
        isinstance(eps, bool)
        or not isinstance(eps, (int, float))
        or not math.isfinite(eps)
        or eps <= 0
    ):
        raise InputError(
            f"{what} = {eps!r}",
            "a finite number greater than 0, in input units",
            f"pass a radius such as {what}=8/255",
        )


def _single(site: Site) -> None:
    """Raises InputError for a site whose values are several tensors."""
    if not site.single:
        raise InputError(
            f"one ball at the site {type(site).__name__}",
            "a site whose value is one tensor",
            "use Relative for weights, Both for inputs and weights",
        )


def _unbounded(norm: Norm, radius: Tensor, like: Tensor, scale: Tensor | None = None) -> Ball:
    inf = torch.full_like(like, torch.inf)
    return Ball.of(norm, radius, -inf, inf, scale)


@dataclass(frozen=True)
class Threat:
    """All perturbations of length <= eps (input units; a count for L0) that keep inputs in [low,
    high].

    Raises InputError for an eps that is not a finite number > 0 or a box with low >= high.
    """

    norm: Norm
    eps: float
    site: Site = field(default_factory=Input)
    low: float = 0.0
    high: float = 1.0
    offers: ClassVar[frozenset[str]] = BOUNDED

    def __post_init__(self) -> None:
        if not isinstance(self.norm, Norm):
            raise InputError(
                f"norm {self.norm!r}", "a Norm such as Linf()", "pass Linf(), L2(), L1() or L0()"
            )
        _positive(self.eps, "eps")
        _single(self.site)
        if self.eps < self.norm.least:
            raise InputError(
                f"eps = {self.eps} for {type(self.norm).__name__}",
                f"at least {self.norm.least:g}",
                "a smaller ball holds nothing but the input",
            )
        if not self.low < self.high:
            raise InputError(
                f"box [{self.low}, {self.high}]", "low < high", "pass the range of valid inputs"
            )

    def set(self, model: Model, x: Tensor) -> Set:
        """The allowed perturbations of x (B, C, H, W), one row per problem."""
        origin = self.site.origin(model, x)
        assert isinstance(origin, Tensor), (
            "Threat needs a site with one tensor; use Relative for weights"
        )
        radius = origin.new_full((len(origin),), self.eps)
        return Ball.of(self.norm, radius, *self.site.box(origin, self.low, self.high))

    def __str__(self) -> str:
        return f"{name_of(self.norm)}:{eps_text(self.eps)}"


@dataclass(frozen=True)
class Relative:
    """Weight perturbations with length(v_l) <= gamma * length(w_l) for every chosen tensor l (Wu
    et al. 2020, eq. 8).

    A tensor of zeros has a ball of radius 0: it is not perturbed.
    """

    gamma: float
    norm: Norm = field(default_factory=L2)
    site: Weights = field(default_factory=Weights)
    offers: ClassVar[frozenset[str]] = BOUNDED

    def __post_init__(self) -> None:
        _positive(self.gamma, "gamma")

    def set(self, model: Model, x: Tensor) -> Product:
        """A ball for each tensor w of the weights, of radius gamma |w|."""
        origin = self.site.origin(model, x)
        radii = {n: self.gamma * self.norm.length(w) for n, w in origin.items()}
        return Product({n: _unbounded(self.norm, radii[n], w) for n, w in origin.items()})


@dataclass(frozen=True)
class Region:
    """A threat that may change only where `mask` (broadcastable to an input) is true.

    One mask for all images; `Regions` of torchproof.attack.regional knows masks per image.
    """

    threat: Threat
    mask: Tensor
    offers: ClassVar[frozenset[str]] = BOUNDED

    def __post_init__(self) -> None:
        if not isinstance(self.threat, Threat):
            given = f"a region of {type(self.threat).__name__}"
            raise InputError(given, "a Threat", "write Region(Threat(norm, eps), mask)")

    @property
    def site(self) -> Site:
        """That of the threat inside."""
        return self.threat.site

    @property
    def norm(self) -> Norm:
        """That of the threat inside."""
        return self.threat.norm

    def set(self, model: Model, x: Tensor) -> Set:
        """The threat's balls, in which nothing moves outside the mask."""
        ball = self.threat.set(model, x)
        assert isinstance(ball, Ball)
        try:
            mask = self.mask.to(x.device, torch.bool).expand_as(ball.low)
        except RuntimeError:
            raise InputError(
                f"a mask of shape {tuple(self.mask.shape)}",
                f"one that broadcasts to {tuple(ball.low.shape)}",
                "give a mask (H, W) or (C, H, W)",
            ) from None
        return ball.within(mask)


@dataclass(frozen=True)
class Free:
    """No bound at all; `unit` is the length (in the units of the site) that a step of length 1
    takes.
    """

    site: Site
    unit: float = 1.0
    norm: Norm = field(default_factory=L2)
    offers: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        _positive(self.unit, "unit")
        _single(self.site)

    def set(self, model: Model, x: Tensor) -> Set:
        """All of the layer's space, steps in units of `unit`."""
        origin = self.site.origin(model, x)
        assert isinstance(origin, Tensor)
        unit = origin.new_full((len(origin),), self.unit)
        return _unbounded(self.norm, torch.full_like(unit, torch.inf), origin, unit)


@dataclass(frozen=True)
class Both:
    """Every input within `inputs` and the weights within `weights` at once: one problem (Stutz et
    al. 2021).
    """

    inputs: Threat
    weights: Relative
    offers: ClassVar[frozenset[str]] = BOUNDED

    def __post_init__(self) -> None:
        if "image" not in self.inputs.site.offers:
            given = f"inputs perturbed at the site {type(self.inputs.site).__name__}"
            raise InputError(
                given, "the site Input", "write Both(Threat(norm, eps), Relative(gamma))"
            )

    @property
    def site(self) -> Joint:
        """Input and weights together."""
        return Joint(self.weights.site)

    def set(self, model: Model, x: Tensor) -> Product:
        """One problem: a ball around each of the B images, under the key "", and the weights."""
        ball = self.inputs.set(model, x)
        assert isinstance(ball, Ball)
        return Product({"": Each(ball, len(x)), **self.weights.set(model, x).parts})


def eps_text(eps: float) -> str:
    """The field's way to write a radius: 8/255 where it is a multiple of 1/255 (or half of one),
    else a decimal.

    >>> eps_text(8 / 255), eps_text(0.5), eps_text(0.031)
    ('8/255', '0.5', '0.031')
    """
    plain = f"{eps:.6g}"
    if len(plain) <= 5 and float(plain) == eps:
        return plain
    for denominator in (255, 510):
        top = eps * denominator
        if abs(top - round(top)) < 1e-9 and round(top) > 0:
            f = Fraction(round(top), denominator)
            scale = 255 // f.denominator if 255 % f.denominator == 0 else 1
            return f"{f.numerator * scale}/{f.denominator * scale}"
    return plain


def number(text: str, what: str = "eps") -> float:
    """A number or a fraction such as 8/255; raises InputError for anything else."""
    try:
        top, _, bottom = text.partition("/")
        return float(Fraction(top.strip())) / float(bottom) if bottom else float(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InputError(
            f"{what} {text!r}", "a number or a fraction", "write 8/255 or 0.5"
        ) from None


def parse(text: str) -> Threat:
    """`linf:8/255`, `l2:0.5`, `l1:12`, `l0:10` as a Threat on inputs in [0, 1].

    >>> parse("linf:8/255").eps == 8 / 255
    True

    Raises InputError for a missing or impossible eps, UnknownName for an unknown norm.
    """
    name, colon, eps = text.strip().lower().partition(":")
    if not colon:
        raise InputError(f"threat {text!r}", "NORM:EPS", "write it like linf:8/255 or l2:0.5")
    if name not in NORMS:
        raise unknown("norm", name, NORMS)
    return Threat(NORMS[name], number(eps))


__all__ = [
    "AnyThreat", "Both", "Free", "Latent", "Region", "Relative", "Threat", "Universal", "eps_text",
    "number", "parse",
]  # fmt: skip
