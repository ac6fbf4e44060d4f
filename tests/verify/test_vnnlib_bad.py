"""Bad properties: a clear error soon, whatever the size, and never a crash."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from torchproof.core.errors import FileError, InputError
from torchproof.verify.clock import OutOfTime, limit
from torchproof.verify.vnnlib import parse_property, read_property, violated

DECLARED = "".join(f"(declare-const {v} Real)\n" for v in ("X_0", "X_1", "Y_0", "Y_1", "Y_2"))
BOX = "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 2))\n"
TEN = f"{DECLARED}{BOX}"
INPUT, OUTPUT = "(declare-input X float32 [1,2])", "(declare-output Y float32 [3])"


def network(inside: str, rest: str = "(assert (<= Y[0] 1))") -> str:
    return f"(vnnlib-version <2.0>)(declare-network f {inside}){rest}"


@contextmanager
def soon() -> Iterator[None]:
    """What takes a moment here; work that grows with the square of these sizes takes minutes."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 10.0


NO_VNNLIB = {
    f"{TEN}(assert (<= Y_0 Y_7))": "line 7: 'Y_7', which is no number and no declared",
    f"{TEN}(assert (<= Y_0 alpha))": "'alpha'",
    f"{TEN}(assert (<= Y_0 nan))": "'nan'",
    f"{TEN}(assert (<= Y_0 1e999))": "the number '1e999'",
    f"{TEN}(assert (<= Y_0 1_0))": "the number '1_0'",
    f"{TEN}(assert (<= Y_0 -inf))": "the number '-inf'",
    f"{TEN}(assert (<= Y_0 {'9' * 10**6}))": r"the number '9+\.\.\.'",
    f"{TEN}(assert (<= Y_0 (* 1e300 1e300)))": "beyond float64",
    f"{TEN}(assert (<= (* 1e-320 X_0) 1))": "beyond float64",
    f"{TEN}(assert (<= Y_0 1)": "ends inside 1 open bracket",
    f"{TEN}(assert (<= Y_0 1))(": "ends inside 1 open bracket",
    f"{TEN}(assert (<= Y_0 1))))": "a closing bracket too many",
    f"{TEN}(assert (<= Y_0 1) (<= Y_1 1))": "`assert` of 2 formulas",
    f"{TEN}(assert)": "`assert` of 0 formulas",
    f"{TEN}(assert (and))": "`and` of 0 formulas",
    f"{TEN}(assert (or (and) (<= Y_0 1)))": "`and` of 0 formulas",
    f"{TEN}(assert (<= Y_0))": "`<=` of 1 terms",
    f"{TEN}(assert (<= 0 Y_0 1))": "`<=` of 3 terms",
    f"{TEN}(assert (<= (+) 1))": "`[+]` of nothing",
    f"{TEN}(assert Y_0)": "'Y_0' outside a comparison",
    f"{TEN}(assert (+ Y_0 1))": "`[+]` opened inside `assert`",
    f"{TEN}(assert (<= (and Y_0) 1))": "`and` opened inside `<=`",
    f"{TEN}(assert ((<= Y_0 1)))": "`[(]` opened inside `assert`",
    f"{TEN}(assert (<= Y_0 [1] 1))": "no declared variable",
    f"{TEN}(check-sat)": "`check-sat` opened at the outermost level",
    f"{TEN}word": "'word' outside a comparison",
    "(declare-const X_0 Real)(assert (<= X_0 1))": "no declared output",
    "(declare-const X_0 Real)(declare-const X_2 Real)(declare-const Y_0 Real)(assert (<= 0 1))": (
        "2 variables X_i without X_1"
    ),
    f"{TEN}(declare-const X_0 Real)": "X_0 declared twice",
    "(declare-const Z_0 Real)": "a variable named 'Z_0'",
    "(declare-const X_01 Real)": "a variable named 'X_01'",
    f"(declare-const X_{'9' * 5000} Real)": r"a variable named 'X_9+\.\.\.'",
    "(declare-const X_0)": "a declaration of 1 words",
    DECLARED: "without an assert",
    "; nothing but a comment": "no declared input",
    "\0\x01\x02": "outside a comparison",
    network(f"{INPUT}{OUTPUT}", "(assert (<= Y[3] 1))"): r"Y\[3\], where Y float32 \[3\]",
    network(f"{INPUT}{OUTPUT}", "(assert (<= X[1] 1))"): r"X\[1\], where X float32 \[1,2\]",
    network(f"{INPUT}{OUTPUT}", "(assert (<= X[-1,0] 1))"): "numbers",
    network(f"{INPUT}{OUTPUT}", "(assert (<= X 1))"): "X, where",
    network(f"{INPUT}{OUTPUT}", "(assert (<= Z[0] 1))"): "no declared variable",
    network(f"{INPUT}(declare-output X float32 [3])"): "both named 'X'",
    network(f"{INPUT}{OUTPUT}", "(declare-const X_0 Real)"): "X_0 beside a network",
    network("(declare-input X float32)"): "a tensor declared as 'X float32'",
    network("(declare-input X float32 [1,a])"): "numbers",
}

