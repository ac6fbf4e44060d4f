"""The weighted sum of methods: losses and regularisers that are descended together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.threats import AnyThreat
from torchproof.train.awp import AWP
from torchproof.train.factor import check_factor
from torchproof.train.method import Batch, Method, layers
from torchproof.train.rows import Rows
from torchproof.train.wrapper import require_method


@dataclass(frozen=True, init=False)
class Sum(Method):
    """Sum(AT(), JSIGR(jacobian=0.1), weights=(1, 1)): the losses of several methods, added up.

    Each part prepares the same batch for itself, with the same seed, so that a sum of one part is
    that part. weights: 1 each by default. A figure that several parts note has the part's number
    behind its name. Weight perturbations and averages stand around the sum.
    Raises InputError for fewer than one part, parts that are no methods, other numbers of weights,
    weights that are negative, not finite or all 0, and regularisers without a loss about labels.
    """

    methods: tuple[Method, ...]
    weights: tuple[float, ...]

    def __init__(self, *methods: Method, weights: tuple[float, ...] | None = None) -> None:
        object.__setattr__(self, "methods", methods)
        object.__setattr__(self, "weights", (1.0,) * len(methods) if weights is None else weights)
        sized = isinstance(self.weights, (tuple, list))
        if not (methods and sized and len(self.weights) == len(methods)):
            raise InputError(
                f"{len(methods)} methods and weights {self.weights!r}",
                "at least one method, and a weight for each",
                "write Sum(AT(), JSIGR(), weights=(1, 0.5))",
            )
        for weight in self.weights:
            check_factor("weight", weight, "1 leaves a part as it is")
        if not any(self.weights):
            raise InputError("weights that are all 0", "a weight above 0", "leave them out")
        for part in methods:
            require_method(part, self)
            if part.replays > 1:
                given = f"{type(part).__name__} in a sum"
                raise InputError(given, "parts that take one step per batch", "train by it alone")
            if any(isinstance(inner, AWP) for _, inner in layers(part)):
                raise _perturbed()
        weighted = [part for part, weight in zip(methods, self.weights, strict=True) if weight]
        if all(part.regulariser for part in weighted):
            names = ", ".join(f"{type(part).__name__}(...)" for part in weighted)
            given = f"Sum({names}), of regularisers alone"
            raise InputError(given, "a loss about labels beside them", f"write Sum(AT(), {names})")

    @property
    def threat(self) -> AnyThreat | None:
        """The first part's that has one."""
        known = [getattr(part, "threat", None) for part in self.methods]
        return next((threat for threat in known if threat is not None), None)

    @property
    def passes(self) -> int:
        return sum(part.passes for part in self.methods)

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        for part in self.methods:
            part.begin(model, data, progress)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        made = tuple(part.prepare(model, batch) for part in self.methods)
        if any(part.shift is not None for part in made):
            raise _perturbed()
        forward, backward = (sum(part.spent[way] for part in made) for way in (0, 1))
        spent = (batch.spent[0] + forward, batch.spent[1] + backward)
        return replace(batch, parts=made, noted=_figures(batch, made), spent=spent)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        made = zip(self.methods, self.weights, batch.parts, strict=True)
        # a weight within a part is that part's; the loop applies the one of the whole
        return torch.stack([w * part.losses(model, own) for part, w, own in made]).sum(0)

    def learn(self, batch: Batch) -> None:
        for part, own in zip(self.methods, batch.parts, strict=True):
            part.learn(own)


def _figures(batch: Batch, made: tuple[Batch, ...]) -> dict[str, Tensor]:
    """What was noted before, and what the parts note; a name that more than one of them uses gets
    the number of the part, from 1 on.
    """
    own = [{k: v for k, v in p.noted.items() if v is not batch.noted.get(k)} for p in made]
    names = [name for each in own for name in each]
    found = dict(batch.noted)
    for number, each in enumerate(own, 1):
        for name, value in each.items():
            found[name if names.count(name) == 1 else f"{name} {number}"] = value
    return found


def _perturbed() -> InputError:
    return InputError(
        "a sum whose parts perturb weights", "one perturbation", "write AWP(Sum(...))"
    )
