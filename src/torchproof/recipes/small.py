"""The small variant of each recipe: minutes on two cores, on 5,000 images of MNIST."""

from __future__ import annotations

from typing import Any

from torchproof.core.errors import InputError
from torchproof.recipes import smoothed
from torchproof.recipes.catalogue import RECIPES, recipe
from torchproof.recipes.plan import Plan
from torchproof.train import Settings

SETTINGS = {
    "epochs": 8, "lr": 2e-3, "batch_size": 100, "optimiser": "adam", "schedule": "cyclic",
    "weight_decay": 0.0, "held_out": 500,
}  # fmt: skip
# eps grows at first: small networks otherwise stay at a constant answer.
_PGD = "steps=7, length=0.25, ramp=0.2"
_RAMP = "Ramp(0.1, 0.7)"
_FEW = "steps=3, length=0.5"
_IBP = f"IBP(ramp={_RAMP})"
_SMOOTH = "small-cnn(activation='softplus')"

# What stands for the method of each recipe, and the network where it is not the plain one.
METHODS: dict[str, str] = {
    "cifar10-standard": "Standard",
    "cifar10-at": f"AT({_PGD})",
    "cifar10-trades": f"TRADES({_PGD}, beta=6)",
    "cifar10-mart": f"MART({_PGD}, lam=3)",
    "cifar10-label-smoothing": f"LabelSmoothing(AT({_PGD}), amount=0.1)",
    "cifar10-ema": f"EMA(TRADES({_PGD}, beta=6), decay=0.995)",
    "cifar10-swa": f"SWA(AT({_PGD}), start=0.5)",
    "cifar10-generated": f"EMA(LabelSmoothing(TRADES({_PGD}, beta=6), amount=0.1), decay=0.995)",
    "cifar10-pseudo-labelled": f"TRADES({_PGD}, beta=6)",
    "cifar10-jsigr": f"Sum(AT({_PGD}), JSIGR(jacobian=0.1, selective=0.1, renew=2))",
    "cifar10-awp": f"AWP(AT({_PGD}), gamma=0.01)",
    "cifar10-fat": f"FAT(AT({_PGD}), tau='AT')",
    "cifar10-fat-trades": f"FAT(TRADES({_PGD}, beta=6), tau='TRADES')",
    "cifar10-fat-mart": f"FAT(MART({_PGD}, lam=3), tau='MART')",
    "cifar10-fgsm-at": "Sum(FGSMAT(ramp=0.2, mask=RandomMask(0.4)), FirstLayer(decay=0.005))",
    "cifar10-fast-at": "FastAT(length=1.25, ramp=0.2)",
    "cifar10-n-fgsm": "NFGSM(k=2, ramp=0.2)",
    "cifar10-grad-align": "Sum(FGSMAT(ramp=0.2), GradAlign(lam=0.2))",
    "cifar10-free-at": "FreeAT(m=4)",
    "cifar10-mma": "MMA(steps=7, most=1.5, least=0.33)",
    "cifar10-iat": f"IAT({_PGD}, alpha=1)",
    "cifar10-iat-manifold": f"IAT({_PGD}, alpha=2, layers=('conv1', 'conv2'))",
    "cifar10-spat": f"SPAT({_PGD}, beta=6)",
    "cifar10-thrm": f"THRM({_PGD}, beta=6)",
    "cifar10-alp": f"ALP({_PGD}, lam=0.5)",
    "cifar10-score": f"SCORE({_PGD}, beta=4)",
    "cifar10-sparta": f"AT({_PGD})",
    "cifar10-hat": f"HAT({_PGD}, beta=2.5, gamma=0.5, helper=2)",
    "cifar10-he": f"HE({_PGD}, margin=0.2)",
    "cifar10-hgd": "LGD(eps=(0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2))",
    "cifar10-cifs": f"CIFSAT({_PGD}, beta=2)",
    "cifar10-feature-denoising": f"AT({_PGD})",
    "mnist-ibp": _IBP,
    "mnist-crown-ibp": f"CROWN{_IBP}",
    "mnist-fast-ibp": f"Sum({_IBP}, FastWarmUp(ramp={_RAMP}))",
    "mnist-sabr": f"Sum(SABR(ramp={_RAMP}, lam=0.4, {_FEW}), L1(1e-5))",
    "cifar10-ibp": _IBP,
    "cifar10-crown-ibp": f"CROWN{_IBP}",
    "cifar10-sabr": f"Sum(SABR(ramp={_RAMP}, lam=0.7, {_FEW}), L1(1e-5))",
    "mnist-taps": f"Sum(TAPS(ramp={_RAMP}, {_FEW}), L1(2e-6))",
    "cifar10-diffai": f"DiffAI(ramp={_RAMP}, symbols=8)",
    "cifar10-colt": f"COLT(ramp=Ramp(0.0, 0.2), depth=1, {_FEW})",
    "mnist-standard": "Standard",
    **dict.fromkeys(("mnist-rat", "cifar10-rat"), "RAT(rounds=4, steps=100)"),
    **dict.fromkeys(
        ("mnist-ladder", "cifar10-ladder"),
        "BoundaryGuided('net.fc1', eps=0.75, unit='share', decoding=(14, 64, 3e-3))",
    ),
    "mnist-odenet": "Standard",
    "mnist-tisode": "TisODE(Standard(), lam=0.1, start=0.05)",
    **smoothed.SMALL,
}
MODELS: dict[str, str] = {
    "cifar10-fgsm-at": _SMOOTH,
    **dict.fromkeys(("mnist-standard", "mnist-rat", "mnist-ladder"), "lenet"),
    "cifar10-jsigr": _SMOOTH,
    "cifar10-spat": "small-cnn(head='cosine', scale=8)",
    "cifar10-sparta": "resnet(activation='sparta')",
    "cifar10-he": "small-cnn(head='cosine', scale=10)",
    "cifar10-hgd": "purified(widths=(16, 32, 64), counts=(1, 2, 2))",
    "mnist-odenet": "odenet(h=0.25, width=16, groups=8, readout='flatten')",
    "mnist-tisode": "tisode(h=0.25, width=16, groups=8, readout='flatten')",
    "cifar10-cifs": "resnet(blocks=(1, 2), stem_stride=4, insert={'layer2.0': "
    "\"CIFS(probe='mlp', rescale=True)\", 'layer2.1': 'CIFS(rescale=True)'})",
    "cifar10-feature-denoising": "small-cnn(insert={'act2': \"NonLocal(form='softmax')\"})",
}
# Losses without a clean term need many steps at a high rate, or they stay at a constant answer.
_PROVED = ("mnist-ibp", "mnist-crown-ibp", "mnist-fast-ibp", "mnist-sabr", "mnist-taps",
           "cifar10-ibp", "cifar10-crown-ibp", "cifar10-sabr", "cifar10-diffai",
           "cifar10-colt")  # fmt: skip