NOT_SUPPORTED = {
    f"{TEN}(assert (<= (* Y_0 X_0) 1))": "line 7: a nonlinear term",
    f"{TEN}(assert (<= (* Y_0 Y_0) 1))": "a nonlinear term",
    f"{TEN}(assert (<= (/ Y_0 2) 1))": "`/` inside `<=`",
    f"{TEN}(assert (not (<= Y_0 1)))": "`not` inside `assert`",
    "(declare-const X_0 Int)": "X_0 of the sort 'Int'",
    "(declare-fun X_0 () Real)": "`declare-fun`",
    f"{DECLARED}(assert (<= Y_0 1))": "2 inputs without bound in a case: X_0, X_1",
    f"{DECLARED}(assert (<= X_0 1))(assert (<= X_1 1))": "2 inputs without lower bound",
    f"{DECLARED}(assert (or {BOX.replace('(assert', '').replace('))', ')')}))": "without",
    network(f"{INPUT}{OUTPUT}"): r"2 inputs without bound in a case: X\[0,0\], X\[0,1\]",
    network(f'{INPUT}(declare-hidden H float32 [4] "h"){OUTPUT}'): "`declare-hidden`",
    network(f"(equal-to g){INPUT}{OUTPUT}"): "`equal-to`",
    network(f"(isomorphic-to g){INPUT}{OUTPUT}"): "`isomorphic-to`",
    network(f"{INPUT}{INPUT}{OUTPUT}"): "2 inputs and 1 outputs",
    network(f"{INPUT}{OUTPUT}", f"(declare-network g {INPUT}{OUTPUT})"): "a second network",
    f"{DECLARED}{network(INPUT + OUTPUT)}": "a network beside variables",
    network(f"(declare-input X int8 [2]){OUTPUT}"): "X with elements of int8",
    network(f"(declare-input X float32 [2] initialized){OUTPUT}"): "`initialized`",
    network(f"(declare-input X float32 [99999,99999]){OUTPUT}"): "9,999,800,001 variables",
    network(f"(declare-input X float32 [0]){OUTPUT}"): "a tensor of no elements",
    "(vnnlib-version <3.0>)": "version '<3.0>'",
}


@pytest.mark.parametrize("text", NO_VNNLIB, ids=lambda text: text[-60:])
def test_a_text_that_is_no_vnnlib(text: str) -> None:
    with soon(), pytest.raises(FileError, match=NO_VNNLIB[text]) as caught:
        parse_property(text, "bad.vnnlib")
    assert "bad.vnnlib, line" in str(caught.value)


@pytest.mark.parametrize("text", NOT_SUPPORTED, ids=lambda text: text[-60:])
def test_what_is_not_supported_is_named(text: str) -> None:
    with soon(), pytest.raises(InputError, match=NOT_SUPPORTED[text]):
        parse_property(text, "bad.vnnlib")


def test_too_many_cases() -> None:
    choice = "(assert (or (<= Y_0 1) (<= Y_1 1) (<= Y_2 1)))"
    with soon(), pytest.raises(InputError, match="more cases than can be listed"):
        parse_property(TEN + 9 * choice + "(assert (or" + 20 * "(<= Y_0 1)" + "))")
    with soon(), pytest.raises(InputError, match="more comparisons than can be listed"):
        parse_property(TEN + 11 * choice)
    assert len(parse_property(TEN + 3 * choice).cases) == 27


def test_too_many_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = "(assert (or" + "".join(f"(<= Y_0 {i})" for i in range(200)) + "))"
    assert len(parse_property(TEN + choice).cases) == 200
    monkeypatch.setattr("torchproof.verify.vnnlib.expand.MOST_NUMBERS", 500)
    with soon(), pytest.raises(InputError, match="more memory"):
        parse_property(TEN + choice)


