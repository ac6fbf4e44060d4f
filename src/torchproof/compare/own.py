"""The attacks of torchproof itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchproof.attack import ATTACKS, Chain, Run
from torchproof.compare.library import Library, Offer, Plan
from torchproof.core.errors import InputError

_NAMES = {
    "fgsm": "FGSM", "pgd": "PGD", "apgd-ce": "APGD-CE", "apgd-dlr": "APGD-DLR", "apgd-t": "APGD-T",
    "fab-t": "FAB-T", "deepfool": "DeepFool", "square": "Square",
}  # fmt: skip
_MEMBERS = ("apgd-ce", "apgd-t", "fab-t", "square")  # of AutoAttack


def _offers(plan: Plan) -> dict[str, Offer]:
    matched: dict[str, dict[str, Any]] = {
        "pgd": {"steps": plan.count, "length": plan.stride},
        "apgd-ce": {"steps": plan.count},
        "apgd-dlr": {"steps": plan.count},
        "apgd-t": {"steps": plan.count, "targets": plan.targets},
        "fab-t": {"steps": plan.count, "targets": plan.targets},
        "deepfool": {"steps": plan.count, "targets": plan.targets},
        "square": {"queries": plan.count},
    }
    found = {
        name: Offer(ATTACKS[known], matched=matched.get(name, {}))
        for name, known in _NAMES.items()
        if known in ATTACKS
    }
    every = {**found, "autoattack": Offer(autoattack)}
    return {name: offer for name, offer in every.items() if _fits(offer, plan)}


def _fits(offer: Offer, plan: Plan) -> bool:
    """Is there such an attack for this norm?"""
    try:
        offer.function(plan.threat, **offer.arguments(plan))
    except InputError:
        return False
    return True


def autoattack(threat: object, members: tuple[str, ...] = _MEMBERS) -> Chain:
    """The four members of AutoAttack in its order, with its budgets."""
    return Chain([ATTACKS[_NAMES[name]](threat) for name in members])


def _call(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    attack = offer.function(plan.threat, **offer.arguments(plan))
    found = attack(model, x, y, run=Run(seed=plan.seed, slots=plan.batch))
    assert isinstance(found.value, Tensor)
    return torch.clamp(x + found.value.to(x), plan.threat.low, plan.threat.high)


OWN = Library("torchproof", "torchproof", "", _offers, _call, whole=True)
