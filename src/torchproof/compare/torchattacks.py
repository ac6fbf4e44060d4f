"""torchattacks (Kim 2020): classes made of a model, called on a batch."""

from __future__ import annotations

import importlib

from torch import Tensor, nn

from torchproof.compare.library import Library, Offer, Plan
from torchproof.core.norms import L1, L2, Linf


def _offers(plan: Plan) -> dict[str, Offer]:
    lib = importlib.import_module("torchattacks")
    eps, steps = {"eps": plan.eps}, {"steps": plan.count}
    if plan.norm is L1:
        return {}
    normed = {"norm": plan.label, "eps": plan.eps}
    pgd = {"alpha": plan.stride * plan.eps, **steps, "random_start": True}
    classes = {"n_classes": plan.targets + 1}
    many = {"multi_targeted": True, **classes}
    found = {
        "pgd": Offer(lib.PGD if plan.norm is Linf else lib.PGDL2, eps, pgd),
        "apgd-ce": Offer(lib.APGD, {**normed, "loss": "ce", "seed": plan.seed}, steps),
        "apgd-dlr": Offer(lib.APGD, {**normed, "loss": "dlr", "seed": plan.seed}, steps),
        "apgd-t": Offer(lib.APGDT, {**normed, **classes, "seed": plan.seed}, steps),
        "fab-t": Offer(lib.FAB, {**normed, **many, "seed": plan.seed}, steps),
        "square": Offer(
            lib.Square,
            {**normed, "seed": plan.seed},
            {"n_queries": plan.count, "resc_schedule": False},
        ),
        "autoattack": Offer(lib.AutoAttack, {**normed, **classes, "seed": plan.seed}),
    }
    only = {"fgsm": Offer(lib.FGSM, eps)} if plan.norm is Linf else {}
    more = {"deepfool": Offer(lib.DeepFool, {}, steps)} if plan.norm is L2 else {}
    return {**found, **only, **more}


def _call(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    points: Tensor = offer.function(model, **offer.arguments(plan))(x, y)
    return points


TORCHATTACKS = Library(
    "torchattacks",
    "torchattacks",
    "run `pip install 'torchproof[torchattacks]'`",
    _offers,
    _call,
)
