"""Constructor expressions such as `AWP(TRADES(beta=6), gamma=0.005)`: parsed with `ast`, never
evaluated as code.
"""

from __future__ import annotations

import ast
import inspect
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from torchproof.core.errors import InputError, TorchproofError, unknown

LONGEST = 2000  # characters of an expression

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def _canonical(name: str) -> str:
    return name.lower().replace("-", "_")


def _lookup(name: str, names: Mapping[str, Any]) -> Any:
    """Names are found whatever their case, with - or _."""
    for known, value in names.items():
        if _canonical(known) == _canonical(name):
            return value
    raise unknown("name", name, names)


def _joined(text: str, names: Mapping[str, Any]) -> str:
    """`text` with the hyphens of known names made underscores: `apgd-t(steps=50)` is no sum."""
    for name in names:
        if "-" in name:
            pattern = rf"(?<![\w-]){re.escape(name)}(?![\w-])"
            text = re.sub(pattern, _canonical(name), text, flags=re.IGNORECASE)
    return text


def parse(text: str, names: Mapping[str, Callable[..., Any]], **bound: Any) -> Any:
    """The object that `text` describes: a name of the table, or a call of one, nested, with
    literal arguments.

    A bare name is called without arguments. A parameter named in `bound` (`threat`, say) is filled
    in wherever a callable has it and the text does not give it. Fractions such as 8/255 are
    computed.

    >>> parse("pair(2, second=8/4)", {"pair": lambda first, second: (first, second)})
    (2, 2.0)

    Raises UnknownName for a name that is not in the table, InputError for anything but names,
    calls and literals, and for arguments that the callable does not take.
    """
    if _canonical(text.strip()) in map(_canonical, names):
        return _call(text.strip(), _lookup(text.strip(), names), [], {}, bound)
    try:
        if len(text) > LONGEST:
            raise SyntaxError(f"more than {LONGEST} characters")
        tree = ast.parse(_joined(text.strip(), names), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"expression {text[:200]!r}",
            "something like 'AWP(TRADES(beta=6), gamma=0.005)'",
            f"mend it: {error}",
        ) from None
    return _value(tree, text, names, bound)


def _value(node: ast.expr, text: str, names: Mapping[str, Any], bound: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return _call(name, _lookup(name, names), [], {}, bound)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return tuple(_value(p, text, names, bound) for p in parts)
        case ast.Dict(keys=keys, values=values):
            inside = [_value(v, text, names, bound) for v in values]
            words = [k.value for k in keys if isinstance(k, ast.Constant)]
            if len(words) == len(set(words)) == len(keys):
                return dict(zip(words, inside, strict=True))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand, text, names, bound)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            sides = (_number(side, text, names, bound) for side in (left, right))
            return _computed(node, type(op), *sides)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if all(
            k.arg for k in keywords
        ):
            given = [_value(a, text, names, bound) for a in args]
            named = {str(k.arg): _value(k.value, text, names, bound) for k in keywords}
            if len(named) < len(keywords):
                raise InputError(text, "each argument once", f"{name} gets one of them twice")
            return _call(name, _lookup(name, names), given, named, bound)
    raise InputError(
        f"{ast.unparse(node)!r} in expression {text!r}",
        "a known name, a call of one, a number, a string, a tuple or a table",
        "write it as a constructor expression",
    )


def _computed(node: ast.expr, op: type[ast.operator], left: float, right: float) -> float:
    try:
        value: float = _OPERATORS[op](left, right)
        return value
    except (ZeroDivisionError, OverflowError) as error:
        raise InputError(ast.unparse(node), "a number", f"correct it: {error}") from None


def _number(node: ast.expr, text: str, names: Mapping[str, Any], bound: Mapping[str, Any]) -> float:
    value = _value(node, text, names, bound)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InputError(
            f"{ast.unparse(node)!r} in {text!r}", "a number", "calculate with numbers only"
        )
    return value


def _call(
    name: str, function: Any, args: list[Any], named: dict[str, Any], bound: Mapping[str, Any]
) -> Any:
    if not callable(function):
        return function
    signature = inspect.signature(function)
    shared = [p for p in signature.parameters if p in bound and p not in named]
    filled = {p: bound[p] for p in shared}
    rest = [p for p in signature.parameters.values() if p.name not in filled]
    try:
        signature.replace(parameters=rest).bind(*args, **named)
    except TypeError as error:
        raise InputError(
            f"{name} with wrong arguments ({error})", f"{name}{signature}", "correct the call"
        ) from None
    # by name, because a bound parameter may stand before the given ones
    starred = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in rest)
    given = {} if starred else dict(zip((p.name for p in rest), args, strict=False))
    try:
        return function(*(args if starred else ()), **filled, **given, **named)
    except TorchproofError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        shown = ", ".join([*map(repr, args), *(f"{k}={v!r}" for k, v in named.items())])
        raise InputError(
            f"{name}({shown}), which fails ({error})", f"{name}{signature}", "correct the arguments"
        ) from error
