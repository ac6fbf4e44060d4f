"""What a method around another one has in common: it hands on whatever it does not change."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.threats import AnyThreat
from torchproof.train.average import Average
from torchproof.train.method import Batch, Method, layers
from torchproof.train.rows import Rows


def require_method(inner: object, outer: Method) -> None:
    """Raises InputError unless `inner` is a method that may stand inside `outer`."""
    name = type(outer).__name__
    if not isinstance(inner, Method):
        raise InputError(f"{inner!r} in {name}", "a training method", f"write {name}(AT(), ...)")
    if inner.outermost and not outer.outermost:
        inside = type(inner).__name__
        raise InputError(
            f"{inside} inside {name}",
            f"{inside} outermost: it concerns the whole run",
            f"write {inside}({name}(...))",
        )


def require_whole(method: Method, place: str = "alone") -> None:
    """Raises InputError for a regulariser, which trains to nothing where no loss about labels is
    beside it; place: where it stands.
    """
    if method.regulariser:
        name = type(method).__name__
        remedy = f"write Sum(AT(), {name}(...)), for example"
        raise InputError(f"{name} {place}", "a loss about labels beside it", remedy)


def require_once(outer: Wrapper) -> None:
    """Raises InputError where a method of the same kind stands inside already."""
    if any(type(inner) is type(outer) for _, inner in layers(outer.method)):
        name = type(outer).__name__
        raise InputError(f"{name} around {name}", f"one {name}", "leave the inner one out")


@dataclass(frozen=True)
class Wrapper(Method):
    """A method around another one; raises InputError for one that may not stand there."""

    method: Method

    def __post_init__(self) -> None:
        require_method(self.method, self)
        require_whole(self.method, f"in {type(self).__name__}")

    @property
    def threat(self) -> AnyThreat | None:
        return getattr(self.method, "threat", None)

    @property
    def passes(self) -> int:
        return self.method.passes

    @property
    def replays(self) -> int:
        return self.method.replays

    @property
    def average(self) -> Average | None:
        return self.method.average

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        self.method.begin(model, data, progress)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        return self.method.prepare(model, batch)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.method.losses(model, batch)

    def learn(self, batch: Batch) -> None:
        self.method.learn(batch)
