"""Searches around a search: what they do not change, the inner one answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.cases import Point
from torchproof.attack.search import Search
from torchproof.core.sets import Set
from torchproof.core.values import expand, put, take, tree


@dataclass(frozen=True)
class Around(Search):
    """A search that asks where `search` would ask, with something added."""

    search: Search

    gradient = property(lambda self: self.search.gradient)
    wanders = property(lambda self: self.search.wanders)
    needs = property(lambda self: self.search.needs)
    norms = property(lambda self: self.search.norms)

    @property
    def steps(self) -> int:
        return self.search.steps

    @property
    def random(self) -> bool:
        return self.search.random


@dataclass(frozen=True)
class Prefixed:
    """t counts one more than the inner state does."""

    inner: Any
    t: Tensor

    @property
    def delta(self) -> Any:
        """The clean point first, then where the inner search asks."""
        if bool((self.t > 0).all()):
            return self.inner.delta
        return tree(lambda d: d * expand((self.t > 0).to(d.dtype), d), self.inner.delta)


@dataclass(frozen=True)
class FromClean(Around):
    """`search`, after one question about the clean point, whose answer the search does not see."""

    @property
    def steps(self) -> int:
        return self.search.steps + 1

    def init(self, set: Set, key: Tensor) -> Prefixed:
        return Prefixed(self.search.init(set, key), torch.zeros_like(key))

    def step(self, set: Set, key: Tensor, state: Prefixed, point: Point) -> Prefixed:
        fresh = (state.t == 0).nonzero()[:, 0]
        # a step may write over its state: rows that take none are put back
        kept = take(state.inner, fresh) if len(fresh) else None
        inner = self.search.step(set, key, state.inner, point)
        if kept is not None:
            put(inner, fresh, kept)
        return Prefixed(inner, state.t + 1)
