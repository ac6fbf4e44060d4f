"""Recipes of single-step training on CIFAR-10: the short cyclic schedule, watched for catastrophic
overfitting.
"""

from __future__ import annotations

from torchproof.recipes.cifar10 import cifar10
from torchproof.recipes.plan import Plan


def _watched(method: str, options: str = "", **more: object) -> Plan:
    given = {"epochs": 30, "lr": 0.2, "schedule": "cyclic", "monitor_steps": 200, **more}
    return cifar10(method, "preact-resnet18", options, **given)


def cifar10_fgsm_at() -> Plan:
    """FGSM-AT with masked pixels, a strided stem, a smooth activation and a decayed first layer
    (reconstructed after Li et al. 2022).
    """
    method = "Sum(FGSMAT(mask=RandomMask(0.4)), FirstLayer(decay=0.005))"
    return _watched(method, "activation='silu', stem_stride=2, ")


def cifar10_fast_at() -> Plan:
    """Fast adversarial training (FGSM-RS) on CIFAR-10, 15 epochs (Wong, Rice and Kolter 2020)."""
    return _watched("FastAT(length=1.25)", epochs=15)


def cifar10_n_fgsm() -> Plan:
    """N-FGSM, noise of twice the radius, on CIFAR-10 (de Jorge et al. 2022)."""
    return _watched("NFGSM(k=2)")


def cifar10_mma() -> Plan:
    """Max-margin adversarial training with margins up to 12/255, 128 epochs (Ding et al. 2020:
    50,000 steps of 128 from a rate of 0.3 in four steps; smaller network).
    """
    return cifar10("MMA(steps=10, most=1.5)", epochs=128, lr=0.3, weight_decay=2e-4)


def cifar10_free_at() -> Plan:
    """Free adversarial training on CIFAR-10, each batch 8 times (Shafahi et al. 2019; their 205
    epochs divided by 8).
    """
    return cifar10("FreeAT(m=8)", epochs=26, weight_decay=2e-4)


def cifar10_grad_align() -> Plan:
    """GradAlign on CIFAR-10, lambda 0.2 (Andriushchenko and Flammarion 2020)."""
    return _watched("Sum(FGSMAT(), GradAlign(lam=0.2))", lr=0.3)
