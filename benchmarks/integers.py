"""Whether searches with integers find the optimum: ours, and HiGHS's own, whose dual bound nothing
can check.

    python benchmarks/integers.py [--seeds 100] [--peer PATH]

Random ReLU networks of at most 24 neurons, the margin of one example over an Linf, L1, L0 or L2
set; each programme that `milp` asks about is given to every solver. The optimum is the least of
linear programmes (simplex), one for each choice of signs; programmes with more than 7 open signs
are left out. A bound above the optimum by more than 1e-5 would certify what does not hold. PATH:
where the package highspy is installed, for its release beside the one in scipy.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
import sys
from collections.abc import Callable
from time import process_time
from typing import Any

import numpy as np
import scipy
import torch
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from tables import facts, markdown, store
from torch import nn

from torchproof.core.threats import parse
from torchproof.verify import milp as asking
from torchproof.verify.programme import Answer, Programme, least_integer

SIZES = ((4, 8, 2), (9, 12, 2), (6, 8, 6, 2), (8, 8, 8, 2))
THREATS = ("linf:0.2", "l1:0.7", "l0:2", "l2:0.4")
MOST, WRONG = 7, 1e-5

Solver = Callable[[Programme, np.ndarray], float]


def by_scipy(presolve: bool) -> Solver:
    def solve(programme: Programme, c: np.ndarray) -> float:
        rows = LinearConstraint(programme.matrix, programme.least, programme.most)
        found = milp(
            c, integrality=programme.integer.astype(int), constraints=rows,
            bounds=Bounds(programme.low, programme.high),
            options={"mip_rel_gap": 0.0, "presolve": presolve},
        )  # fmt: skip
        return float(found.mip_dual_bound)

    return solve


def by_highspy(package: Any, presolve: str) -> Solver:
    def solve(programme: Programme, c: np.ndarray) -> float:
        solver, model, rows = package.Highs(), package.HighsLp(), programme.matrix.tocsr()
        for option, value in {
            "output_flag": False, "mip_rel_gap": 0.0, "threads": 1, "presolve": presolve,
        }.items():  # fmt: skip
            solver.setOptionValue(option, value)
        model.num_row_, model.num_col_ = rows.shape
        model.col_cost_, model.col_lower_, model.col_upper_ = c, programme.low, programme.high
        model.row_lower_, model.row_upper_ = programme.least, programme.most
        model.a_matrix_.format_ = package.MatrixFormat.kRowwise
        model.a_matrix_.start_, model.a_matrix_.index_ = rows.indptr, rows.indices
        model.a_matrix_.value_ = rows.data
        kinds = (package.HighsVarType.kContinuous, package.HighsVarType.kInteger)
        model.integrality_ = [kinds[int(i)] for i in programme.integer]
        solver.passModel(model)
        solver.run()
        return float(solver.getInfo().mip_dual_bound)

    return solve


def solvers(peer: str | None) -> dict[str, Solver]:
    from scipy.optimize._highspy import _core

    parts = (_core.HIGHS_VERSION_MAJOR, _core.HIGHS_VERSION_MINOR, _core.HIGHS_VERSION_PATCH)
    own = f"HiGHS {'.'.join(map(str, parts))} (scipy {scipy.__version__})"
    found: dict[str, Solver] = {
        "torchproof": lambda programme, c: least_integer(programme, c).bound,
        own: by_scipy(True), f"{own}, no presolve": by_scipy(False),
    }  # fmt: skip
    if peer is not None:
        sys.path.insert(0, peer)
        package = importlib.import_module("highspy")
        name = f"HiGHS {package.Highs().version()} (highspy)"
        found |= {
            name: by_highspy(package, "on"),
            f"{name}, no presolve": by_highspy(package, "off"),
        }
    return found


def optimum(programme: Programme, c: np.ndarray) -> float:
    """Over every choice of the integers."""
    places, ties, best = np.flatnonzero(programme.integer), programme.ties, np.inf
    parts = {"A_ub": programme.matrix[~ties], "b_ub": programme.most[~ties]}
    if ties.any():
        parts |= {"A_eq": programme.matrix[ties], "b_eq": programme.most[ties]}
    for signs in itertools.product((0.0, 1.0), repeat=len(places)):
        low, high = programme.low.copy(), programme.high.copy()
        low[places] = high[places] = signs
        found = linprog(c, bounds=np.stack([low, high], 1), method="highs-ds", **parts)
        best = min(best, found.fun if found.status == 0 else np.inf)
    return float(best)


def network(seed: int, sizes: tuple[int, ...]) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double().eval(), torch.rand(1, 1, 1, sizes[0]).double()


def programmes(seed: int, sizes: tuple[int, ...], threat: str) -> list[tuple[Programme, Any]]:
    """Those that `milp` asks about."""
    asked: list[tuple[Programme, Any]] = []

    def noted(programme: Programme, c: np.ndarray, seconds: float = np.inf) -> Answer:
        asked.append((programme, c))
        return least_integer(programme, c, seconds)

    model, x = network(seed, sizes)
    asking.least_integer = noted  # type: ignore[attr-defined]
    asking.milp_margins(model, x, model(x).argmax(1), parse(threat))
    return [(p, c) for p, c in asked if 0 < p.integer.sum() <= MOST]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--peer")
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = solvers(args.peer)
    off: dict[tuple[str, str], list[float]] = {}
    spent: dict[tuple[str, str], list[float]] = {}
    for seed, threat in itertools.product(range(args.seeds), THREATS):
        for programme, c in (pair for sizes in SIZES for pair in programmes(seed, sizes, threat)):
            best = optimum(programme, c)
            for name, solve in chosen.items():
                began = process_time()
                bound = solve(programme, c)
                spent.setdefault((threat, name), []).append(process_time() - began)
                off.setdefault((threat, name), []).append(bound - best)
    head = ["threat", "solver", "programmes", "above the optimum", "by at most", "median ms"]
    rows: list[list[Any]] = []
    for (threat, name), each in off.items():
        wrong = [value for value in each if value > WRONG]
        seconds = 1000 * statistics.median(spent[threat, name])
        rows.append([threat, name, len(each), len(wrong), max(wrong, default=0.0), seconds])
    record = {
        "facts": {**facts({"scipy": scipy.__version__}, {}), "dtype": "float64"},
        "rows": [dict(zip(head, row, strict=True)) for row in rows],
    }
    store("integers", record, markdown(head, rows))


if __name__ == "__main__":
    main()
