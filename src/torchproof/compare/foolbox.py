"""Foolbox (Rauber et al. 2020): attacks with settings only, run on a wrapped model."""

from __future__ import annotations

import importlib

from torch import Tensor, nn

from torchproof.compare.library import Library, Offer, Plan
from torchproof.core.norms import L1, L2, Linf


def _offers(plan: Plan) -> dict[str, Offer]:
    attacks = importlib.import_module("foolbox").attacks
    step = {Linf: attacks.LinfFastGradientAttack, L2: attacks.L2FastGradientAttack,
            L1: attacks.L1FastGradientAttack}  # fmt: skip
    walk = {Linf: attacks.LinfPGD, L2: attacks.L2PGD, L1: attacks.L1PGD}
    pgd = {"rel_stepsize": plan.stride, "steps": plan.count, "random_start": True}
    found = {"fgsm": Offer(step[plan.norm]), "pgd": Offer(walk[plan.norm], {}, pgd)}
    if plan.norm is L1:
        return found
    nearest = attacks.LinfDeepFoolAttack if plan.norm is Linf else attacks.L2DeepFoolAttack
    candidates = {"steps": plan.count, "candidates": plan.targets + 1}
    return {**found, "deepfool": Offer(nearest, {}, candidates)}


def _call(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    lib = importlib.import_module("foolbox")
    wrapped = lib.PyTorchModel(model, bounds=(0, 1), device=plan.device)
    attack = offer.function(**offer.arguments(plan))
    # `run` is the attack alone; calling it would ask the model again to judge the result
    within = {} if plan.attack == "deepfool" else {"epsilon": plan.eps}
    points: Tensor = attack.run(wrapped, x, lib.criteria.Misclassification(y), **within)
    return points


FOOLBOX = Library("foolbox", "foolbox", "run `pip install 'torchproof[foolbox]'`", _offers, _call)
