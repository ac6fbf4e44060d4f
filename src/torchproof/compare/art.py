"""ART, the Adversarial Robustness Toolbox (Nicolae et al. 2018): estimators, numpy arrays."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor, nn

from torchproof.compare.library import Library, Offer, Plan
from torchproof.core.norms import L1, L2


def _offers(plan: Plan) -> dict[str, Offer]:
    lib = importlib.import_module("art.attacks.evasion")
    normed = {"norm": plan.order, "eps": plan.eps, "batch_size": plan.batch}
    quiet = {**normed, "verbose": False}
    pgd = {"eps_step": plan.stride * plan.eps, "max_iter": plan.count, "num_random_init": 1}
    # APGD's first step is twice the radius (Croce and Hein 2020a)
    apgd = {"eps_step": 2 * plan.eps, "max_iter": plan.count, "nb_random_init": 1}
    dlr = {"loss_type": "difference_logits_ratio"}
    found = {
        "fgsm": Offer(lib.FastGradientMethod, normed),
        "pgd": Offer(lib.ProjectedGradientDescentPyTorch, quiet, pgd),
    }
    if plan.norm is L1:
        return found
    square = {"max_iter": plan.count}
    more = {
        "apgd-ce": Offer(
            lib.AutoProjectedGradientDescent, {**quiet, "loss_type": "cross_entropy"}, apgd
        ),
        "apgd-dlr": Offer(lib.AutoProjectedGradientDescent, {**quiet, **dlr}, apgd),
        "square": Offer(lib.SquareAttack, quiet, square),
    }
    if plan.norm is L2:
        nearest = {"max_iter": plan.count, "epsilon": 0.02, "nb_grads": plan.targets + 1}
        given = {"batch_size": plan.batch, "verbose": False}
        more["deepfool"] = Offer(lib.DeepFool, given, nearest)
    return {**found, **more}


def _call(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    estimators = importlib.import_module("art.estimators.classification")
    estimator = estimators.PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=plan.classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if plan.device.type == "cuda" else "cpu",
    )
    attack = offer.function(estimator, **offer.arguments(plan))
    points = attack.generate(x=x.cpu().numpy(), y=y.cpu().numpy())
    return torch.from_numpy(points)


ART = Library(
    "art",
    "adversarial-robustness-toolbox",
    "run `pip install 'torchproof[art]'`",
    _offers,
    _call,
)
