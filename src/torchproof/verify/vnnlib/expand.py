"""The disjunctive normal form: one case for each choice at every `or`, over shared boxes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from torchproof.core.errors import InputError
from torchproof.verify.clock import look
from torchproof.verify.vnnlib.case import Case, Vector
from torchproof.verify.vnnlib.formula import FLAT, Conjunction, Disjunction, Edge, Row
from torchproof.verify.vnnlib.names import Names
from torchproof.verify.vnnlib.text import Wrong

MOST_NUMBERS = 2**26
"""Numbers in the boxes and rows of all cases together, half a gigabyte."""

_Todo = tuple[Disjunction, "_Todo"] | None
_Rows = tuple[list[Row], "_Rows"] | None


@dataclass(slots=True)
class _Cut:
    """A box cut from another one by some bounds; worked out when it is first asked for."""

    before: _Cut | None
    edges: list[Edge]
    never: bool = False
    box: tuple[Vector, Vector] | None = None


@dataclass
class _Boxes:
    """Equal boxes are one, and `numbers` counts what all of it takes."""

    names: Names
    known: dict[bytes, tuple[Vector, Vector]] = field(default_factory=dict)
    numbers: int = 0

    def of(self, cut: _Cut) -> tuple[Vector, Vector]:
        """The box of a cut, from the nearest one before it that is known."""
        chain: list[_Cut] = []
        step: _Cut | None = cut
        while step is not None and step.box is None:
            chain.append(step)
            step = step.before
        whole = np.full(self.names.inputs, np.inf)
        low, high = (-whole, whole) if step is None or step.box is None else step.box
        for link in reversed(chain):
            if link.edges:
                low, high = low.copy(), high.copy()
                for edge in link.edges:
                    if edge.upper:
                        high[edge.input] = min(high[edge.input], edge.value)
                    else:
                        low[edge.input] = max(low[edge.input], edge.value)
                low, high = self._one(low, high)
            link.box = low, high
        return low, high

    def count(self, numbers: int) -> None:
        """Raises Wrong where all cases together take too much memory."""
        self.numbers += numbers
        if self.numbers > MOST_NUMBERS:
            given = "a property whose cases take more memory than is given to them"
            raise Wrong(given, f"at most {MOST_NUMBERS:,} numbers", FLAT, InputError)

    def _one(self, low: Vector, high: Vector) -> tuple[Vector, Vector]:
        key = _digest(low, high)
        if key not in self.known:
            self.count(2 * low.size)
            low.flags.writeable = high.flags.writeable = False
            self.known[key] = low, high
        return self.known[key]


def expand(root: Conjunction, names: Names) -> tuple[tuple[Case, ...], int]:
    """The cases of a formula, those over one box together, and how many were infeasible.

    Equal cases are one. Raises Wrong where a feasible case leaves an input unbounded, and where all
    of them take too much memory.
    """
    boxes, infeasible = _Boxes(names), 0
    groups: dict[int, dict[bytes, Case]] = {}
    start: tuple[Conjunction, _Todo, _Cut, _Rows] = (root, None, _Cut(None, []), None)
    stack = [start]
    while stack:
        look()
        node, todo, cut, rows = stack.pop()
        if node.edges or node.never:
            cut = _Cut(cut, node.edges, node.never or cut.never)
        if node.rows:
            rows = (node.rows, rows)
        for choice in reversed(node.choices):
            todo = (choice, todo)
        if todo is not None:
            choice, todo = todo
            stack.extend((member, todo, cut, rows) for member in reversed(choice.members))
            continue
        low, high = boxes.of(cut)
        if cut.never or bool((low > high).any()):
            infeasible += 1
            continue
        if np.isinf(low).any() or np.isinf(high).any():
            raise _unbounded(low, high, names)
        key, case = _case(low, high, rows, boxes)
        groups.setdefault(id(low), {}).setdefault(key, case)
    return tuple(case for group in groups.values() for case in group.values()), infeasible


def _case(low: Vector, high: Vector, chain: _Rows, boxes: _Boxes) -> tuple[bytes, Case]:
    """The case over a box, and what tells it from others there."""
    found: list[list[Row]] = []
    while chain is not None:
        found.append(chain[0])
        chain = chain[1]
    terms = [row for some in reversed(found) for row in some]
    wide = any(key >= 0 for row in terms for key in row.terms)
    boxes.count(len(terms) * (boxes.names.outputs + wide * boxes.names.inputs + 1))
    rows = np.zeros((len(terms), boxes.names.outputs))
    mixed = np.zeros((len(terms), boxes.names.inputs)) if wide else None
    for i, row in enumerate(terms):
        for key, factor in row.terms.items():
            if key < 0:
                rows[i, ~key] = factor
            elif mixed is not None:
                mixed[i, key] = factor
    limits = np.array([row.limit for row in terms])
    arrays = [rows, limits] if mixed is None else [rows, limits, mixed]
    for array in arrays:
        array.flags.writeable = False
    return _digest(*arrays), Case(low, high, rows, limits, mixed)


def _digest(*arrays: Vector) -> bytes:
    """What tells contents apart."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(array.data)
    return digest.digest()


def _unbounded(low: Vector, high: Vector, names: Names) -> Wrong:
    """The error for a case in which inputs have no bound."""
    open_ = np.flatnonzero(np.isinf(low) | np.isinf(high))
    some = ", ".join(names.name(int(i)) for i in open_[:4]) + (", ..." if len(open_) > 4 else "")
    sides = {(np.isinf(low[i]), np.isinf(high[i])) for i in open_}
    side = {(True, False): "lower ", (False, True): "upper "}.get(
        sides.pop() if len(sides) == 1 else (True, True), ""
    )
    given = f"{len(open_)} inputs without {side}bound in a case: {some}"
    remedy = "assert constants above and below every input, in each case"
    return Wrong(given, "a box of inputs in every case", remedy, InputError)
