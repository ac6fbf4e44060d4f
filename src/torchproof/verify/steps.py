"""The nodes that take the place of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torchproof.verify.graph import Node, Ref


@dataclass
class Steps:
    """The nodes that take the place of one; they bear its name and source line."""

    node: Node
    live: frozenset[str]
    made: list[Node] = field(default_factory=list)

    def add(self, kind: str, call: Callable[..., Any], *args: Any) -> Ref:
        name = f"{self.node.name}.{len(self.made)}"
        self.made.append(Node(name, kind, call, args, self.node.where))
        return Ref(name)

    def done(self) -> list[Node]:
        """With the last of them under the name of the node."""
        *first, last = self.made
        return [*first, replace(last, name=self.node.name)]

    @property
    def last(self) -> Ref:
        return Ref(self.made[-1].name)

    def is_live(self, value: Any) -> bool:
        return isinstance(value, Ref) and value.name in self.live
