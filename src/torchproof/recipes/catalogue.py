"""Recipes: plans by name. The settings are those of the papers named; none of the figures is
ours.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torchproof.core.errors import FileError, InputError, TorchproofError, unknown
from torchproof.recipes import smoothed
from torchproof.recipes.certified import (
    cifar10_colt,
    cifar10_crown_ibp,
    cifar10_diffai,
    cifar10_ibp,
    cifar10_sabr,
    mnist_crown_ibp,
    mnist_fast_ibp,
    mnist_ibp,
    mnist_sabr,
    mnist_taps,
)
from torchproof.recipes.cifar10 import cifar10 as _cifar
from torchproof.recipes.cifar10 import (
    cifar10_alp,
    cifar10_cifs,
    cifar10_ema,
    cifar10_feature_denoising,
    cifar10_hat,
    cifar10_he,
    cifar10_hgd,
    cifar10_iat,
    cifar10_iat_manifold,
    cifar10_jsigr,
    cifar10_label_smoothing,
    cifar10_mart,
    cifar10_score,
    cifar10_sparta,
    cifar10_spat,
    cifar10_standard,
    cifar10_swa,
    cifar10_thrm,
    cifar10_trades,
)
from torchproof.recipes.continued import (
    cifar10_ladder,
    cifar10_rat,
    mnist_ladder,
    mnist_rat,
    mnist_standard,
)
from torchproof.recipes.extra import cifar10_generated, cifar10_pseudo_labelled
from torchproof.recipes.ode import mnist_odenet, mnist_tisode
from torchproof.recipes.plan import Plan
from torchproof.recipes.single_step import (
    cifar10_fast_at,
    cifar10_fgsm_at,
    cifar10_free_at,
    cifar10_grad_align,
    cifar10_mma,
    cifar10_n_fgsm,
)
from torchproof.train import Settings

EXPECTED = "a function without arguments that returns a torchproof.recipes.Plan"
REMEDY = "return Plan(data=..., model=..., method=..., threat=...)"


def digits_standard() -> Plan:
    """A small CNN on the bundled digits, trained on clean images: the fragile twin of digits-at."""
    settings = Settings.of(epochs=40, batch_size=64, lr=2e-3, optimiser="adam", schedule="cyclic",
                           weight_decay=1e-4)  # fmt: skip
    return Plan(
        data="digits",
        model=DIGITS_MODEL,
        method="Standard",
        threat=DIGITS_THREAT,
        settings=settings,
    )


def digits_at() -> Plan:
    """A small CNN on the bundled digits, adversarially trained; the network of the quickstart."""
    method = "AT(steps=7, ramp=0.2)"
    return digits_standard().model_copy(update={"method": method})


def mnist_at() -> Plan:
    """Madry et al. 2018 on MNIST: eps 0.3, 40 steps of 0.01, Adam 1e-4, batch 50 (smaller network,
    and eps grows over the first fifth).
    """
    settings = Settings.of(epochs=84, batch_size=50, lr=1e-4, optimiser="adam", schedule="constant",
                           weight_decay=0.0)  # fmt: skip
    return Plan(
        data="mnist",
        model="small-cnn(widths=(32, 64), hidden=1024)",
        method="AT(steps=40, length=0.01/0.3, ramp=0.2)",
        threat="linf:0.3",
        settings=settings,
    )


def cifar10_at() -> Plan:
    """PGD adversarial training of a PreActResNet-18 on CIFAR-10, 200 epochs (Rice et al. 2020)."""
    return _cifar("AT(steps=10, length=0.25)")


def cifar10_awp() -> Plan:
    """Adversarial weight perturbation, gamma 0.01, on CIFAR-10 (Wu et al. 2020)."""
    return _cifar("AWP(AT(steps=10, length=0.25), gamma=0.01)")


def cifar10_fat() -> Plan:
    """Friendly adversarial training of AT on CIFAR-10, 120 epochs (Zhang et al. 2020; smaller
    network, and one drop of the learning rate less).
    """
    method = "FAT(AT(steps=10, length=0.007/0.031, noise=0.001), tau='AT')"
    return _cifar(method, epochs=120, weight_decay=2e-4)


def cifar10_fat_trades() -> Plan:
    """Friendly adversarial training of TRADES on CIFAR-10, 85 epochs (Zhang et al. 2020; smaller
    network, drops after three quarters and nine tenths).
    """
    more = {"epochs": 85, "weight_decay": 2e-4, "schedule": "late"}
    return _cifar("FAT(TRADES(beta=6), tau='TRADES')", **more)


def cifar10_fat_mart() -> Plan:
    """Friendly adversarial training of MART on CIFAR-10, 90 epochs (Zhang et al. 2020; smaller
    network, drops after a half and three quarters).
    """
    return _cifar("FAT(MART(lam=6), tau='MART')", epochs=90, weight_decay=2e-4)


# linf 0.15 on 8 x 8 digits: chosen so that the standard twin falls below 25 % (it is far below).
DIGITS_THREAT = "linf:0.15"
DIGITS_MODEL = "small-cnn(widths=(32, 64), hidden=128)"

RECIPES: dict[str, Callable[[], Plan]] = {
    "digits-standard": digits_standard,
    "digits-at": digits_at,
    "mnist-at": mnist_at,
    "mnist-standard": mnist_standard,
    "mnist-rat": mnist_rat,
    "mnist-ladder": mnist_ladder,
    "cifar10-rat": cifar10_rat,
    "cifar10-ladder": cifar10_ladder,
    "mnist-odenet": mnist_odenet,
    "mnist-tisode": mnist_tisode,
    "cifar10-at": cifar10_at,
    "cifar10-trades": cifar10_trades,
    "cifar10-mart": cifar10_mart,
    "cifar10-label-smoothing": cifar10_label_smoothing,
    "cifar10-swa": cifar10_swa,
    "cifar10-ema": cifar10_ema,
    "cifar10-generated": cifar10_generated,
    "cifar10-pseudo-labelled": cifar10_pseudo_labelled,
    "cifar10-jsigr": cifar10_jsigr,
    "cifar10-awp": cifar10_awp,
    "cifar10-fat": cifar10_fat,
    "cifar10-fat-trades": cifar10_fat_trades,
    "cifar10-fat-mart": cifar10_fat_mart,
    "cifar10-fgsm-at": cifar10_fgsm_at,
    "cifar10-fast-at": cifar10_fast_at,
    "cifar10-n-fgsm": cifar10_n_fgsm,
    "cifar10-grad-align": cifar10_grad_align,
    "cifar10-free-at": cifar10_free_at,
    "cifar10-mma": cifar10_mma,
    "cifar10-iat": cifar10_iat,
    "cifar10-iat-manifold": cifar10_iat_manifold,
    "cifar10-spat": cifar10_spat,
    "cifar10-thrm": cifar10_thrm,
    "cifar10-alp": cifar10_alp,
    "cifar10-score": cifar10_score,
    "cifar10-sparta": cifar10_sparta,
    "cifar10-standard": cifar10_standard,
    "cifar10-hat": cifar10_hat,
    "cifar10-he": cifar10_he,
    "cifar10-hgd": cifar10_hgd,
    "cifar10-cifs": cifar10_cifs,
    "cifar10-feature-denoising": cifar10_feature_denoising,
    "mnist-ibp": mnist_ibp,
    "mnist-crown-ibp": mnist_crown_ibp,
    "mnist-fast-ibp": mnist_fast_ibp,
    "mnist-sabr": mnist_sabr,
    "mnist-taps": mnist_taps,
    "cifar10-ibp": cifar10_ibp,
    "cifar10-crown-ibp": cifar10_crown_ibp,
    "cifar10-sabr": cifar10_sabr,
    "cifar10-diffai": cifar10_diffai,
    "cifar10-colt": cifar10_colt,
    **smoothed.RECIPES,
}


def recipe(spec: str) -> Plan:
    """A plan by its name, or from `file.py:function`, a function that returns a `Plan`.

    Naming a file runs it. Raises UnknownName, FileError, InputError.
    """
    if ".py:" not in spec:
        if spec not in RECIPES:
            raise unknown("recipe", spec, RECIPES)
        return RECIPES[spec]()
    name, _, function = spec.rpartition(":")
    path = Path(name)
    if not path.is_file():
        raise FileError(f"recipe {spec}", "an existing file before the colon", "check the path")
    try:
        with _module(path) as module:
            made = getattr(module, function, None)
            plan = made() if callable(made) else made
    except TorchproofError:
        raise
    except Exception as error:  # whatever the user's own code raises
        reason = " ".join(str(error).split())
        raise InputError(
            f"{spec}, which raised {type(error).__name__}: {reason}", EXPECTED, REMEDY
        ) from error
    if not isinstance(plan, Plan):
        given = f"gives {type(plan).__name__}" if made is not None else f"has no {function!r}"
        raise InputError(f"{spec}, which {given}", EXPECTED, REMEDY)
    return plan


@contextmanager
def _module(path: Path) -> Iterator[ModuleType]:
    """The module of a file, which may import its neighbours, as a script may."""
    name = f"torchproof_recipe_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module, folder = importlib.util.module_from_spec(spec), str(path.parent.resolve())
    sys.path.insert(0, folder)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)
