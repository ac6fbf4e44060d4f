"""The declared variables of a property, and what they are called."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Final

from torchproof.core.errors import InputError
from torchproof.verify.vnnlib.text import Wrong, short

MOST_VARIABLES = 4_000_000
"""Inputs, or outputs; networks of competitions have up to 150,528 inputs."""

KINDS: Final = ("real", "float16", "float32", "float64")
"""Element types of a declared tensor (2.0), in any case."""

_FLAT = re.compile(r"([XY])_(0|[1-9]\d{0,8})")
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
_INDEXED = re.compile(r"([A-Za-z]\w*)(?:\s*\[([^\]]*)\])?", re.ASCII)
_REMEDY = "declare every variable before the first assert, X_0 to X_{n-1} and Y_0 to Y_{m-1}"


@dataclass(frozen=True)
class Tensor:
    """A tensor declared by VNN-LIB 2.0: X float32 [1,3]."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def header(self) -> str:
        """As it is declared, and as it stands in a witness."""
        return f"{self.name} {self.kind} [{','.join(map(str, self.shape))}]"

    def element(self, number: int) -> str:
        """The name of an element, counted in C order."""
        if not self.shape:
            return self.name
        index = []
        for side in reversed(self.shape):
            number, rest = divmod(number, side)
            index.append(str(rest))
        return f"{self.name}[{','.join(reversed(index))}]"


@dataclass
class Names:
    """Which names stand for which variables: input i is i, output j is ~j.

    `tensors` are the input and the output of VNN-LIB 2.0, None in 1.0.
    """

    keys: dict[str, int] = field(default_factory=dict)
    inputs: int = 0
    outputs: int = 0
    tensors: tuple[Tensor, Tensor] | None = None

    def declare(self, name: str, kind: str) -> None:
        """A variable X_i or Y_j of VNN-LIB 1.0; raises Wrong for any other."""
        match = _FLAT.fullmatch(name)
        if match is None:
            given = f"a variable named {short(name)!r}"
            raise Wrong(given, "inputs X_0, X_1, ... and outputs Y_0, Y_1, ...", "rename it")
        if kind != "Real":
            given = f"{short(name)} of the sort {short(kind)!r}"
            raise Wrong(given, "the sort Real", "declare it as Real", InputError)
        if name in self.keys:
            raise Wrong(f"{name} declared twice", "one declaration each", "leave one of them out")
        number = int(match[2])
        self.keys[name] = number if match[1] == "X" else ~number
        self.inputs += match[1] == "X"
        self.outputs += match[1] == "Y"
        if max(self.inputs, self.outputs) > MOST_VARIABLES:
            raise _too_many(MOST_VARIABLES + 1)

    def network(self, tensors: tuple[Tensor, Tensor]) -> None:
        """The network of VNN-LIB 2.0; raises Wrong for absurd sizes, or equal names."""
        first, last = tensors
        for tensor in tensors:
            if tensor.size > MOST_VARIABLES or tensor.size < 1:
                raise _too_many(tensor.size)
        if first.name == last.name:
            given = f"an input and an output, both named {short(first.name)!r}"
            raise Wrong(given, "different names", "rename one of them")
        self.tensors, self.inputs, self.outputs = tensors, first.size, last.size

    def complete(self) -> None:
        """Raises Wrong where nothing, or not every number up to the last, is declared."""
        for letter, count in (("X", self.inputs), ("Y", self.outputs)):
            if not count:
                given = f"no declared {'input' if letter == 'X' else 'output'}"
                raise Wrong(given, "at least one input and one output", _REMEDY)
            if self.tensors is None:
                missing = (i for i in range(count) if f"{letter}_{i}" not in self.keys)
                if (gap := next(missing, None)) is not None:
                    given = f"{count} variables {letter}_i without {letter}_{gap}"
                    raise Wrong(given, "numbers without a gap", _REMEDY)

    def find(self, word: str) -> int:
        """The variable of a name; raises Wrong for one that is not declared."""
        key = self.keys.get(word)
        if key is None:
            key = self.keys[word] = self._element(word)
        return key

    def name(self, key: int) -> str:
        """What a variable is called."""
        number, output = (key, False) if key >= 0 else (~key, True)
        if self.tensors is None:
            return f"{'Y' if output else 'X'}_{number}"
        return self.tensors[output].element(number)

    def _element(self, word: str) -> int:
        """The number of an element of a tensor, by its indices."""
        match = _INDEXED.fullmatch(word)
        tensors = {t.name: t for t in self.tensors or ()}
        if match is None or match[1] not in tensors:
            given = f"{short(word)!r}, which is no number and no declared variable"
            raise Wrong(given, "a number or a declared variable", _REMEDY)
        tensor, index = tensors[match[1]], _numbers(match[2] or "")
        inside = all(i < side for i, side in zip(index, tensor.shape, strict=False))
        if len(index) != len(tensor.shape) or not inside:
            given = f"{short(word)}, where {tensor.header} is declared"
            raise Wrong(given, "one index below each side", "correct the indices")
        number = 0
        for i, side in zip(index, tensor.shape, strict=True):
            number = number * side + i
        return number if self.tensors and tensor is self.tensors[0] else ~number


def tensor(words: tuple[str, ...]) -> Tensor:
    """The tensor of the words `X`, `float32 [1,3]`; raises Wrong for anything else."""
    kind, bracket, shape = " ".join(words[1:2]).partition("[")
    if not bracket or not shape.endswith("]"):
        given = f"a tensor declared as {short(' '.join(words))!r}"
        raise Wrong(given, "a name, an element type and a shape: X float32 [1,3]", "complete it")
    name, kind = words[0], kind.strip()
    if not _NAME.fullmatch(name):
        raise Wrong(f"a tensor named {short(name)!r}", "letters, digits and _", "rename it")
    if kind.lower() not in KINDS:
        given = f"{short(name)} with elements of {short(kind)}"
        raise Wrong(given, f"one of {', '.join(KINDS)}", "only real tensors are read", InputError)
    _only_a_node(words[2:])
    return Tensor(name, kind, _numbers(shape[:-1]))


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers of a shape or of indices; raises Wrong for anything else."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if len(parts) > 32 or not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        raise Wrong(f"[{short(text)}]", "numbers: [1,3,32,32]", "correct the shape or the indices")
    return tuple(int(part) for part in parts)


def _only_a_node(words: tuple[str, ...]) -> None:
    """The name of the node in the network may follow, where one node alone can be meant."""
    if words == ("initialized",):
        given, expected = "an input that is `initialized`", "inputs that the property bounds"
        raise Wrong(given, expected, "leave it out, and bound the input", InputError)
    if len(words) > 1 or any(not word.startswith('"') for word in words):
        given = f"{short(' '.join(words))!r} after a shape"
        raise Wrong(given, "the end of the declaration", "leave it out")


def _too_many(number: int) -> Wrong:
    given = f"{number:,} variables" if number else "a tensor of no elements"
    return Wrong(given, f"1 to {MOST_VARIABLES:,}", "correct the declaration", InputError)
