"""PGD on the loss of the last head of a network and of the probes inside it together, against
blocks that let a probe decide (CIFS, Yan et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.combine import Attack
from torchproof.attack.oracle import Oracle, Plain
from torchproof.attack.pgd import PGD
from torchproof.attack.starts import Start, Uniform
from torchproof.core.asides import listening
from torchproof.core.errors import InputError, ModelError
from torchproof.core.objectives import Classification, Goal, hard, margin
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat


def heads(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and those of the P probes inside, as they told them: (B, P, K). Raises
    ModelError for a model that answers anything but logits.
    """
    with listening() as told:
        z: Any = model(x)
    if not isinstance(z, Tensor):
        remedy = "attack a model that may reject by the objective Rejecting"
        raise ModelError(f"an answer of type {type(z).__name__}", "logits (B, K)", remedy)
    probes = told.get("probe", [])
    return z, torch.stack(probes, 1) if probes else z.new_zeros(len(z), 0, z.shape[1])


def joint(final: Tensor, probes: Tensor, beta: float) -> Tensor:
    """J_beta = 3 / (beta + 1) (final + beta times the mean of the probes), losses (B,) from (B,)
    and (B, P) (Yan et al. 2021, as in the authors' code); without probes their term is 0.
    """
    mean = probes.mean(1) if probes.shape[1] else torch.zeros_like(final)
    return 3 / (beta + 1) * (final + beta * mean)


def require_beta(beta: float) -> None:
    """Raises InputError for what is no weight of the probes."""
    if not 0 <= beta < float("inf"):
        remedy = "0 asks the last head alone; the authors train with 2"
        raise InputError(f"beta = {beta!r}", "a number >= 0", remedy)


class Told(nn.Module):
    """Images to a table of two tensors, `logits` (B, K) and `probes` (B, P, K)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.draws = getattr(model, "draws", 1)
        self.training = getattr(model, "training", False)  # not .train(): parts may be frozen

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z, probes = heads(self.model, x)
        return {"logits": z, "probes": probes}


def overheard(oracle: Oracle) -> Oracle:
    """The oracle with a model that also answers with what probes tell; for `Attack.wrap`."""
    if isinstance(oracle, Plain):
        return replace(oracle, model=Told(oracle.model))
    inner: Any = oracle
    return replace(inner, inner=overheard(inner.inner)) if hasattr(inner, "inner") else oracle


@dataclass(frozen=True)
class JointCrossEntropy(Classification):
    """J_beta of the cross-entropies of all heads (see `joint`); verdict and score are about the
    last head alone. For an attack with wrap=overheard, such as `joint_pgd`.
    """

    beta: float = 2.0

    def __post_init__(self) -> None:
        require_beta(self.beta)

    def loss(self, out: Any, goal: Goal) -> Tensor:
        z, probes = _parts(out)
        count = probes.shape[1]
        each = F.cross_entropy(
            probes.flatten(0, 1), goal.y.repeat_interleave(count, 0), reduction="none"
        )
        final = F.cross_entropy(z, goal.y, reduction="none")
        return joint(final, each.reshape(len(z), count), self.beta)

    def won(self, out: Any, goal: Goal) -> Tensor:
        return _parts(out)[0].argmax(1) != hard(goal.y)

    def score(self, out: Any, goal: Goal) -> Tensor:
        return margin(_parts(out)[0], hard(goal.y))


def _parts(out: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(out, Mapping) or not {"logits", "probes"} <= set(out):
        given = sorted(map(str, out)) if isinstance(out, Mapping) else type(out).__name__
        remedy = "attack with joint_pgd, or Attack(..., wrap=overheard)"
        raise ModelError(f"an answer of {given}", "a table of logits and probes", remedy)
    return out["logits"], out["probes"]


def joint_pgd(
    threat: AnyThreat,
    beta: float = 2.0,
    steps: int = 20,
    length: float = 0.1,
    start: Start = Uniform(),
) -> Attack:
    """PGD on the last head and the probes of CIFS blocks together (Yan et al. 2021).

    beta: the weight of the probes, 0 for the last head alone; a network without probes is attacked
    on its cross-entropy. The authors start at the clean image: start=Zero().
    """
    search = PGD(steps, length, start)
    return Attack(threat, JointCrossEntropy(beta), search, wrap=overheard)
