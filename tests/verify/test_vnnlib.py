"""Hand-written properties of every form, with the cases they are."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from torchproof.verify.vnnlib import Case, parse_property, read_property, violated

DECLARED = "".join(f"(declare-const {v} Real)\n" for v in ("X_0", "X_1", "Y_0", "Y_1", "Y_2"))
BOX = "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 2))\n"
NETWORK = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,2]) (declare-output Y Real [3]))
"""
BOX_2 = "(assert (and (>= X[0,0] 0) (<= X[0,0] 1) (>= X[0, 1] -1) (<= X [0,1] 2)))\n"


def plain(case: Case) -> tuple[list[float], list[float], list[list[float]], list[float]]:
    return case.low.tolist(), case.high.tolist(), case.rows.tolist(), case.limits.tolist()


def one(formula: str) -> tuple[list[list[float]], list[float]]:
    """Rows and limits of the only case of a formula over the box."""
    (case,) = parse_property(f"{DECLARED}{BOX}(assert {formula})").cases
    assert (case.low.tolist(), case.high.tolist()) == ([0, -1], [1, 2])
    return case.rows.tolist(), case.limits.tolist()


def below(value: float) -> float:
    return math.nextafter(value, -math.inf)


@pytest.mark.parametrize(
    ("formula", "row", "limit"),
    [
        ("(<= Y_0 Y_1)", [1, -1, 0], 0.0),
        ("(>= Y_0 Y_1)", [-1, 1, 0], 0.0),
        ("(<= Y_0 1.5e-2)", [1, 0, 0], 0.015),
        ("(>= 2 Y_0)", [1, 0, 0], 2.0),
        ("(>= Y_0 2)", [-1, 0, 0], -2.0),
        ("(<= 2 Y_0)", [-1, 0, 0], -2.0),
        ("(< Y_0 1)", [1, 0, 0], below(1.0)),
        ("(> Y_0 1)", [-1, 0, 0], below(-1.0)),
        ("(< Y_0 Y_1)", [1, -1, 0], below(0.0)),
        ("(<= (+ Y_0 Y_1 3) (- Y_2 1))", [1, 1, -1], -4.0),
        ("(<= (* 2 Y_0) (* Y_1 -3.0 2))", [2, 6, 0], 0.0),
        ("(>= (- Y_0) (- Y_1 Y_2 4))", [1, 1, -1], 4.0),
        ("(<= (* 2 (+ Y_0 (* 3 (- Y_1 1)))) 0)", [2, 6, 0], 6.0),
        ("(<= (+ Y_0 Y_1) (+ Y_1 +.5))", [1, 0, 0], 0.5),
        ("(<= (* (+ 1 1) Y_2 (- 3 1)) 8.)", [0, 0, 4], 8.0),
    ],
)
def test_one_comparison(formula: str, row: list[float], limit: float) -> None:
    assert one(formula) == ([row], [limit])


def test_minus_zero_is_zero() -> None:
    rows, limits = one("(>= Y_0 -0.0)")
    assert rows == [[-1, 0, 0]] and str(limits) == "[0.0]"
    (case,) = parse_property(DECLARED + BOX.replace("X_0 0", "X_0 -0.0")).cases
    assert str(case.low.tolist()) == "[0.0, -1.0]"


def test_equalities_are_two_rows_and_differences_two_cases() -> None:
    for equal in ("=", "=="):
        assert one(f"({equal} Y_0 Y_1)") == ([[1, -1, 0], [-1, 1, 0]], [0, 0])
    found = parse_property(f"{DECLARED}{BOX}(assert (!= Y_0 1))")
    assert [plain(c)[2:] for c in found.cases] == [
        ([[1, 0, 0]], [below(1.0)]),
        ([[-1, 0, 0]], [below(-1.0)]),
    ]


def test_comments_and_spaces() -> None:
    text = f'; (assert (<= X_0 "\n{DECLARED};;\n{BOX}\t(assert(and(<= Y_0 1)(<= Y_1 2)));end ('
    (case,) = parse_property(text).cases
    assert plain(case)[2:] == ([[1, 0, 0], [0, 1, 0]], [1, 2])


