"""What is said past the forward pass of a network: labels for blocks that want them, and what
blocks tell besides their answer (logits of a probe, a penalty).

`forward` keeps its one argument and its one answer, so that a network with such blocks is like any
other. Both are context managers; without them blocks predict on their own and nobody listens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from torchproof.core.errors import InputError

Told = dict[str, list[Tensor]]

_labels: ContextVar[Tensor | None] = ContextVar("labels", default=None)
_ears: ContextVar[tuple[Told, ...]] = ContextVar("ears", default=())


@contextmanager
def labels(y: Tensor | None) -> Iterator[None]:
    """Blocks inside see the true labels y (B,) of the rows that go forward; None hides them."""
    token = _labels.set(y)
    try:
        yield
    finally:
        _labels.reset(token)


def labels_of(rows: Tensor) -> Tensor | None:
    """The labels (B,) of the rows (B, ...) at hand, None where nobody gave them, and while a
    network is being compiled.

    Raises InputError for as many labels as there are no rows.
    """
    y = None if torch.compiler.is_compiling() else _labels.get()
    if y is not None and len(y) != len(rows):
        given = f"{len(y)} labels for {len(rows)} rows"
        raise InputError(given, "a label for every row", "open labels(y) around one forward pass")
    return y


@contextmanager
def listening() -> Iterator[Told]:
    """Collects what blocks tell inside: name -> tensors, in the order in which they were told.
    Listeners further out hear it too.
    """
    told: Told = {}
    token = _ears.set((*_ears.get(), told))
    try:
        yield told
    finally:
        _ears.reset(token)


def heard() -> bool:
    """Does anybody listen? What is costly is worked out for listeners only; nobody listens to a
    network that is being compiled.
    """
    return not torch.compiler.is_compiling() and bool(_ears.get())


def tell(name: str, value: Tensor) -> None:
    """Says `value` to whoever listens."""
    if heard():
        for told in _ears.get():
            told.setdefault(name, []).append(value)
