"""Input sets in variables and rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from torchproof.core.errors import unknown
from torchproof.core.norms import name_of
from torchproof.verify.inputs import InputSet
from torchproof.verify.programme.draft import Draft, Form


def inputs(draft: Draft, inside: InputSet) -> Form:
    """The entries (n,) of an input of the set, which holds one example.

    Raises UnknownName for a norm whose ball is no polyhedron (L2), or not convex (L0).
    """
    name = name_of(inside.ball.norm)
    if name not in SETS:
        raise unknown("norm of a ball with flat sides, for a programme", name, SETS)
    moved = SETS[name](draft, inside)
    return Form(moved.which, moved.factor, moved.constant + flat(inside.x))


def _linf(draft: Draft, inside: InputSet) -> Form:
    return draft.variables(flat(inside.ball.floor), flat(inside.ball.ceiling))


def _l1(draft: Draft, inside: InputSet) -> Form:
    """d = p - n with p, n >= 0 in the box and sum(p + n) <= radius."""
    low, high = flat(inside.ball.floor), flat(inside.ball.ceiling)
    zero = np.zeros(len(low))
    moved = draft.variables(low, high)
    up, down = draft.variables(zero, high), draft.variables(zero, -low)
    draft.equal([(1.0, moved), (-1.0, up), (1.0, down)], 0.0)
    both = Form(*(np.concatenate(pair)[None] for pair in zip(up, down, strict=True)))
    draft.at_most([(1.0, both)], inside.ball.radius.numpy().astype(float))
    return moved


SETS: dict[str, Callable[[Draft, InputSet], Form]] = {"linf": _linf, "l1": _l1}


def flat(t: Tensor) -> np.ndarray:
    """The only example of t (1, ...), as (n,)."""
    found: np.ndarray = t[0].detach().reshape(-1).double().numpy()
    return found