def test_or_of_ands_in_the_order_of_the_file() -> None:
    text = "(assert (or (and (<= Y_0 Y_1) (<= Y_0 Y_2)) (and (>= Y_0 9)) (<= Y_1 8)))"
    found = parse_property(DECLARED + BOX + text)
    assert [plain(c)[2:] for c in found.cases] == [
        ([[1, -1, 0], [1, 0, -1]], [0, 0]),
        ([[-1, 0, 0]], [-9]),
        ([[0, 1, 0]], [8]),
    ]
    assert len(found.boxes()) == 1 and all(c.low is found.cases[0].low for c in found.cases)


def test_every_choice_at_every_or() -> None:
    text = "(assert (and (or (<= Y_0 1) (<= Y_0 2)) (<= Y_2 5) (or (<= Y_1 3) (<= Y_1 4))))"
    found = parse_property(DECLARED + BOX + text)
    limits = [sorted(c.limits.tolist()) for c in found.cases]
    assert limits == [[1, 3, 5], [1, 4, 5], [2, 3, 5], [2, 4, 5]]


def test_boxes_inside_a_disjunction_are_grouped() -> None:
    """As property 6 of ACAS Xu, in either order of the asserts."""
    left = "(and (>= X_0 0) (<= X_0 1) (>= X_1 0) (<= X_1 1))"
    right = "(and (>= X_0 2) (<= X_0 3) (>= X_1 0) (<= X_1 1))"
    boxes, outputs = f"(assert (or {left} {right}))", "(assert (or (<= Y_0 Y_1) (<= Y_0 Y_2)))"
    for text in (boxes + outputs, outputs + boxes):
        found = parse_property(DECLARED + text)
        groups = [[plain(c) for c in group] for group in found.boxes()]
        rows = [[[1, -1, 0]], [[1, 0, -1]]]
        assert groups == [
            [([0, 0], [1, 1], row, [0]) for row in rows],
            [([2, 0], [3, 1], row, [0]) for row in rows],
        ]


def test_bounds_are_intersected_and_scaled() -> None:
    text = "(assert (and (<= (* 2 X_0) 1) (>= (- X_1) -1) (<= (+ 1 X_0) 3) (< -1 X_1)))"
    (case,) = parse_property(DECLARED + BOX + text).cases
    assert plain(case)[:2] == ([0, math.nextafter(-1.0, 0.0)], [0.5, 1])


def test_a_scaled_bound_loses_no_float64() -> None:
    """The bound is the last float64 x for which factor * x <= limit, worked out exactly."""
    from fractions import Fraction

    rng = np.random.default_rng(0)
    for factor, limit in rng.uniform(-3, 3, (200, 2)).tolist():
        box = "(assert (<= -1e9 X_0 )) (assert (<= X_0 1e9)) (assert (= X_1 0))"
        for sign in ("<=", "<"):
            text = f"{DECLARED}{box}(assert ({sign} (* {factor!r} X_0) {limit!r}))"
            (case,) = parse_property(text).cases
            end = case.high[0] if factor > 0 else case.low[0]
            past = math.nextafter(end, math.copysign(math.inf, factor))
            inside, outside = (Fraction(factor) * Fraction(float(v)) for v in (end, past))
            exact = Fraction(limit)
            assert (inside <= exact < outside) if sign == "<=" else (inside < exact <= outside)


def test_rows_over_inputs() -> None:
    text = "(assert (<= (+ X_0 X_1) 1)) (assert (>= Y_0 (* 2 X_1)))"
    (case,) = parse_property(DECLARED + BOX + text).cases
    assert case.mixed is not None
    assert case.mixed.tolist() == [[1, 1], [0, 2]]
    assert plain(case)[2:] == ([[0, 0, 0], [-1, 0, 0]], [1, 0])


def test_infeasible_cases_are_left_out() -> None:
    text = "(assert (or (and (<= X_0 -1) (<= Y_0 1)) (<= Y_0 2) (and (<= 1 0) (<= Y_0 3))))"
    found = parse_property(DECLARED + BOX + text)
    assert [c.limits.tolist() for c in found.cases] == [[2]] and found.infeasible == 2
    none = parse_property(DECLARED + BOX + "(assert (> X_0 1))")
    assert none.trivial and none.infeasible == 1 and none.boxes() == ()
    assert "holds trivially" in str(none)
    assert not violated(none, [0.5, 0.0], [0, 0, 0])


