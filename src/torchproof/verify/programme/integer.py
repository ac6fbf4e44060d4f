"""Linear programmes with integers, solved by HiGHS: through `highspy` where it is installed (extra
`milp`), which stops as soon as the sign is known and always has a bound, else through scipy.

What counts is the solver's dual bound less its tolerances: unlike that of a linear programme it
cannot be recomputed from multipliers.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from torchproof.verify.clock import attended
from torchproof.verify.programme.draft import Programme
from torchproof.verify.programme.solve import LATE, NOTHING, STATUS, Answer, Status, least

GAP, DUAL = 1e-6, 1e-7  # HiGHS: absolute gap of a search; reduced costs that pass for zero

Enough = Callable[[float, float], bool]
"""From the bound and the value of the best point so far to whether the search may end."""


def least_integer(
    programme: Programme, c: np.ndarray, seconds: float = np.inf,
    enough: Enough = lambda bound, best: False,
) -> Answer:  # fmt: skip
    """The minimum of <c, v> over the programme, from below, as far as `seconds` go.

    scipy knows no `enough`, and has no bound where it found no point in time.
    """
    if not programme.integer.any():
        return least(programme, c, seconds)
    end = time.monotonic() + seconds
    solve = _scipy if _highspy() is None else _direct
    importlib.import_module("scipy.optimize")  # takes most of a second, the first time
    seconds = end - time.monotonic()
    if seconds <= 0:
        return NOTHING
    found = attended(partial(solve, programme, c, seconds, enough), seconds, LATE) or NOTHING
    sure = found.bound - tolerance(programme) if np.isfinite(found.bound) else -np.inf
    return found._replace(bound=sure, error=np.nan)


def tolerance(programme: Programme) -> float:
    """What the tolerances may add to a dual bound: the gap, and reduced costs within theirs that
    move through their boxes.
    """
    return float(GAP + DUAL * (programme.high - programme.low).sum())


def _scipy(programme: Programme, c: np.ndarray, seconds: float, enough: Enough) -> Answer:
    from scipy.optimize import Bounds, LinearConstraint, milp

    options = {"mip_rel_gap": 0.0} | ({} if seconds == np.inf else {"time_limit": float(seconds)})
    found = milp(
        c,
        integrality=programme.integer.astype(int),
        bounds=Bounds(programme.low, programme.high),
        constraints=LinearConstraint(programme.matrix, programme.least, programme.most),
        options=options,
    )
    status = STATUS.get(found.status, "failed")
    bound = found.mip_dual_bound if status in ("solved", "limit") else None
    return Answer(-np.inf if bound is None else float(bound), found.x, status)


def _direct(programme: Programme, c: np.ndarray, seconds: float, enough: Enough) -> Answer:
    import highspy

    solver = highspy.Highs()
    for option, value in {
        "output_flag": False, "mip_rel_gap": 0.0, "threads": 1, "time_limit": float(seconds),
    }.items():  # fmt: skip
        solver.setOptionValue(option, value)
    solver.passModel(_model(highspy, programme, c))

    def look(event: Any) -> None:
        seen = event.data_out
        if enough(seen.mip_dual_bound, seen.mip_primal_bound):
            event.interrupt()

    solver.cbMipInterrupt.subscribe(look)
    solver.run()
    ended, info = solver.getModelStatus(), solver.getInfo()
    kinds = highspy.HighsModelStatus
    statuses: dict[Any, Status] = {
        kinds.kOptimal: "solved", kinds.kTimeLimit: "limit", kinds.kInterrupt: "enough",
        kinds.kInfeasible: "infeasible",
    }  # fmt: skip
    status = statuses.get(ended, "failed")
    feasible = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    point = np.array(solver.getSolution().col_value) if feasible else None
    sure = status in ("solved", "enough", "limit")
    return Answer(info.mip_dual_bound if sure else -np.inf, point, status)


def _model(highspy: Any, programme: Programme, c: np.ndarray) -> Any:
    model, rows = highspy.HighsLp(), programme.matrix.tocsr()
    model.num_row_, model.num_col_ = rows.shape
    model.col_cost_, model.col_lower_, model.col_upper_ = c, programme.low, programme.high
    model.row_lower_, model.row_upper_ = programme.least, programme.most
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_, model.a_matrix_.index_ = rows.indptr, rows.indices
    model.a_matrix_.value_ = rows.data
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    model.integrality_ = [kinds[int(i)] for i in programme.integer]
    return model


def _highspy() -> Any:
    """The package, or None where it is absent or does not load."""
    try:
        import highspy
    except Exception:  # whatever a broken installation may raise
        return None
    return highspy
