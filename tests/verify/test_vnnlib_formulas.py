"""Random formulas against their direct evaluation, at points where equalities happen."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchproof.verify.vnnlib import parse_property, violated

HEADS = ("<=", ">=", "<", ">", "==", "!=")


def some_term(rng: np.random.Generator, depth: int) -> Any:
    kind = rng.integers(6 if depth else 3)
    if kind == 0:
        return int(rng.integers(-3, 4))
    if kind < 3:
        return f"{'XY'[kind - 1]}_{rng.integers(2)}"
    if kind == 3:
        constant, term = int(rng.integers(-2, 3)), some_term(rng, depth - 1)
        return ("*", constant, term) if rng.integers(2) else ("*", term, constant)
    parts = [some_term(rng, depth - 1) for _ in range(rng.integers(1, 4))]
    return ("+-"[kind - 4], *parts)


def some_formula(rng: np.random.Generator, depth: int) -> Any:
    kind = rng.integers(3) if depth else 0
    if kind == 0:
        head = HEADS[rng.choice(6, p=[0.3, 0.3, 0.12, 0.12, 0.08, 0.08])]
        return (head, some_term(rng, 2), some_term(rng, 1))
    return (
        ("and", "or")[kind - 1],
        *(some_formula(rng, depth - 1) for _ in range(rng.integers(1, 4))),
    )


def written(tree: Any) -> str:
    return f"({' '.join(map(written, tree))})" if isinstance(tree, tuple) else str(tree)


def value(tree: Any, at: dict[str, float]) -> float:
    if not isinstance(tree, tuple):
        return at[tree] if isinstance(tree, str) else tree
    parts = [value(part, at) for part in tree[1:]]
    if tree[0] == "*":
        return float(np.prod(parts))
    if tree[0] == "+":
        return sum(parts)
    return -parts[0] if len(parts) == 1 else parts[0] - sum(parts[1:])


def holds(tree: Any, at: dict[str, float]) -> bool:
    head, *parts = tree
    if head == "and":
        return all(holds(part, at) for part in parts)
    if head == "or":
        return any(holds(part, at) for part in parts)
    a, b = (value(part, at) for part in parts)
    return {"<=": a <= b, ">=": a >= b, "<": a < b, ">": a > b, "==": a == b, "!=": a != b}[head]


def test_random_formulas_agree_with_direct_evaluation() -> None:
    rng = np.random.default_rng(6)
    declared = "".join(f"(declare-const {v} Real)" for v in ("X_0", "X_1", "Y_0", "Y_1"))
    box = ("and", *((s, f"X_{i}", b) for i in range(2) for s, b in ((">=", -2), ("<=", 2))))
    seen, cases, mixed = {True: 0, False: 0}, 0, 0
    for _ in range(400):
        tree = some_formula(rng, 3)
        asserts = [box, tree] if rng.integers(2) else [tree, box]
        found = parse_property(declared + "".join(f"(assert {written(t)})" for t in asserts))
        cases += len(found.cases)
        mixed += any(case.mixed is not None for case in found.cases)
        for x0, x1, y0, y1 in rng.integers(-3, 4, (40, 4)).tolist():
            at = {"X_0": x0, "X_1": x1, "Y_0": y0, "Y_1": y1}
            expected = holds(box, at) and holds(tree, at)
            assert violated(found, [x0, x1], [y0, y1]) == expected, (written(tree), at)
            seen[expected] += 1
    assert min(seen.values()) > 2000 and cases > 800 and mixed > 50