def test_constants_and_repetitions() -> None:
    text = "(assert (<= 0 1)) (assert (<= Y_0 Y_0)) (assert (or (<= Y_0 1) (<= Y_0 1) (< 2 2)))"
    found = parse_property(DECLARED + BOX + text)
    assert [plain(c)[2:] for c in found.cases] == [([[1, 0, 0]], [1])] and found.infeasible == 1


def test_a_box_alone_is_violated_everywhere() -> None:
    found = parse_property(DECLARED + BOX)
    assert found.cases[0].rows.shape == (0, 3)
    assert violated(found, [0.5, 0], [7, 8, 9]) and not violated(found, [1.5, 0], [7, 8, 9])


def test_like_brackets_inside_each_other_are_flat() -> None:
    text = "(assert (and (and (<= Y_0 1) (and (<= Y_1 2))) (or (or (<= Y_2 3)) (or (<= Y_2 4)))))"
    found = parse_property(DECLARED + BOX + text)
    assert [c.limits.tolist() for c in found.cases] == [[1, 2, 3], [1, 2, 4]]


def test_version_2() -> None:
    text = "(assert (or (<= Y[0] Y[2]) (> (+ Y[1] X[0,1]) -0.5)))"
    found = parse_property(NETWORK + BOX_2 + text)
    assert (found.inputs, found.outputs) == (2, 3) and found.tensors is not None
    assert [t.header for t in found.tensors] == ["X float32 [1,2]", "Y Real [3]"]
    first, second = found.cases
    assert plain(first) == ([0, -1], [1, 2], [[1, 0, -1]], [0])
    assert plain(second)[2:] == ([[0, -1, 0]], [below(0.5)])
    assert second.mixed is not None and second.mixed.tolist() == [[0, -1]]


def test_version_2_counts_in_c_order_and_knows_scalars() -> None:
    text = """(vnnlib-version <2.0>)
    (declare-network f (declare-input in float64 [2,1, 3] "image") (declare-output out real []))
    (assert (<= out 1))"""
    text += "".join(f"(assert (= in[{i},0,{j}] {10 * i + j}))" for i in range(2) for j in range(3))
    found = parse_property(text)
    assert found.cases[0].low.tolist() == [0, 1, 2, 10, 11, 12] and found.outputs == 1
    assert found.tensors is not None and found.tensors[0].element(4) == "in[1,0,1]"


def test_files_packed_and_plain(tmp_path: Path) -> None:
    text = DECLARED + BOX + "(assert (<= Y_0 1))"
    (tmp_path / "p.vnnlib").write_text("\ufeff" + text.replace("\n", "\r\n"), encoding="utf-8")
    (tmp_path / "p.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("p.vnnlib", "p.vnnlib.gz"):
        found = read_property(tmp_path / name)
        assert str(found) == "2 inputs, 3 outputs, 1 cases over 1 boxes"


def test_tolerances() -> None:
    found = parse_property(DECLARED + BOX + "(assert (< Y_0 Y_1))")
    assert not violated(found, [0, 0], [1, 1, 0]) and violated(found, [0, 0], [1, 1 + 1e-15, 0])
    assert violated(found, [0, 0], [1, 1, 0], output_atol=1e-9)
    assert not violated(found, [1 + 1e-5, 0], [0, 1, 0])
    assert violated(found, np.array([[1 + 1e-5], [0]]), [[0, 1, 0]], input_atol=1e-4)
    assert not violated(found, [0, 0], [math.nan, 1, 0], output_atol=1e9)
    assert found.cases[0].beyond(np.array([3.0, 0.0]), np.array([5.0, 1.0, 0.0])) == (2, 4)


def test_arrays_cannot_be_written_to() -> None:
    (case,) = parse_property(DECLARED + BOX + "(assert (< Y_0 X_1))").cases
    for array in (case.low, case.high, case.rows, case.limits, case.mixed):
        assert array is not None and array.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "certification" / "vnnlib.md"
    code = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    exec(compile(code, page.name, "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("2 inputs, 3 outputs, 2 cases over 1 boxes\n[[ 1. -1.  0.]]")
    assert "True\n((X_0 0.2)\n(X_1 0.0)\n" in printed
