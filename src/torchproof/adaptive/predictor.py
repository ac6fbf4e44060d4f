"""A defended predictor: preprocess -> network(s) -> combine -> reject, its parts named: each can be
taken out or differentiated through a substitute, and what it says of itself can be checked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from torchproof.attack.bpda import BPDA
from torchproof.attack.untouched import untouched
from torchproof.core.errors import InputError, unknown
from torchproof.core.rejection import Rejecting, calibrated

COMBINE, REJECT = "combine", "reject"


@dataclass(frozen=True)
class Declared:
    """What a defence says of its forward pass in eval mode; `declaration.declaration` checks it.

    random: two answers to the same image differ; non_differentiable: autograd finds no gradient, or
    one that is zero or not finite (a jump that autograd does not see is no such thing);
    optimises_at_test_time: it runs autograd itself; rejects: it may decline to answer.
    """

    random: bool = False
    non_differentiable: bool = False
    optimises_at_test_time: bool = False
    rejects: bool = False


def _nothing(module: nn.Module) -> nn.Module:
    return nn.Identity()


@dataclass(frozen=True)
class Inside:
    """A part that sits inside the networks: all their modules of type `kind`; plain(module): what
    the undefended network has in its place.
    """

    kind: type[nn.Module]
    plain: Callable[[nn.Module], nn.Module] = _nothing


class MeanLogits(nn.Module):
    """(M, B, K) logits of M networks to their mean (B, K): an ensemble's plainest rule."""

    def forward(self, answers: Tensor) -> Tensor:
        return answers.mean(0)


