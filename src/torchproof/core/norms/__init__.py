"""The norms Linf, L2, L1 and L0, exact on ball and box.

Shapes: d, g, a are (P, ...); radius is (P,); low and high have the shape of d. "Ball and box" is
{u: length(u) <= radius, low <= u <= high}, where low <= 0 <= high is the box seen from the point
that is perturbed, already cut with [-reach(radius), reach(radius)]: `sets.Ball` does that once per
job, so that no step repeats it.
"""

from __future__ import annotations

from torchproof.core.norms.l0 import L0
from torchproof.core.norms.l1 import L1
from torchproof.core.norms.l2 import L2, fill
from torchproof.core.norms.linf import Linf
from torchproof.core.norms.norm import Norm, bound

NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2(), "l1": L1(), "l0": L0()}


def name_of(norm: Norm) -> str:
    """The short name under which `NORMS` lists a norm."""
    return type(norm).__name__.lower()


__all__ = ["L0", "L1", "L2", "NORMS", "Linf", "Norm", "bound", "fill", "name_of"]