# 24 epochs a round, of images that are drawn in one of ten versions
_REGION = {"epochs": 96, "batch_size": 64, "lr": 5e-4, "schedule": "constant", "held_out": 0}
_GUIDED = {"batch_size": 64, "lr": 0.01, "momentum": 0.5, "optimiser": "sgd",
           "schedule": "constant", "held_out": 0}  # fmt: skip
MORE: dict[str, dict[str, Any]] = {
    "mnist-standard": {"epochs": 3, "held_out": 0},
    **dict.fromkeys(("mnist-rat", "cifar10-rat"), _REGION),
    **dict.fromkeys(("mnist-ladder", "cifar10-ladder"), _GUIDED),
    **{name: {"batch_size": 25, "lr": 5e-3, "clip": 10.0} for name in _PROVED},
    # as many steps as 8 epochs of 5,000 images, and less than a third of them labelled
    "cifar10-generated": {"epochs": 12, "held_out": 100, "extra_share": 0.7},
    "cifar10-pseudo-labelled": {"epochs": 20, "held_out": 100, "extra_share": 0.5},
    "cifar10-free-at": {"epochs": 2},  # its epochs have four steps a batch
    "cifar10-hgd": {"held_out": 0},  # clean accuracy does not say which denoiser is best
    **{name: {"held_out": 0} for name in smoothed.SMALL},
}
THREATS: dict[str, str] = {
    **dict.fromkeys(smoothed.SMALL, smoothed.SMALL_THREAT),
    **dict.fromkeys(("mnist-standard", "mnist-rat", "mnist-ladder", "cifar10-rat"), "linf:0.3"),
}
"""Where it is not linf:0.2."""
IMAGES: dict[str, int] = {
    "mnist-standard": 8000,
    **dict.fromkeys(("mnist-rat", "cifar10-rat"), 500),
    **dict.fromkeys(("mnist-ladder", "cifar10-ladder"), 3000),
    "cifar10-generated": 1000,
    "cifar10-pseudo-labelled": 1000,
}
"""Where they are not 5,000."""


def small(name: str) -> Plan:
    """The small variant of a recipe; recipes that are small already are themselves.

    Raises UnknownName for a name that is none, InputError for a recipe without a small variant (one
    of your own).
    """
    full = recipe(name)
    if name not in METHODS and name.startswith(("digits-", "mnist-")):
        return full
    if name not in METHODS:
        remedy = f"choose one of {', '.join(RECIPES)}, or leave --scale out"
        raise InputError(f"recipe {name} at scale small", "a recipe of torchproof's own", remedy)
    settings = Settings.of({**SETTINGS, **MORE.get(name, {}), "ema": full.settings.ema})
    teacher = None if full.teacher is None else f"{full.teacher}-small"
    start = None if full.start is None else f"{full.start}-small"
    labeller = None if full.labeller is None else f"{full.labeller}-small"
    augment = full.augment if full.data == "mnist" else None  # crops and flips are for photographs
    return Plan(
        data="mnist", model=MODELS.get(name, "small-cnn"), method=METHODS[name],
        threat=THREATS.get(name, "linf:0.2"), n=IMAGES.get(name, 5000), settings=settings,
        teacher=teacher, start=start, augment=augment, labeller=labeller,
        extra=None if full.extra is None else "mnist",
    )  # fmt: skip
