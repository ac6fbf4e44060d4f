"""adv-lib (Rony and Ben Ayed 2020): functions of a model, images and labels."""

from __future__ import annotations

import importlib

from torch import Tensor, nn

from torchproof.compare.library import Library, Offer, Plan
from torchproof.core.norms import L1, Linf


def _offers(plan: Plan) -> dict[str, Offer]:
    lib = importlib.import_module("adv_lib.attacks")
    within = {"eps": plan.eps, "norm": plan.order}
    steps, many = {"n_iter": plan.count}, {"targeted_restarts": True, "restarts": plan.targets}
    large = {"use_large_reps": plan.norm is L1}  # AutoAttack's way in L1
    found = {
        "apgd-ce": Offer(lib.apgd, {**within, "loss_function": "ce"}, {**steps, **large}),
        "apgd-dlr": Offer(lib.apgd, {**within, "loss_function": "dlr"}, {**steps, **large}),
        "apgd-t": Offer(
            lib.apgd_targeted, {**within, "num_targets": plan.targets}, {**steps, **large}
        ),
        "fab-t": Offer(lib.fab, {"norm": plan.order, **many}, steps),
    }
    if plan.norm is Linf:
        pgd = {"steps": plan.count, "relative_step_size": plan.stride}
        found["pgd"] = Offer(lib.pgd_linf, {"ε": plan.eps}, pgd)
    if plan.norm is not L1:
        found["deepfool"] = Offer(lib.df, {"norm": plan.order}, {"steps": plan.count})
    return found


def _call(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    points: Tensor = offer.function(model, x, y, **offer.arguments(plan))
    return points


ADV_LIB = Library("adv-lib", "adv-lib", "run `pip install 'torchproof[adv-lib]'`", _offers, _call)
