"""The errors torchproof raises on purpose. Each says what was given, what was expected and what to
do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TorchproofError(Exception):
    """Base of all errors raised on purpose; the command line turns it into exit code 2.

    The three parts stay available as attributes `given`, `expected` and `remedy`.
    """

    def __init__(self, given: str, expected: str, remedy: str) -> None:
        self.given, self.expected, self.remedy = given, expected, remedy
        super().__init__(f"Given: {given}. Expected: {expected}. What to do: {remedy}.")


class InputError(TorchproofError, ValueError):
    """Data, labels, a threat or a setting that cannot be meant."""


class ModelError(TorchproofError, ValueError):
    """A model that does not answer as promised (logits of shape (B, K), finite)."""


class UnknownName(TorchproofError, KeyError):
    """A name that no table holds; the nearest known names are suggested."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class FileError(TorchproofError, OSError):
    """A file that is missing, truncated, foreign, or that would need to run code to be read."""

    __str__ = Exception.__str__


class MissingExtra(TorchproofError, ImportError):
    """An optional dependency that is absent or does not load; says why and what to install."""


class ResumeError(TorchproofError, ValueError):
    """A run that cannot be resumed, because its settings differ from the stored ones."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for `name` where one of `known` was expected, with the nearest known ones, the
    nearest first.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=3, cutoff=0.5)
    near = sorted((n for n in names if n.lower() in near), key=lambda n: -_likeness(name, n))
    hint = f"did you mean {' or '.join(near)}" if near else f"choose one of {', '.join(names)}"
    return UnknownName(f"{kind} {name!r}", f"a known {kind}", hint)


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other.lower(), one.lower()).ratio()
