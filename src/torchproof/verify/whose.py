"""Which example each row of a linear bound is about."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Whose:
    """Rows that go round E examples: row r of R is about the (r % E)-th of them, so that what is
    looked up for these is looked up once.

    index: their places (E,) in a batch; None where they are the whole batch in its order.
    """

    index: Tensor | None
    count: int

    @classmethod
    def of(cls, example: Tensor, batch: int) -> Whose:
        """example: (R,) places in a batch of that length; the shortest round that is easily seen,
        such as one example for all rows, or both signs of the same rows one after the other.
        """
        if bool((example == example[:1]).all()):
            return cls(None if batch == 1 else example[:1], 1)
        count = len(example)
        if count % batch == 0:
            whole = torch.arange(batch, device=example.device)
            if bool((example.view(-1, batch) == whole).all()):
                return cls(None, batch)
        while count % 2 == 0 and torch.equal(example[: count // 2], example[count // 2 : count]):
            count //= 2
        return cls(example[:count], count)

    def __call__(self, values: Tensor) -> Tensor:
        """(E, ...) what the examples have of values (batch, ...)."""
        return values if self.index is None else values.index_select(0, self.index)

    def round(self, rows: Tensor) -> Tensor:
        """Rows (R, ...) as (R / E, E, ...)."""
        return rows.view(len(rows) // self.count, self.count, *rows.shape[1:])

    def products(self, rows: Tensor, values: Tensor) -> Tensor:
        """(R,) the inner products of rows (R, ...) with their examples' of values (batch, ...)."""
        return products(self.round(rows), self(values)).flatten()


def products(rows: Tensor, values: Tensor) -> Tensor:
    """(S, E) the inner products of rows (S, E, ...) with values (E, ...)."""
    if len(values) == 1:
        return rows.flatten(1) @ values.flatten()[:, None]
    return (rows * values).flatten(2).sum(2) if rows.dim() > 2 else rows * values
