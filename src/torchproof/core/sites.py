"""Sites: what is perturbed. The input, one perturbation shared by all inputs, the weights, a
latent layer, or input and weights jointly. A site adds the perturbation and gathers example losses
into problems.

P counts what is ranked: one problem per example at `Input` and `Latent`, a single one at the other
sites.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.core.values import Value

Model = Callable[[Tensor], Any]
Keep = Callable[[str, nn.Parameter], bool]


def _precise(t: Tensor) -> Tensor:
    """t in at least float32, in which perturbations are kept."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


@dataclass(frozen=True)
class Site(ABC):
    """Where a perturbation is added. `shared`: one problem ranks all examples together; `single`:
    values are one tensor, not a dict; `entry`: forward samples that `origin` costs; `offers`: what
    a search may rely on ("box": values have a range; "image": leaves are (P, C, H, W)).
    """

    shared: ClassVar[bool] = False
    single: ClassVar[bool] = True
    entry: ClassVar[int] = 0
    offers: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def origin(self, model: Model, x: Tensor) -> Value:
        """The unperturbed value, (P, ...) per leaf."""

    @abstractmethod
    def outputs(self, model: Model, x: Tensor, delta: Any) -> Any:
        """The model's answer for x (B, C, H, W) with delta added; differentiable in delta."""

    def box(self, origin: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
        """The box of valid values seen from the origin; none, unless inputs themselves are
        perturbed.
        """
        inf = torch.full_like(origin, torch.inf)
        return -inf, inf

    def gather(self, per_example: Tensor) -> Tensor:
        """(B,) example values to (P,) problem values: themselves, or their mean."""
        return per_example.mean(0, keepdim=True) if self.shared else per_example

    def gather_won(self, won: Tensor) -> Tensor:
        """(B,) to (P,): a shared perturbation has won when it fools every example."""
        return won.all(0, keepdim=True) if self.shared else won

    def rows(self, problems: Tensor) -> Tensor | slice:
        """The examples that the given problems are about."""
        return slice(None) if self.shared else problems

    def problems(self, examples: int) -> int:
        return 1 if self.shared else examples


class Input(Site):
    """Each input has a perturbation of its own; leaves have the shape of x."""

    offers: ClassVar[frozenset[str]] = frozenset({"box", "image"})

    def box(self, origin: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
        return low - origin, high - origin

    def origin(self, model: Model, x: Tensor) -> Tensor:
        return x

    def outputs(self, model: Model, x: Tensor, delta: Tensor) -> Any:
        return model(x + delta)


@dataclass(frozen=True)
class Universal(Site):
    """One perturbation (1, C, H, W) for all inputs; perturbed inputs are cut to the box [low,
    high].
    """

    low: float = 0.0
    high: float = 1.0
    shared: ClassVar[bool] = True

    def origin(self, model: Model, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:1])

    def outputs(self, model: Model, x: Tensor, delta: Tensor) -> Any:
        return model((x + delta).clamp(self.low, self.high))


def kernels(name: str, parameter: nn.Parameter) -> bool:
    """The weights that AWP perturbs (Wu, Xia and Wang 2020): more than one dimension, no bias, no
    norm layer.
    """
    return parameter.dim() > 1 and "weight" in name


@dataclass(frozen=True)
class Weights(Site):
    """The chosen parameters of an `nn.Module`; leaves are (1, *shape) under the parameters'
    names.
    """

    keep: Keep = kernels
    shared: ClassVar[bool] = True
    single: ClassVar[bool] = False

    def origin(self, model: Model, x: Tensor) -> dict[str, Tensor]:
        if not isinstance(model, nn.Module):
            raise InputError(
                f"a {type(model).__name__}", "an nn.Module", "wrap the function in a module"
            )
        named = model.named_parameters()
        chosen = {n: _precise(p.detach())[None] for n, p in named if self.keep(n, p)}
        if not chosen:
            names = [n for n, _ in model.named_parameters()]
            raise InputError(
                f"a model whose parameters {names[:5]} are all left out",
                "at least one parameter that `keep` accepts",
                "pass Weights(keep=...)",
            )
        return chosen

    def outputs(self, model: Model, x: Tensor, delta: dict[str, Tensor]) -> Any:
        assert isinstance(model, nn.Module)
        own = dict(model.named_parameters())
        moved = {id(own[n]): (own[n] + d[0]).to(own[n].dtype) for n, d in delta.items()}
        with _swapped(model, moved):
            return model(x)


@contextmanager
def _swapped(model: nn.Module, moved: dict[int, Tensor]) -> Iterator[None]:
    """Every module that holds one of the parameters (by id) sees the moved tensor in its place.

    torch.func.functional_call does the same, but leaves a module that is used twice broken.
    """
    stores = [(m._parameters, k, p) for m in model.modules() for k, p in m._parameters.items()]
    held = [(store, k, p) for store, k, p in stores if id(p) in moved]
    try:
        for store, name, parameter in held:
            store[name] = moved[id(parameter)]  # type: ignore[assignment]
        yield
    finally:
        for store, name, parameter in held:
            store[name] = parameter


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Latent(Site):
    """The output of the named submodule, one perturbation per example; leaves are (B, ...) like
    that output.
    """

    layer: str
    entry: ClassVar[int] = 1

    def _module(self, model: Model) -> nn.Module:
        modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
        if self.layer not in modules:
            raise unknown("layer", self.layer, [n for n in modules if n])
        module: nn.Module = modules[self.layer]
        return module

    def origin(self, model: Model, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        with _hooked(self._module(model), lambda m, i, out: seen.append(out)), torch.no_grad():
            model(x)
        if len(seen) != 1 or not isinstance(seen[0], Tensor) or len(seen[0]) != len(x):
            raise InputError(
                f"layer {self.layer!r}, which answered {len(seen)} times",
                "a layer that runs once per forward and returns one tensor (B, ...)",
                "choose another layer",
            )
        return _precise(seen[0])

    def outputs(self, model: Model, x: Tensor, delta: Tensor) -> Any:
        with _hooked(self._module(model), lambda m, i, out: (out + delta).to(out.dtype)):
            return model(x)


@dataclass(frozen=True)
class Joint(Site):
    """Every input of a batch and the weights at once: one problem, leaves (1, B, C, H, W) under ""
    and (1, *shape).
    """

    weights: Weights = field(default_factory=Weights)
    shared: ClassVar[bool] = True
    single: ClassVar[bool] = False

    def origin(self, model: Model, x: Tensor) -> dict[str, Tensor]:
        return {"": x[None]} | self.weights.origin(model, x)

    def outputs(self, model: Model, x: Tensor, delta: dict[str, Tensor]) -> Any:
        shift = {n: d for n, d in delta.items() if n}
        return self.weights.outputs(model, x + delta[""][0], shift)
