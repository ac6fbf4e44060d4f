"""Constructor expressions build what they say, and can run nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from torchproof.core.errors import InputError, TorchproofError, UnknownName
from torchproof.core.expression import parse


@dataclass(frozen=True)
class Inner:
    threat: str
    beta: float = 6.0
    steps: Any = ()


@dataclass(frozen=True)
class Outer:
    method: Any
    gamma: float = 0.01


NAMES = {"TRADES": Inner, "AWP": Outer, "small-cnn": lambda width=8: ("cnn", width), "zero": 0}
T = "linf:8/255"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TRADES", Inner(T)),
        ("trades", Inner(T)),
        ("TRADES()", Inner(T)),
        ("  TRADES(beta=1)\n", Inner(T, 1)),
        ("TRADES(2.5)", Inner(T, 2.5)),
        ("TRADES(8/255)", Inner(T, 8 / 255)),
        ("TRADES(-1 + 2 * 3 - 4 / 2)", Inner(T, 3.0)),
        ("TRADES(beta=1e-3, steps=(1, 2))", Inner(T, 1e-3, (1, 2))),
        ("TRADES(steps=[1, 2])", Inner(T, 6.0, (1, 2))),
        ("TRADES(steps={'a': 1, 'b': {2: (3,)}})", Inner(T, 6.0, {"a": 1, "b": {2: (3,)}})),
        ("TRADES(threat='l2:1')", Inner("l2:1")),
        ("AWP(TRADES(beta=6), gamma=0.005)", Outer(Inner(T, 6), 0.005)),
        ("AWP(TRADES, 0.005)", Outer(Inner(T), 0.005)),
        ("awp(method=awp(trades))", Outer(Outer(Inner(T)))),
        ("small-cnn", ("cnn", 8)),
        ("small_cnn(width=4)", ("cnn", 4)),
        ("zero", 0),
    ],
)
def test_expressions_build_what_they_say(text: str, expected: Any) -> None:
    assert parse(text, NAMES, threat=T) == expected


@pytest.mark.parametrize(
    "text",
    [
        "TRADES.__class__",
        "TRADES().__init__",
        "TRADES.__class__.__mro__[1].__subclasses__()",
        "().__class__",
        "'a'.join(('b', 'c'))",
        "lambda: 0",
        "(lambda: TRADES)()",
        "[x for x in (1, 2)]",
        "{x for x in (1, 2)}",
        "{x: 1 for x in (1, 2)}",
        "{TRADES: 1}",
        "{'a': 1, 'a': 2}",
        "{**TRADES}",
        "{(1, 2): 3}",
        "(x for x in (1, 2))",
        "TRADES(beta=[x for x in (1,)])",
        "AWP(lambda: 0)",
        "import os",
        "__import__('os')",
        "__import__('os').system('true')",
        "eval('1')",
        "exec('1')",
        "open('/etc/passwd')",
        "getattr(TRADES, 'beta')",
        "globals()",
        "__builtins__",
        "TRADES()()",
        "TRADES[0]",
        "(1, 2)[0]",
        "TRADES(beta := 3)",
        "(y := TRADES)",
        "TRADES if 1 else AWP",
        "TRADES or AWP",
        "not TRADES",
        "1 < 2",
        "f'{TRADES}'",
        "TRADES(*(1, 2))",
        "TRADES(**{'beta': 1})",
        "await TRADES",
        "yield 1",
        "TRADES; AWP",
        "TRADES\nAWP",
        "beta = 1",
        "2 ** 9",
        "9 % 4",
        "9 // 4",
        "1 << 9",
        "~1",
        "+TRADES",
        "-TRADES",
        "'a' + 'b'",
        "'a' * 9",
        "(1,) * 9",
        "True + 1",
        "-True",
        "TRADES(",
        "TRADES)",
        "",
        "   ",
        "AWP(TRADES gamma)",
        "TRADES(beta=)",
        "TRADES(1/0)",
        "TRADES(0/0.0)",
        "TRADES\0",
        "-" * 50_000 + "1",
        "(" * 50_000,
        "[" * 90 + "]" * 90 + "(",
        "TRADES(beta=1, beta=2)",
    ],
    ids=lambda t: repr(t)[:40],
)
def test_anything_but_names_calls_and_literals_is_refused(text: str) -> None:
    """With an error of ours that explains, not with one of Python's."""
    with pytest.raises(TorchproofError) as caught:
        parse(text, NAMES, threat=T)
    assert isinstance(caught.value, InputError | UnknownName)


def test_nothing_of_the_refused_expression_runs() -> None:
    ran: list[str] = []
    names = {"touch": lambda: ran.append("touch"), "AWP": Outer}
    for text in ("touch().x", "touch()[0]", "touch().x()"):
        with pytest.raises(InputError):
            parse(text, names)
    assert ran == []


@pytest.mark.parametrize(
    "text",
    [
        "TRADES(gamma=1)",
        "TRADES(1, 2, 3, 4)",
        "AWP()",
        "AWP(TRADES, 1, 2)",
        "AWP(gamma=1)",
        "TRADES(1, beta=2)",
    ],
)
def test_wrong_arguments_are_refused_with_the_signature(text: str) -> None:
    with pytest.raises(InputError, match=r"method|beta"):
        parse(text, NAMES, threat=T)


def test_a_missing_bound_parameter_is_an_input_error() -> None:
    with pytest.raises(InputError, match="threat"):
        parse("TRADES", NAMES)


def test_unknown_names_come_with_the_nearest_known_one() -> None:
    with pytest.raises(UnknownName, match="TRADES"):
        parse("TRADE(beta=6)", NAMES, threat=T)
    with pytest.raises(UnknownName, match="TRADES"):
        parse("AWP(TRADS)", NAMES, threat=T)


def test_errors_of_a_constructor_come_through() -> None:
    def fussy(eps: float) -> None:
        raise InputError("eps", "another", "change it")

    with pytest.raises(InputError, match="change it"):
        parse("fussy(1)", {"fussy": fussy})
