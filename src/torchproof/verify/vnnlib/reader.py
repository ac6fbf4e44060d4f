"""VNN-LIB 1.0, and of 2.0 one network with linear comparisons, from text to a tree.

Brackets are kept on a list of our own, so that no depth of nesting can exhaust Python's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from torchproof.core.errors import InputError
from torchproof.verify.clock import look
from torchproof.verify.vnnlib.formula import (
    Conjunction,
    Linear,
    Place,
    branch,
    compare,
    product,
)
from torchproof.verify.vnnlib.names import Names, Tensor, tensor
from torchproof.verify.vnnlib.text import Wrong, line_of, short, tokens

DEEPEST = 120_000
"""Open brackets."""

MOST_TURNS = 10_000
"""Changes between `and` and `or` on the way to a comparison, and sums inside each other in one."""

MOST_WORDS = 64
"""In a declaration."""

OFTEN = 4096
"""Tokens between two looks at the clock."""

COMPARISONS: Final = frozenset({"<=", ">=", "<", ">", "==", "=", "!="})
SUMS: Final = frozenset({"+", "-", "*"})
LOGIC: Final = frozenset({"assert", "and", "or"})
DECLARED: Final = frozenset({"declare-const", "vnnlib-version"})
TENSORS: Final = frozenset({"declare-input", "declare-output"})

INSIDE: Final = {
    "": DECLARED | {"assert", "declare-network"},
    **dict.fromkeys(LOGIC, COMPARISONS | {"and", "or"}),
    **dict.fromkeys(COMPARISONS | SUMS, SUMS),
    "declare-network": TENSORS,
    **dict.fromkeys(DECLARED | TENSORS, frozenset[str]()),
}
"""What may be opened inside what."""

REFUSED: Final = {
    "declare-hidden": "variables inside the network",
    "equal-to": "several networks",
    "isomorphic-to": "several networks",
    "not": "negations: write the opposite comparison",
    "=>": "implications: write `or` with the opposite comparison",
    "ite": "conditions",
    "let": "abbreviations",
    "/": "divisions: multiply with a constant",
    "declare-fun": "functions: write declare-const",
}


@dataclass(slots=True)
class Bracket:
    """An open bracket: its head, how many operands it has, and what they have come to.

    `place` takes the comparisons inside it; `owns` says that it was made for this bracket, and
    `turns` how many such, or how many sums, there are around it. `words` are those of a
    declaration, `tensors` what was declared inside it.
    """

    head: str
    place: Place | None = None
    owns: bool = False
    turns: int = 0
    count: int = 0
    value: Linear | None = None
    other: Linear | None = None
    words: tuple[str, ...] = ()
    tensors: tuple[tuple[str, Tensor], ...] = ()


class Reader:
    """Takes the tokens of a text one by one."""

    def __init__(self) -> None:
        self.names = Names()
        self.root = Conjunction()
        self.asserts = self.seen = self.work = 0
        self._stack = [Bracket("")]
        self._opening = False

    def take(self, token: str) -> None:
        """The next token; raises Wrong where it cannot stand."""
        self.seen += 1
        if self._opening:
            self._open(token)
            self._opening = False
        elif token == "(":
            self._opening = True
        elif token == ")":
            self._close()
        else:
            self._word(token)

    def complete(self) -> None:
        """The end of the text; raises Wrong where something is missing."""
        if (depth := len(self._stack) - 1 + self._opening) > 0:
            given = f"a text that ends inside {depth:,} open brackets"
            raise Wrong(given, "a closing one for each", "the file is truncated: fetch it again")
        self.names.complete()
        if not self.asserts:
            raise Wrong("a property without an assert", "at least one", "assert its bounds")
        self.root.measure()

    def _open(self, head: str) -> None:
        parent = self._stack[-1]
        if head not in INSIDE[parent.head]:
            raise _unexpected(head, parent.head)
        if len(self._stack) > DEEPEST:
            given = f"more than {DEEPEST:,} open brackets"
            raise Wrong(given, "fewer", "flatten the formula", InputError)
        parent.count += 1
        bracket = Bracket(head)
        if head == "assert":
            bracket.place = self.root
            self.asserts += 1
        elif head in ("and", "or"):
            bracket.place, bracket.owns = branch(parent.place, head)
            bracket.turns = parent.turns + bracket.owns
        elif head in COMPARISONS:
            bracket.place = parent.place
        elif head in SUMS:
            bracket.turns = parent.turns + 1
        if bracket.turns > MOST_TURNS:
            given = f"sums, or `and` and `or` in turn, more than {MOST_TURNS:,} deep"
            raise Wrong(given, "fewer", "flatten the formula", InputError)
        self._stack.append(bracket)

    def _close(self) -> None:
        if len(self._stack) == 1:
            raise Wrong("a closing bracket too many", "as many as open", "remove it")
        bracket = self._stack.pop()
        head, parent = bracket.head, self._stack[-1]
        if head in SUMS:
            self._operand(parent, _value(bracket))
        elif head in COMPARISONS:
            left, right = bracket.value, bracket.other
            if left is None or right is None or bracket.count != 2:
                given = f"`{head}` of {bracket.count} terms"
                raise Wrong(given, "two", "compare two terms at a time")
            compare(bracket.place, head, left, right)
        elif head in LOGIC:
            if bracket.count != 1 and (head == "assert" or not bracket.count):
                wanted = "one formula" if head == "assert" else "at least one formula"
                raise Wrong(f"`{head}` of {bracket.count} formulas", wanted, "correct it")
            if bracket.owns and bracket.place is not None:
                bracket.place.measure()
        elif head in TENSORS and len(parent.tensors) < MOST_WORDS:
            parent.tensors += ((head, tensor(bracket.words)),)
        else:
            self._declared(bracket)

    def _word(self, word: str) -> None:
        bracket = self._stack[-1]
        head = bracket.head
        bracket.count += 1
        if head in COMPARISONS or head in SUMS:
            if word[0] in "+-.0123456789":
                value = Linear({}, number(word))
            else:
                value = Linear({self.names.find(word): 1.0}, 0.0)
            self._operand(bracket, value)
        elif head in LOGIC or not head:
            raise Wrong(f"{short(word)!r} outside a comparison", "a formula", "remove it")
        elif len(bracket.words) < MOST_WORDS:
            bracket.words += (word,)
        else:
            given = f"`{head}` of more than {MOST_WORDS} words"
            raise Wrong(given, "a declaration", "correct it")

    def _operand(self, bracket: Bracket, value: Linear) -> None:
        """One more term inside a sum, a product or a comparison."""
        self.work += len(value.terms)
        if bracket.head == "*" and bracket.value is not None:
            self.work += len(bracket.value.terms)
        if self.work > 8 * self.seen + 100_000:
            given = "sums so deep inside each other that adding them up would take too long"
            raise Wrong(given, "flat sums", "write (+ a b c) for (+ a (+ b c))", InputError)
        if bracket.value is None:
            bracket.value = value
        elif bracket.head == "*":
            bracket.value = product(bracket.value, value)
        elif bracket.head in SUMS:
            bracket.value.add(value, 1.0 if bracket.head == "+" else -1.0)
        else:
            bracket.other = value

    def _declared(self, bracket: Bracket) -> None:
        """The end of a declaration."""
        words, names = bracket.words, self.names
        if bracket.head == "vnnlib-version":
            if words not in (("<1.0>",), ("<2.0>",)):
                given = f"version {short(' '.join(words))!r}"
                raise Wrong(given, "<1.0> or <2.0>", "write the property in one", InputError)
        elif bracket.head == "declare-const":
            if len(words) != 2:
                given = f"a declaration of {len(words)} words"
                raise Wrong(given, "(declare-const X_0 Real)", "correct it")
            if names.tensors is not None:
                given = f"{short(words[0])} beside a network"
                raise Wrong(given, "one form of declaration", "leave one of them out")
            names.declare(*words)
        elif bracket.head in TENSORS:
            given = f"a network of more than {MOST_WORDS} tensors"
            raise Wrong(given, "one input and one output", "leave the others out", InputError)
        elif names.inputs or names.outputs:
            given = "a second network, or a network beside variables of VNN-LIB 1.0"
            raise Wrong(given, "one network", "only properties of one are read", InputError)
        else:
            names.network(_network(bracket))


def read(text: str, source: str) -> tuple[Names, Conjunction]:
    """The variables and the formula of a text; `source` names it in errors.

    Raises FileError for what is no VNN-LIB, InputError for what is not supported, OutOfTime within
    a limit on time that is over.
    """
    reader, at = Reader(), 0
    try:
        for token, at in tokens(text):  # noqa: B007 - the place is for the error
            reader.take(token)
            if reader.seen % OFTEN == 0:
                look()
        at = len(text)
        reader.complete()
    except Wrong as wrong:
        raise wrong.about(f"{source}, line {line_of(text, at)}") from None
    return reader.names, reader.root


def number(word: str) -> float:
    """A decimal number in float64; raises Wrong for anything else, and for what is not finite."""
    try:
        value = float(word) if "_" not in word and len(word) < 1000 else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Wrong(f"the number {short(word)!r}", "a finite decimal", "correct it")
    return value


def _value(bracket: Bracket) -> Linear:
    if bracket.value is None:
        raise Wrong(f"`{bracket.head}` of nothing", "at least one term", "complete it")
    if bracket.head == "-" and bracket.count == 1:
        return bracket.value.times(-1.0)
    return bracket.value


def _network(bracket: Bracket) -> tuple[Tensor, Tensor]:
    """The one input and the one output of a network."""
    heads = [head for head, _ in bracket.tensors]
    if heads != ["declare-input", "declare-output"] or len(bracket.words) != 1:
        inputs = heads.count("declare-input")
        given = f"a network with {inputs} inputs and {len(heads) - inputs} outputs"
        wanted = "a name, one input, then one output"
        raise Wrong(given, wanted, "only such networks are read", InputError)
    return bracket.tensors[0][1], bracket.tensors[1][1]


def _unexpected(head: str, parent: str) -> Wrong:
    """The error for a head that cannot stand where it does."""
    where = f"inside `{parent}`" if parent else "at the outermost level"
    if head in REFUSED:
        given = f"`{head}` {where}"
        remedy = f"not supported are {REFUSED[head]}"
        return Wrong(given, "linear comparisons of one network, and, or", remedy, InputError)
    known = " ".join(sorted(INSIDE[parent])) or "no bracket"
    return Wrong(f"`{short(head)}` opened {where}", known, "correct the formula")
