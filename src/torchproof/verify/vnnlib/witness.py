"""Result files: a verdict, and the point that violates the property.

First line sat, unsat, unknown, timeout or error; after `sat` the witness, for VNN-LIB 1.0 as in
VNN-COMP, ((X_0 v) (X_1 v) ... (Y_0 v) ...), for 2.0 every tensor as it is declared with one value
in each line after it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from torchproof.core.errors import FileError, InputError
from torchproof.core.files import write
from torchproof.verify.vnnlib.case import Property, Vector, flat
from torchproof.verify.vnnlib.names import Tensor
from torchproof.verify.vnnlib.reader import number
from torchproof.verify.vnnlib.text import Wrong, read_text, short, tokens

VERDICTS = ("sat", "unsat", "unknown", "timeout", "error")
"""sat: the property is violated, unsat: it holds."""

_HEADER = re.compile(r"(\S+)\s+(\S+)\s*\[([^\]]*)\]")
_REMEDY = "write it with write_result, or correct the file"


@dataclass(frozen=True, eq=False)
class Witness:
    """A point x (n,) that violates a property, and y (K,), what the network answered; float64."""

    x: Vector
    y: Vector

    @classmethod
    def of(cls, property: Property, x: ArrayLike, y: ArrayLike) -> Witness:
        """A witness of arrays of any shape; raises InputError for other sizes, and for nan or
        infinite inputs.
        """
        point = flat(x, property.inputs, "inputs")
        if not np.isfinite(point).all():
            remedy = "check where the point comes from"
            raise InputError("a witness that is not finite", "finite inputs", remedy)
        return cls(point, flat(y, property.outputs, "outputs"))


@dataclass(frozen=True)
class Result:
    """A verdict of VERDICTS, with the witness of `sat` where it was given."""

    verdict: str
    witness: Witness | None = None


def write_result(
    path: str | os.PathLike[str], property: Property, verdict: str, witness: Witness | None = None
) -> None:
    """Writes a result file, whole or not at all, with every digit of the witness.

    Raises InputError for a verdict that is none, for `sat` without a witness and a witness without
    `sat`; FileError where the file cannot be written.
    """
    if verdict not in VERDICTS or (verdict == "sat") != (witness is not None):
        given = f"the verdict {verdict!r} {'with' if witness else 'without'} a witness"
        expected = f"one of {', '.join(VERDICTS)}, and a witness with sat alone"
        raise InputError(given, expected, "give the point that violates the property with sat")
    body = "" if witness is None else witness_text(property, witness)
    write(Path(path), f"{verdict}\n{body}".encode())


def witness_text(property: Property, witness: Witness) -> str:
    """The witness as it stands in a result file."""
    lines: list[str] = []
    parts = (witness.x.tolist(), witness.y.tolist())
    if property.tensors is None:
        for letter, values in zip("XY", parts, strict=True):
            lines += [f"({letter}_{i} {value!r})" for i, value in enumerate(values)]
        return "(" + "\n".join(lines) + ")\n"
    for tensor, values in zip(property.tensors, parts, strict=True):
        lines += [tensor.header, *map(repr, values)]
    return "\n".join(lines) + "\n"


def read_result(path: str | os.PathLike[str], property: Property) -> Result:
    """The verdict of a result file, with its witness.

    A file that starts with a bracket is a witness alone, and means sat. Raises FileError for what
    is no such file or has another number of variables than the property.
    """
    text = read_text(Path(path))
    first, _, rest = text.lstrip().partition("\n")
    verdict = first.strip()
    if verdict.startswith("("):
        verdict, rest = "sat", text
    if verdict not in VERDICTS:
        given = f"{path}, which starts with {short(verdict)!r}"
        raise FileError(given, " or ".join(VERDICTS), _REMEDY)
    if verdict != "sat" or not rest.strip():
        return Result(verdict)
    tensors = property.tensors
    try:
        return Result(verdict, _flat(rest, property) if tensors is None else _lines(rest, tensors))
    except Wrong as wrong:
        raise wrong.about(str(path)) from None


def _flat(text: str, property: Property) -> Witness:
    """The witness ((X_0 v) ... (Y_0 v) ...)."""
    words = [word for word, _ in tokens(text)]
    names = [f"X_{i}" for i in range(property.inputs)]
    names += [f"Y_{i}" for i in range(property.outputs)]
    entries = words[1:-1]
    whole = words[:1] == ["("] and words[-1:] == [")"] and len(entries) == 4 * len(names)
    if not whole or set(entries[::4]) != {"("} or set(entries[3::4]) != {")"}:
        given = f"a witness of {len(entries) // 4} variables, or not in brackets"
        raise Wrong(given, f"((X_0 v) ... (Y_0 v) ...), {len(names)} variables", _REMEDY)
    for name, expected in zip(entries[1::4], names, strict=True):
        if name != expected:
            raise Wrong(f"{short(name)!r} in a witness", f"{expected} there", _REMEDY)
    values = np.array([number(word) for word in entries[2::4]])
    return Witness(values[: property.inputs], values[property.inputs :])


def _lines(text: str, tensors: tuple[Tensor, Tensor]) -> Witness:
    """The witness of VNN-LIB 2.0, section 5.3: a header and one value in each line after it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    parts: list[Vector] = []
    for tensor in tensors:
        match = _HEADER.fullmatch(lines[0]) if lines else None
        shape = [side.strip() for side in match[3].split(",") if side.strip()] if match else []
        if match is None or match[1] != tensor.name or shape != [str(s) for s in tensor.shape]:
            given = f"{short(lines[0])!r} in a witness" if lines else "a witness that ends early"
            raise Wrong(given, f"{tensor.header!r} there", _REMEDY)
        values = lines[1 : 1 + tensor.size]
        if len(values) < tensor.size:
            given = f"{len(values)} values of {tensor.header}"
            raise Wrong(given, f"{tensor.size:,}", _REMEDY)
        parts.append(np.array([number(value) for value in values]))
        lines = lines[1 + tensor.size :]
    if lines:
        raise Wrong(f"{short(lines[0])!r} after the witness", "the end of the file", _REMEDY)
    return Witness(*parts)