class Beside(nn.Module):
    """A detector of images alone as a `reject` part: detector(x) is (B,), higher = suspicious."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        score: Tensor = self.detector(x)
        return score


class DefendedPredictor(nn.Module):
    """Images (B, C, H, W) in [0, 1] to logits (B, K); with a `reject` part to a table of `logits`
    and `reject` (B,), higher = more suspicious, judged by `rule`.

    networks: one, or several whose answers (M, B, K) `combine` makes into (B, K), by default their
    mean. preprocess: modules images -> images by name, in order. reject(x, logits): x as it came
    in. inside: parts within the networks by name. A network that returns a table is believed about
    its `logits`, and its other entries (such as `features`) are handed on. declared: None where
    nothing is.

    `parts` are the names of all that can be taken out: those of preprocess and inside, "combine"
    where there are several networks, "reject". Raises InputError for a name twice or no network.
    """

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module],
        *,
        preprocess: Mapping[str, nn.Module] | None = None,
        inside: Mapping[str, Inside] | None = None,
        combine: nn.Module | None = None,
        reject: nn.Module | None = None,
        declared: Declared | None = Declared(),
        rule: Rejecting | None = None,
    ) -> None:
        super().__init__()
        many = [networks] if isinstance(networks, nn.Module) else list(networks)
        if not many:
            raise InputError("no network", "at least one", "pass the trained network")
        self.networks = nn.ModuleList(many)
        self.preprocess = nn.ModuleDict(dict(preprocess or {}))
        self.combine = combine if combine is not None else MeanLogits()
        self.reject = reject
        self.inside, self.declared, self.rule = dict(inside or {}), declared, rule
        names = self.parts
        if len(set(names)) < len(names):
            raise InputError(f"parts {names}", "names that differ", "rename one")
        self.training = False  # not .eval(), which would reset frozen parts

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts, in the order in which an image meets them."""
        several = (COMBINE,) if len(self.networks) > 1 else ()
        last = () if self.reject is None else (REJECT,)
        return (*self.preprocess, *self.inside, *several, *last)

    def forward(self, x: Tensor) -> Any:
        if not torch.is_inference_mode_enabled():
            return self._answer(x)
        # a part that optimises at test time could differentiate nothing there
        with torch.inference_mode(False), torch.no_grad():
            return self._answer(x.clone() if x.is_inference() else x)

    def _answer(self, x: Tensor) -> Any:
        out = self.unjudged(x)
        return out if self.reject is None else self.judged(x, out)

    def unjudged(self, x: Tensor) -> Any:
        """The answer before the `reject` part."""
        seen, more = x, {}
        for part in self.preprocess.values():
            seen = part(seen)
        answers: list[Tensor] = []
        for network in self.networks:
            out: Any = network(seen)
            if isinstance(out, Mapping):
                more = {k: v for k, v in out.items() if k != "logits"}
                out = out["logits"]
            answers.append(out)
        logits: Tensor = answers[0] if len(answers) == 1 else self.combine(torch.stack(answers))
        return {"logits": logits, **more} if more else logits

    def judged(self, x: Tensor, out: Any) -> dict[str, Tensor]:
        """`out`, the answer before the `reject` part, with what that says of images x."""
        table = out if isinstance(out, dict) else {"logits": out}
        assert self.reject is not None
        return {**table, "reject": self.reject(x, table["logits"])}

    def without(self, part: str) -> DefendedPredictor:
        """A copy with the part taken out: the surrogate. A part of `preprocess` or `reject` goes,
        one `inside` gives way to its plain module, `combine` to the mean of the logits.

        Raises UnknownName.
        """
        self._check(part)
        made = copy.deepcopy(self)
        if part in made.preprocess:
            del made.preprocess[part]
        elif part == REJECT:
            made.reject, made.rule = None, None
        elif part == COMBINE:
            made.combine = MeanLogits()
        else:
            spot = made.inside.pop(part)
            _replace(made.networks, spot.kind, spot.plain)
        return made

    def substituted(self, part: str, module: nn.Module | None = None) -> DefendedPredictor:
        """A copy that answers as before, whose gradient takes the way through `module` at this part
        (BPDA, Athalye et al. 2018); by default the identity. For `reject` the module takes
        (x, logits).

        Raises UnknownName.
        """
        self._check(part)
        made = copy.deepcopy(self)

        def through(layer: nn.Module) -> nn.Module:
            return BPDA(layer, copy.deepcopy(module))

        if part in made.preprocess:
            made.preprocess[part] = through(made.preprocess[part])
        elif part == REJECT:
            if module is None:
                remedy = "pass a module of (x, logits) to scores (B,)"
                raise InputError("the identity instead of `reject`", "scores", remedy)
            assert made.reject is not None
            made.reject = _Stand(made.reject, module)
        elif part == COMBINE:
            made.combine = BPDA(made.combine, MeanLogits() if module is None else module)
        else:
            _replace(made.networks, made.inside[part].kind, through)
        return made

    def calibrated(self, x: Tensor, rejected: float = 0.05) -> Self:
        """Itself, with a `rule` that rejects the share `rejected` of the clean images x."""
        with untouched(self):
            self.rule = calibrated(self, x, rejected)
        return self

    def _check(self, part: str) -> None:
        if part not in self.parts:
            raise unknown("part", part, self.parts)


class _Stand(nn.Module):
    """BPDA for a module of two arguments."""

    def __init__(self, layer: nn.Module, surrogate: nn.Module) -> None:
        super().__init__()
        self.layer, self.surrogate = layer, surrogate

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        smooth: Tensor = self.surrogate(x, logits)
        exact: Tensor = self.layer(x, logits)
        return exact.detach() + (smooth - smooth.detach())


def _replace(
    root: nn.Module, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]
) -> None:
    """Puts what `make` makes of it in the place of every module of this type under root."""
    made: dict[int, nn.Module] = {}
    spots = [
        (owner, name, child)
        for owner in root.modules()
        for name, child in owner.named_children()
        if isinstance(child, kind)
    ]
    if not spots:
        given = f"networks without a module of type {kind.__name__}"
        raise InputError(given, "at least one", "name the type that the networks hold")
    for owner, name, child in spots:
        made.setdefault(id(child), make(child))
        setattr(owner, name, made[id(child)])
