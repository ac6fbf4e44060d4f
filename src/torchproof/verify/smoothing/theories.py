"""Which arguments turn probabilities into a radius, and for which noise.

Each row is a function of (pA, pB or None, *the noise's own parameters) to radii in the norm of the
noise. They differ in how near they come to the Neyman-Pearson radius, never in what was sampled.
"""

from __future__ import annotations

from collections.abc import Callable

from torchproof.core.errors import InputError, unknown
from torchproof.verify.smoothing import (
    ablation,
    divergences,
    hockey_stick,
    neyman_pearson,
    privacy,
    renyi,
)
from torchproof.verify.smoothing.probabilities import Floats

Radius = Callable[..., Floats]

NEYMAN_PEARSON = "neyman-pearson"

THEORIES: dict[str, dict[str, Radius]] = {
    NEYMAN_PEARSON: {
        "gaussian": neyman_pearson.gaussian_l2,
        "laplace": neyman_pearson.laplace_l1,
        "uniform": neyman_pearson.uniform_l1,
        "ablation": ablation.ablation_l0,
    },
    "differential-privacy": {"gaussian": privacy.gaussian_l2, "laplace": privacy.laplace_l1},
    "renyi": {"gaussian": renyi.gaussian_l2, "laplace": renyi.laplace_l1},
    "kullback-leibler": {"gaussian": divergences.kullback_leibler_l2},
    "hellinger": {"gaussian": divergences.hellinger_l2},
    "chi-square": {"gaussian": divergences.chi_square_l2},
    "total-variation": {"gaussian": divergences.total_variation_l2},
    "hockey-stick": {"gaussian": hockey_stick.gaussian_l2},
}


def theory(name: str, noise: str) -> Radius:
    """The radius function of a theory for a kind of noise.

    Raises UnknownName, and InputError for a theory that says nothing about that noise.
    """
    if name not in THEORIES:
        raise unknown("theory", name, THEORIES)
    known = THEORIES[name]
    if noise not in known:
        expected = f"noise that it covers: {', '.join(known)}"
        raise InputError(f"{name} with {noise} noise", expected, f"use {NEYMAN_PEARSON}")
    return known[noise]
