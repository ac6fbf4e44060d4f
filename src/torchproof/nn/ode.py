"""Neural ODEs (Chen et al. 2018) with a window in which the flow is to come to rest (Yan et al.
2020).
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from torchproof.core.asides import heard, tell
from torchproof.core.errors import InputError
from torchproof.nn.solvers import solver_of


class ODEBlock(nn.Module):
    """z(0) (B, ...) to z(t_pred) along dz/dt = field(t, z), same shape.

    To whoever listens it tells "steady": (B,) integrals over the window of the mean |field| over
    channels and pixels (Yan et al. 2020, with their code's mean in place of the norm). The window
    ss_window, [t_pred, 2 t_pred] where none is given, is gone through for listeners only; the
    answer is the same with and without them. field: a module called with a time and a state; h:
    length of the solver's steps, the last before t_pred and before the window's ends shortened so
    that those times are met exactly; solver: a name of SOLVERS.

    Raises InputError for times and steps that are none, and as `solver_of`.
    """

    def __init__(
        self,
        field: nn.Module,
        t_pred: float = 1.0,
        h: float = 0.1,
        solver: str = "euler",
        ss_window: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not (0 < t_pred < math.inf and 0 < h < math.inf):
            given, remedy = f"t_pred = {t_pred!r}, h = {h!r}", "1 and 0.1 are usual"
            raise InputError(given, "two finite numbers > 0", remedy)
        window = (t_pred, 2 * t_pred) if ss_window is None else tuple(ss_window)
        if len(window) != 2 or not 0 <= window[0] < window[1] < math.inf:
            remedy = f"write ({t_pred}, {2 * t_pred}), or leave it out"
            raise InputError(f"ss_window = {ss_window!r}", "two times, 0 <= first < last", remedy)
        self.field, self.t_pred, self.h = field, t_pred, h
        self.ss_window = window
        self.solver, self.solve = solver, solver_of(solver)

    def forward(self, z: Tensor) -> Tensor:
        listened, answer, steady = heard(), z, z.new_zeros(z.shape[0])
        times = sorted({0.0, self.t_pred, *self.ss_window})
        for start, end in itertools.pairwise(times):
            if start >= self.t_pred and not listened:
                break
            inside = self.ss_window[0] <= start and end <= self.ss_window[1]
            z, more = self.solve(self.field, z, start, end, self.h, listened and inside)
            steady = steady if more is None else steady + more
            answer = z if end <= self.t_pred else answer
        if listened:
            tell("steady", steady)
        return answer

    def extra_repr(self) -> str:
        return f"t_pred={self.t_pred}, h={self.h}, solver={self.solver!r}, window={self.ss_window}"


def with_solver(model: nn.Module, h: float | None = None, solver: str | None = None) -> nn.Module:
    """A copy of `model` whose ODE blocks are solved in another way: the check that a result is one
    of the flow, and not of its steps.

    Raises InputError for a model without ODE blocks and for a step that is not > 0, and as
    `solver_of`.
    """
    made = copy.deepcopy(model)
    blocks = [module for module in made.modules() if isinstance(module, ODEBlock)]
    if not blocks:
        given = f"a {type(model).__name__} without ODE blocks"
        raise InputError(given, "a network with one", "build 'odenet' or 'tisode', for example")
    if h is not None and not 0 < h < math.inf:
        raise InputError(f"h = {h!r}", "a finite number > 0", "0.1 is usual")
    chosen = {k: v for k, v in {"h": h, "solver": solver}.items() if v is not None}
    for block in blocks:
        for name, value in chosen.items():
            setattr(block, name, value)
        block.solve = solver_of(block.solver)
    _remember(made, chosen)
    return made


def _remember(net: nn.Module, chosen: dict[str, Any]) -> None:
    """A network of `build` knows how to make it again, or, where its options do not name the
    solver, that nobody does.
    """
    options = getattr(net, "options", None)
    if not isinstance(options, dict):
        return
    if set(chosen) <= set(options):
        net.__dict__["options"] = {**options, **chosen}
    else:
        net.__dict__["name"] = f"{net.__dict__['name']} with another solver"
