"""A verdict on a whole property: a search first, then bounds, then branch and bound."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchproof.core.errors import InputError
from torchproof.verify.bab import ROOT
from torchproof.verify.bounds import Bound, Pass
from torchproof.verify.clock import OutOfTime, left, limit, look
from torchproof.verify.falsify import falsify
from torchproof.verify.graph import Graph, Node, Ref
from torchproof.verify.hinge_parts import Neurons
from torchproof.verify.input_split import split_inputs
from torchproof.verify.inputs import InputSet
from torchproof.verify.question import Answer, Question, Verdict, certainly_not
from torchproof.verify.relu_split import split_hinges
from torchproof.verify.vnnlib import Case, Property

FEW_INPUTS = 64  # up to so many, the input is halved; beyond, signs of neurons are split


@dataclass(frozen=True)
class Decision:
    """verdict: "sat" where any case can be fulfilled, with x; "unsat" where none can; by: how."""

    verdict: Verdict
    x: Tensor | None
    by: str
    parts: int
    seconds: float


def decide(
    graph: Graph, shape: Sequence[int], property: Property, seconds: float | None = None
) -> Decision:
    """Is there an input, of `shape` without the batch, that fulfils a case of the property?

    In the dtype of the graph's parameters; float64 is meant, and its rounding is not accounted for.
    Says "unknown" where no method here decides, "timeout" after so many seconds. Raises InputError
    for a property of another number of outputs than the graph has.
    """
    started = time.monotonic()
    dtype = next(
        (c.dtype for c in graph.constants.values() if c.is_floating_point()), torch.float64
    )
    _fits(graph, torch.zeros(1, *shape, dtype=dtype), property)
    mixed = any(case.mixed is not None for case in property.cases)
    graph = with_inputs(graph) if mixed else graph
    verdicts: list[Answer] = []
    by = "no case" if property.trivial else "bounds"
    for group in property.boxes():
        questions = [_question(case, shape, dtype, mixed) for case in group]
        left_ = None if seconds is None else seconds - (time.monotonic() - started)
        answer, how = answered(graph, questions, left_)
        verdicts.append(answer)
        by = how if how != "bounds" else by
        if answer.verdict == "sat":
            break
    last = verdicts[-1] if verdicts else Answer("unsat", None, 0)
    worst: Verdict = last.verdict if last.verdict == "sat" else "unsat"
    for answer in verdicts:
        if worst != "sat" and answer.verdict in ("timeout", "unknown"):
            worst = answer.verdict
    parts = sum(answer.parts for answer in verdicts)
    return Decision(worst, last.x, by, parts, time.monotonic() - started)


@torch.no_grad()
def _fits(graph: Graph, x: Tensor, property: Property) -> None:
    """Raises InputError where the answers are not as many as the property speaks of."""
    outputs = graph.run(x)[graph.output].numel()
    if outputs != property.outputs:
        given = f"a property of {property.outputs} outputs for a network of {outputs}"
        raise InputError(given, "as many as the network has", "take the property made for it")


def with_inputs(graph: Graph) -> Graph:
    """The graph of (y, x) for that of y (B, K), x (B, n) flat: a comparison of outputs with inputs
    is one of its outputs alone.
    """
    flat = Node("the inputs", "flatten", torch.flatten, (Ref(graph.input), 1), "the property")
    parts = [Ref(graph.output), Ref(flat.name)]
    both = Node("outputs and inputs", "cat", torch.cat, (parts, 1), "the property")
    return replace(graph, nodes=(*graph.nodes, flat, both), output=both.name)


def _question(case: Case, shape: Sequence[int], dtype: torch.dtype, mixed: bool) -> Question:
    """mixed: of outputs and inputs, as `with_inputs` has them, and not of outputs alone."""
    low, high = (torch.tensor(v, dtype=dtype).view(*shape) for v in (case.low, case.high))
    rows, limits = (torch.tensor(v, dtype=dtype) for v in (case.rows, case.limits))
    if mixed:
        at_x = rows.new_zeros(len(rows), case.low.size)
        if case.mixed is not None:
            at_x = torch.tensor(case.mixed, dtype=dtype)
        rows = torch.cat([rows, at_x], 1)
    if not len(rows):  # any answer will do
        rows, limits = rows.new_zeros(1, rows.shape[1]), limits.new_zeros(1)
    return Question(low, high, rows, limits)


def answered(
    graph: Graph, questions: list[Question], seconds: float | None = None
) -> tuple[Answer, str]:
    """Questions about one box: whether any is answered with yes, and by what."""
    try:
        with limit(seconds):
            return _answered(graph, questions)
    except OutOfTime:
        return Answer("timeout", None, 0), "time"


def _answered(graph: Graph, questions: list[Question]) -> tuple[Answer, str]:
    for question in questions:
        found = falsify(graph, question)
        if found is not None:
            return Answer("sat", found, 0), "search"
        look()
    open_ = questions
    for bound in ROOT:
        passed, lower = _bounded(graph, open_, bound)
        pairs = zip(open_, lower, strict=True)
        open_ = [q for q, own in pairs if not bool(certainly_not(own[None], q.limits))]
        if not open_:
            return Answer("unsat", None, 1), "bounds"
    parts = 1
    if questions[0].low.numel() <= FEW_INPUTS:
        answer, open_ = _by_inputs(graph, open_)
        if answer.verdict != "unknown" or not len(Neurons.of(passed)):
            return answer, "input split"
        parts = answer.parts
    split = split_hinges(passed, [q.rows for q in open_], [q.limits for q in open_])
    return Answer(split.verdict, split.x, parts + split.parts), "branch and bound"


def _by_inputs(graph: Graph, questions: list[Question]) -> tuple[Answer, list[Question]]:
    """Also the questions whose boxes were too many; without time left, none of them helps."""
    parts, many = 1, list[Question]()
    worst: Verdict = "unsat"
    for question in questions:
        answer = split_inputs(graph, question, left())
        parts += answer.parts
        if answer.verdict == "unknown":
            many.append(question)
        if answer.verdict in ("sat", "timeout"):
            return Answer(answer.verdict, answer.x, parts), many
        worst = answer.verdict if answer.verdict != "unsat" else worst
    return Answer(worst, None, parts), many


@torch.no_grad()
def _bounded(
    graph: Graph, questions: list[Question], bound: Bound
) -> tuple[Pass, tuple[Tensor, ...]]:
    """A pass over the box, and bounds of every question's rows, all of them bounded together."""
    first = questions[0]
    passed = Pass.of(graph, InputSet.between(first.low[None], first.high[None]), bound)
    lower = passed.lower(torch.cat([q.rows for q in questions])[None])[0]
    return passed, torch.split(lower, [len(q.rows) for q in questions])
