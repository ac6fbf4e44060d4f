"""Properties from files and texts."""

from __future__ import annotations

import os
from pathlib import Path

from torchproof.verify.vnnlib.case import Property
from torchproof.verify.vnnlib.expand import expand
from torchproof.verify.vnnlib.reader import read
from torchproof.verify.vnnlib.text import Wrong, read_text


def read_property(path: str | os.PathLike[str]) -> Property:
    """The property in a `.vnnlib` file, or in a `.vnnlib.gz`.

    Raises FileError for a file that is missing, truncated, empty or no VNN-LIB, InputError for what
    is not supported: see `parse_property`.
    """
    return parse_property(read_text(Path(path)), str(path))


def parse_property(text: str, source: str = "the property") -> Property:
    """The property that a text in VNN-LIB 1.0 or 2.0 says; `source` names it in errors.

    A network violates the property where all its asserts are true (VNN-LIB standard, Demarchi et
    al. 2023): `Property.cases` is their disjunctive normal form. Strict comparisons are kept, as
    the next float64. Raises FileError for a text that is no VNN-LIB, with the line, and InputError
    for nonlinear terms, for tensors other than one input and one output of a network, for inputs
    without bounds, and for more cases than can be listed.
    """
    names, root = read(text, source)
    try:
        cases, infeasible = expand(root, names)
    except Wrong as wrong:
        raise wrong.about(source) from None
    return Property(names.inputs, names.outputs, cases, infeasible, names.tensors)
