"""Which weights a perturbation moves, and the balls that it moves them in (Stutz, Hein and Schiele
2021, section 4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from torchproof.core.errors import InputError, unknown
from torchproof.core.norms import L2
from torchproof.core.sets import Ball, Each, Product
from torchproof.core.sites import Keep, Model, Weights
from torchproof.core.threats import Relative

NORMALISATION = (
    _NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    *(kind for kind in (getattr(nn, "RMSNorm", None),) if kind is not None),
)

STALE = (
    "batch-norm layers keep the running statistics of the unmoved network, as in the paper: what "
    "is measured includes how wrong they are for the moved one"
)
BY_BATCH = (
    "batch-norm layers without running statistics normalise by the images of each call: the "
    "network is another function for every batch, and figures depend on how images are put together"
)


@dataclass(frozen=True)
class Chosen:
    """The tensors of a network by name. moved: those that are perturbed; zero: those that would be
    but for their length of 0, whose relative ball holds nothing else; left_out: the rest, such as
    those of normalisation layers; batch_norm: is there batch normalisation with running statistics?
    by_batch: is there one without, which normalises by the images of each call? A `Keep`.
    """

    moved: tuple[str, ...]
    zero: tuple[str, ...]
    left_out: tuple[str, ...]
    batch_norm: bool
    by_batch: bool = False

    def __call__(self, name: str, parameter: nn.Parameter) -> bool:
        return name in self.moved

    @property
    def notes(self) -> tuple[str, ...]:
        """What batch normalisation does to figures of the moved network."""
        return (STALE,) * self.batch_norm + (BY_BATCH,) * self.by_batch


def matrices(model: nn.Module) -> Keep:
    """Keeps what prunability and directions are about, whatever its name: tensors of more than one
    dimension that belong to no normalisation layer, zeros and all.

    Parameters are known by their names in `model`, so that it serves for copies of the network too.
    Raises InputError where there is none.
    """
    norms = _of_norms(model)
    named = ((n, p) for n, p in model.named_parameters() if p.is_floating_point())
    kept = frozenset(n for n, p in named if p.dim() > 1 and id(p) not in norms)
    if not kept:
        names = [n for n, _ in model.named_parameters()]
        given = f"a network with the parameters {names[:5]}, none of them a weight matrix or kernel"
        remedy = "give a network with linear or convolutional layers"
        raise InputError(given, "a tensor of more than one dimension, of no norm layer", remedy)
    return lambda name, parameter: name in kept


def _of_norms(model: nn.Module) -> set[int]:
    return {id(p) for m in model.modules() if isinstance(m, NORMALISATION) for p in m.parameters()}


def chosen(model: Model, keep: Keep | None = None) -> Chosen:
    """Weights and biases, each a layer of its own, but nothing that belongs to a normalisation
    layer; or what `keep` accepts.

    A tensor that several layers share is one tensor, moved in all of them at once. Raises
    InputError for what is no nn.Module, for a network that leaves nothing to move, and for
    parameters that are different but lie in the same memory.
    """
    if not isinstance(model, nn.Module):
        remedy = "wrap the function in a module that holds its weights"
        raise InputError(f"a {type(model).__name__}", "an nn.Module with weights", remedy)
    _require_own_memory(model)
    norms = _of_norms(model)
    moved: list[str] = []
    zero: list[str] = []
    left_out: list[str] = []
    for name, p in model.named_parameters():
        wanted = id(p) not in norms if keep is None else keep(name, p)
        group = left_out if not wanted else moved if bool(p.detach().any()) else zero
        group.append(name)
    if not moved:
        given = f"a {type(model).__name__} with {len(zero) + len(left_out)} parameters, of which "
        given += f"{len(left_out)} are left out and {len(zero)} are 0"
        remedy = "give a network with weights of its own, or accept more of them"
        raise InputError(given, "at least one weight to perturb", remedy)
    kept = [m.running_mean is not None for m in model.modules() if isinstance(m, _BatchNorm)]
    return Chosen(tuple(moved), tuple(zero), tuple(left_out), any(kept), not all(kept))


def _require_own_memory(model: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, p in model.named_parameters():
        if p.numel() == 0:
            continue
        other = seen.setdefault(p.data_ptr(), name)
        if other != name:
            remedy = "assign the very same nn.Parameter to both layers"
            given = f"parameters {other} and {name} in the same memory"
            raise InputError(given, "one parameter for tied weights", remedy)


@dataclass(frozen=True)
class Filterwise(Relative):
    """length(v_j) <= gamma length(w_j) for every filter (first index) of a tensor; tensors of one
    dimension are a single filter.
    """

    def set(self, model: Model, x: Tensor) -> Product:
        whole = super().set(model, x).parts
        return Product(dict(self._parts(self.site.origin(model, x), whole)))

    def _parts(
        self, origin: dict[str, Tensor], whole: dict[str, Ball | Each]
    ) -> Iterator[tuple[str, Ball | Each]]:
        for name, w in origin.items():
            rows = w[0]
            if rows.dim() < 2:
                yield name, whole[name]
                continue
            inf = torch.full_like(rows, torch.inf)
            ball = Ball.of(self.norm, self.gamma * self.norm.length(rows), -inf, inf)
            yield name, Each(ball, len(rows))


@dataclass(frozen=True)
class Absolute(Relative):
    """length(v_l) <= gamma, the same for every tensor and in the units of the weights: the naive
    ball, whose flatness changes when layers are rescaled though the network's answers do not.
    """

    def set(self, model: Model, x: Tensor) -> Product:
        parts: dict[str, Ball | Each] = {}
        for name, w in self.site.origin(model, x).items():
            inf = torch.full_like(w, torch.inf)
            parts[name] = Ball.of(self.norm, w.new_full((1,), self.gamma), -inf, inf)
        return Product(parts)


BALLS: dict[str, type[Relative]] = {
    "layer": Relative,
    "filter": Filterwise,
    "absolute": Absolute,
}


def ball(name: str, xi: float, keep: Keep) -> Relative:
    """The ball of that name and size around the weights that `keep` accepts; raises UnknownName,
    and InputError for an xi that is not a finite number > 0.
    """
    if name not in BALLS:
        raise unknown("ball", name, BALLS)
    return BALLS[name](xi, L2(), Weights(keep))