DEEP = 100_000


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        (DEEP * "(and " + "(<= Y_0 1)" + DEEP * ")", [1]),
        (DEEP * "(or " + "(<= Y_0 1)" + DEEP * ")", [1]),
        (DEEP // 50 * "(or (and " + "(<= Y_0 1)" + DEEP // 25 * ")", [1]),
        ("(<= " + 10_000 * "(+ 1 " + "Y_0" + 10_000 * ")" + " 1)", [-9_999]),
        ("(<= " + 10_000 * "(- " + "Y_0" + 10_000 * ")" + " 1)", [1]),
        ("(<= " + 10_000 * "(* -1 " + "Y_0" + 10_000 * ")" + " 1)", [1]),
    ],
)
def test_depth_does_not_matter(text: str, limits: list[float]) -> None:
    found = parse_property(f"{TEN}(assert {text})")
    assert [c.limits.tolist() for c in found.cases] == [limits]
    assert violated(found, [0, 0], [-DEEP, 0, 0])


@pytest.mark.parametrize(
    "text",
    [
        DEEP * "(",
        DEEP * ")",
        "(assert " + DEEP * "(and ",
        DEEP * "(assert ",
        "(assert " + DEEP * "(<= ",
        "(assert " + DEEP // 2 * "(and (<= Y_0 1) (or (<= Y_1 2) " + "(<= Y_0 1)" + DEEP * ")",
        "(assert " + DEEP // 2 * "(or (and " + "(<= Y_0 1)" + DEEP * ")",
        "(assert " + 4000 * "(and (<= Y_0 1) (or (<= Y_1 2) " + "(<= Y_0 1)" + 8000 * ")",
        "(assert (<= " + DEEP * "(+ 1 ",
        "(assert (<= " + DEEP * "(- " + "Y_0" + DEEP * ")" + " 1))",
        "(assert " + 2 * DEEP * "(and ",
    ],
)
def test_deep_nonsense_is_refused(text: str) -> None:
    with soon(), pytest.raises((FileError, InputError)):
        parse_property(TEN + text)


MANY = 9_000
WIDE = " ".join(f"Y_{i}" for i in range(MANY))
TOWERS = {
    "sum": "".join(f"(+ Y_{i} " for i in range(MANY)) + "0" + MANY * ")",
    "difference": "".join(f"(- Y_{i} " for i in range(MANY)) + "0" + MANY * ")",
    "product": f"(* (+ {WIDE})" + MANY * " -1" + ")",
    "products": MANY * "(* 1 " + f"(+ {WIDE})" + MANY * ")",
}


@pytest.mark.parametrize("tower", TOWERS)
def test_what_takes_quadratic_time_is_refused_before_it_does(tower: str) -> None:
    declared = "".join(f"(declare-const Y_{i} Real)" for i in range(MANY))
    text = f"(declare-const X_0 Real){declared}(assert (= X_0 0))"
    with soon(), pytest.raises(InputError, match="sums so deep"):
        parse_property(f"{text}(assert (<= {TOWERS[tower]} 1))")
    assert parse_property(f"{text}(assert (<= (+ {WIDE}) 1))").cases[0].rows.all()


def test_declarations_without_end() -> None:
    for start in ("(declare-const X_0", "(vnnlib-version", "(declare-network f (declare-input X"):
        with soon(), pytest.raises(FileError, match="more than 64 words"):
            parse_property(start + 10**6 * " a")
    with soon(), pytest.raises(InputError, match="more than 64 tensors"):
        parse_property("(declare-network f " + 10**5 * INPUT)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    good = gzip.compress((TEN + "(assert (<= Y_0 1))").encode())
    contents = {
        "cut.vnnlib.gz": good[:-20],
        "head.vnnlib.gz": good[:5],
        "damaged.vnnlib.gz": good[:40] + bytes(20) + good[60:],
        "plain.vnnlib.gz": TEN.encode(),
        "empty.vnnlib.gz": b"",
        "nothing.vnnlib.gz": gzip.compress(b""),
        "empty.vnnlib": b"",
        "blank.vnnlib": b" \n\n",
        "packed.vnnlib": good,
        "folder.vnnlib": None,
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.mkdir() if content is None else path.write_bytes(content)
        with soon(), pytest.raises(FileError, match=name):
            read_property(path)
    with soon(), pytest.raises(FileError, match="missing"):
        read_property(tmp_path / "missing.vnnlib")


def test_a_small_file_that_unpacks_to_a_huge_one(tmp_path: Path) -> None:
    path = tmp_path / "bomb.vnnlib.gz"
    block = gzip.compress(bytes(2**24))
    path.write_bytes(block * 9)
    assert path.stat().st_size < 2**18
    with soon(), pytest.raises(FileError, match="more than 134,217,728 bytes"):
        read_property(path)


def test_reading_ends_with_a_limit_on_time() -> None:
    with limit(0.0), pytest.raises(OutOfTime):
        parse_property(TEN + "(assert (<= Y_0 0))" * 1000 + "(")  # not at its end, which is wrong
