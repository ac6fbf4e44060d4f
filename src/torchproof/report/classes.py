"""Accuracy class by class, and what broken examples are taken for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torchproof.evaluate.outcome import Example
from torchproof.report.evaluation import Evaluation, broken, held
from torchproof.report.numbers import Share

LISTED = 20  # classes; of more, the weakest are listed
GRID = 12  # classes; of more, the most frequent confusions are listed instead of a table of all
FREQUENT = 12


@dataclass(frozen=True)
class ClassRow:
    """The accuracies on the examples of one class."""

    label: int
    clean: Share
    robust: Share


@dataclass(frozen=True)
class Confusion:
    """How often class `labels[i]` was answered as `labels[j]` under attack: `grid[i][j]`.

    Of many classes `grid` is empty and `pairs` has the most frequent (label, answer, count).
    `errors` counts wrong answers, `unknown` examples without a recorded answer.
    """

    labels: tuple[int, ...]
    grid: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[int, int, int], ...]
    errors: int
    unknown: int


def by_class(examples: Iterable[Example]) -> list[ClassRow]:
    """One row per class that occurs, in order of the label."""
    count: Counter[int] = Counter()
    clean: Counter[int] = Counter()
    robust: Counter[int] = Counter()
    for example in examples:
        count[example.label] += 1
        clean[example.label] += example.clean
        robust[example.label] += held(example)
    return [
        ClassRow(label, Share.counted(clean[label], n), Share.counted(robust[label], n))
        for label, n in sorted(count.items())
    ]


def weakest(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """All rows of a short list; of a long one those of the lowest robust accuracy, lowest first."""
    if len(rows) <= LISTED:
        return list(rows)
    return sorted(rows, key=lambda row: (row.robust.value, row.clean.value, row.label))[:LISTED]


def confusion(examples: Iterable[Example]) -> Confusion | None:
    """The answers to the attacked images; None where none of a broken example was recorded.

    An example that held counts as answered by its label, one wrong from the start by that answer.
    """
    seen: Counter[tuple[int, int, bool]] = Counter()
    for example in examples:
        seen[example.label, answer(example), broken(example)] += 1
    told = {given >= 0 for _, given, lost in seen if lost}
    if told == {False}:
        return None
    pairs: Counter[tuple[int, int]] = Counter()
    for (label, given, _), hits in seen.items():
        pairs[label, given] += hits if given >= 0 else 0
    pairs = +pairs
    labels = tuple(sorted({label for pair in pairs for label in pair}))
    errors = {(a, b): hits for (a, b), hits in pairs.items() if a != b}
    unknown = sum(hits for (_, given, _), hits in seen.items() if given < 0)
    total = sum(errors.values())
    if len(labels) <= GRID:
        grid = tuple(tuple(pairs[a, b] for b in labels) for a in labels)
        return Confusion(labels, grid, (), total, unknown)
    ranked = sorted(errors.items(), key=lambda item: (-item[1], item[0]))[:FREQUENT]
    return Confusion(labels, (), tuple((a, b, hits) for (a, b), hits in ranked), total, unknown)


def answer(example: Example) -> int:
    """The class answered to the attacked image, -1 where that was not recorded."""
    if held(example):
        return example.label
    return example.adversarial if broken(example) else example.predicted


def pairing(first: Evaluation, second: Evaluation) -> tuple[int, int, int, int] | None:
    """How many examples held in (both, only first, only second, neither).

    None unless the data have the same fingerprint, and threats and ids are the same.
    """
    one, two = first.result, second.result
    if (one.data_sha256, one.threat) != (two.data_sha256, two.threat):
        return None
    if first.examples is None or second.examples is None:
        return None
    here = {example.id: held(example) for example in first.examples}
    there = {example.id: held(example) for example in second.examples}
    if here.keys() != there.keys():
        return None
    tally = Counter((here[key], there[key]) for key in here)
    return tally[True, True], tally[True, False], tally[False, True], tally[False, False]
