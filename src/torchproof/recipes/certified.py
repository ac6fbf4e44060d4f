"""Recipes of certified training: settings of the authors as far as they are given, on smaller
networks.

The checkpoint that attacks choose need not be one whose bounds are tight: certify last.safetensors.
"""

from __future__ import annotations

from torchproof.recipes.cifar10 import CROP_FLIP
from torchproof.recipes.plan import Plan
from torchproof.train import Settings

MODEL = "small-cnn(widths=(32, 64), hidden=512)"
_LONG, _SHORT = "Ramp(0.05, 0.3)", "Ramp(0, 20/70)"
_CIFAR = "Ramp(0.1, 0.6, smoothed=True)"


def _settings(epochs: int, batch_size: int = 100) -> Settings:
    return Settings.of(epochs=epochs, batch_size=batch_size, lr=5e-4, optimiser="adam",
                       schedule="proved", weight_decay=0.0)  # fmt: skip


def _mnist(method: str, epochs: int, threat: str = "linf:0.3") -> Plan:
    return Plan(data="mnist", model=MODEL, method=method, threat=threat, settings=_settings(epochs))


def _cifar10(method: str, epochs: int) -> Plan:
    """Batches of 512, smaller where that does not fit; rates drop as on MNIST."""
    return Plan(
        data="cifar10", model=MODEL, method=method, threat="linf:8/255", augment=CROP_FLIP,
        settings=_settings(epochs, 512),
    )  # fmt: skip


def mnist_ibp() -> Plan:
    """IBP on MNIST: eps up to 0.4 for 0.3, over epochs 10 to 60 of 200 (Gowal et al. 2019; ramp and
    rates of Zhang et al. 2020; smaller network).
    """
    return _mnist(f"IBP(ramp={_LONG}, widen=4/3)", 200)


def mnist_crown_ibp() -> Plan:
    """CROWN-IBP on MNIST: eps up to 0.4 for 0.3, over epochs 10 to 60 of 200 (Zhang et al. 2020;
    smaller network).
    """
    return _mnist(f"CROWNIBP(ramp={_LONG}, widen=4/3)", 200)


def mnist_fast_ibp() -> Plan:
    """IBP on MNIST with regularisers instead of a long ramp, 20 of 70 epochs (Shi et al. 2021;
    without batch norm, smaller network).
    """
    method = f"Sum(IBP(ramp={_SHORT}, widen=4/3), FastWarmUp(ramp={_SHORT}, widen=4/3))"
    return _mnist(method, 70)


def mnist_sabr() -> Plan:
    """SABR on MNIST at 0.1, boxes of 0.4 eps, with the ramp, regularisers and epochs of fast
    warm-up (Mueller et al. 2023; smaller network).
    """
    method = f"Sum(SABR(ramp={_SHORT}, lam=0.4), FastWarmUp(ramp={_SHORT}), L1(1e-5))"
    return _mnist(method, 70, "linf:0.1")


def mnist_taps() -> Plan:
    """TAPS on MNIST at 0.1, trained at 0.2, with the ramp, regularisers and epochs of fast warm-up
    (Mao et al. 2023, settings of CTBench, Mao et al. 2024; smaller network without batch norm).
    """
    taps = f"TAPS(ramp={_SHORT}, widen=2, kappa=(0.3, 0.3), steps=10, length=0.2)"
    method = f"Sum({taps}, FastWarmUp(ramp={_SHORT}, widen=2), L1(2e-6))"
    return _mnist(method, 70, "linf:0.1")


def cifar10_ibp() -> Plan:
    """IBP on CIFAR-10: eps up to 8.8/255 for 8/255, 3,200 epochs (Gowal et al. 2019; ramp of Zhang
    et al. 2020; smaller network).
    """
    return _cifar10(f"IBP(ramp={_CIFAR}, widen=1.1)", 3200)


def cifar10_crown_ibp() -> Plan:
    """CROWN-IBP on CIFAR-10: eps up to 8.8/255 for 8/255, 3,200 epochs (Zhang et al. 2020; smaller
    network).
    """
    return _cifar10(f"CROWNIBP(ramp={_CIFAR}, widen=1.1)", 3200)


def cifar10_sabr() -> Plan:
    """SABR on CIFAR-10, boxes of 0.7 eps at 8/255, with the ramp, regularisers and epochs of fast
    warm-up (Mueller et al. 2023; smaller network).
    """
    ramp = "Ramp(0, 0.5)"
    method = f"Sum(SABR(ramp={ramp}, lam=0.7), FastWarmUp(ramp={ramp}), L1(1e-5))"
    return _cifar10(method, 160)


def cifar10_diffai() -> Plan:
    """DiffAI's box domain on CIFAR-10: radius and weight of the bounded loss grow from epoch 10 to
    160, the weight to a half (Mirman et al. 2018, scripts of the authors' third version; smaller
    network, 200 epochs in all).
    """
    plan = _cifar10("DiffAI(ramp=Ramp(0.05, 0.8))", 200)
    more = {"batch_size": 50, "lr": 1e-3}
    return plan.model_copy(update={"settings": plan.settings.model_copy(update=more)})


def cifar10_colt() -> Plan:
    """COLT on CIFAR-10 at 2/255: a stage of 200 epochs each for the input and two layers, mixed
    over the first 60 (Balunovic and Vechev 2020, authors' scripts; smaller network, one schedule of
    the rate for all stages, no ReLU stability).
    """
    settings = Settings.of(epochs=600, batch_size=100, lr=0.03, optimiser="sgd", schedule="cosine",
                           weight_decay=0.0)  # fmt: skip
    return Plan(
        data="cifar10", model=MODEL, threat="linf:2/255", augment=CROP_FLIP, settings=settings,
        method="COLT(widen=1.05, growth=1.1, mix=0.3, decay=1e-5)",
    )  # fmt: skip
