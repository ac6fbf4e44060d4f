"""A network over an input set in variables and rows, for one example.

Variables are the entries of the input, those before nonlinear operations and those after them;
what is affine in between is composed into sparse rows. Every variable has a finite box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from torchproof.verify.graph import Node, bind
from torchproof.verify.inputs import InputSet
from torchproof.verify.interval import Interval
from torchproof.verify.operators import relaxation
from torchproof.verify.programme.bends import BENDS, lines_of
from torchproof.verify.programme.draft import Draft, Form
from torchproof.verify.programme.maps import Maps
from torchproof.verify.programme.sets import flat, inputs


class Linear(NamedTuple):
    """matrix @ v + constant: sparse (n, variables), (n,)."""

    matrix: Any
    constant: np.ndarray


@dataclass
class _Before:
    """Entries before a nonlinear operation: how they depend on v, and those that have a Form."""

    linear: Linear
    form: Form
    made: np.ndarray


@dataclass
class Encoding:
    """What has been written of a network; forms: the answers of the input and of the nonlinear
    nodes; relaxed: kinds of nodes for which the rows allow more than the network does.
    """

    maps: Maps
    exact: bool
    draft: Draft = field(default_factory=Draft)
    forms: dict[str, Form] = field(default_factory=dict)
    relaxed: set[str] = field(default_factory=set)
    _before: dict[str, _Before] = field(default_factory=dict)

    @classmethod
    def of(
        cls, maps: Maps, inside: InputSet, intervals: dict[str, Interval], exact: bool = False,
        tighten: Callable[[Encoding, str, np.ndarray], None] | None = None,
    ) -> Encoding:  # fmt: skip
        """The network around one example. intervals: of every live node; exact: with integers where
        a kind has a way; tighten: called with each node before a nonlinear one and the entries (n,)
        for which it matters, and may replace its interval.
        """
        made = cls(maps, exact)
        made.forms[maps.graph.input] = inputs(made.draft, inside)
        for node in maps.bends:
            names = maps.graph.inputs(node)
            known = relaxation(node, _arguments(node, maps, intervals))
            if tighten is not None:
                for name in names:
                    tighten(made, name, flat(known.open([intervals[name]])).astype(bool))
            made._write(node, known, [intervals[name] for name in names])
        return made

    def _write(self, node: Node, known: Any, at: Sequence[Interval]) -> None:
        bend = BENDS.get(type(known))
        names = self.maps.graph.inputs(node)

        def entries(place: int, wanted: np.ndarray) -> Form:
            return self.entries(names[place], at[place], wanted)

        if bend is None or not self.exact:
            self.relaxed.add(node.kind)
        if bend is None:
            shape = self.maps.shape(node.name)
            shapes = [self.maps.shape(name) for name in names]
            self.forms[node.name] = lines_of(self.draft, known, at, entries, shapes, shape)
        else:
            self.forms[node.name] = bend(self.draft, known, at[0], entries, self.exact)

    def linear(self, name: str) -> Linear:
        """A node's answer (n,) in the variables so far."""
        affine = self.maps.to(name)
        size = len(affine.offset)
        constant, rows, columns, data = affine.offset, [], [], []
        for source, part in affine.parts.items():
            form, entries = self.forms[source], part.tocoo()
            rows.append(entries.row)
            columns.append(form.which[entries.col])
            data.append(entries.data * form.factor[entries.col])
            constant = constant + part @ form.constant
        return Linear(_matrix(data, rows, columns, (size, self.draft.count)), constant)

    def entries(self, name: str, interval: Interval, wanted: np.ndarray) -> Form:
        """Entries (n,) of a node before a nonlinear one; those that are not wanted may be missing
        (zero). An entry that depends on a single variable needs none of its own.
        """
        if name in self.forms:
            return self.forms[name]
        if name not in self._before:
            self._before[name] = _begun(self.linear(name))
        before = self._before[name]
        new = wanted & ~before.made
        if new.any():
            low, high = flat(interval.lower)[new], flat(interval.upper)[new]
            made = self.draft.variables(low, high)
            self.draft.define(made, before.linear.matrix[new], before.linear.constant[new])
            before.form.put(new, made)
            before.made |= new
        return before.form


def _begun(linear: Linear) -> _Before:
    counts = np.diff(linear.matrix.indptr)
    form, single = Form.zeros(len(counts)), counts == 1
    first = linear.matrix.indptr[:-1][single]
    form.which[single] = linear.matrix.indices[first]
    form.factor[single] = linear.matrix.data[first]
    alone = counts <= 1
    form.constant[alone] = linear.constant[alone]
    return _Before(linear, form, alone)


def _matrix(data: list[Any], rows: list[Any], columns: list[Any], shape: tuple[int, int]) -> Any:
    places = (np.concatenate(rows), np.concatenate(columns))
    matrix = sparse.csr_array((np.concatenate(data), places), shape)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _arguments(node: Node, maps: Maps, intervals: dict[str, Interval]) -> Sequence[Any]:
    found: Sequence[Any] = bind(node.args, {**maps.single, **intervals})
    return found
