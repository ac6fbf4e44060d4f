"""Recipes of the study of neural ODEs (Yan et al. 2020): nets of 140,000 weights on MNIST with
Gaussian noise, which make no adversarial examples.
"""

from __future__ import annotations

from torchproof.recipes.plan import Plan
from torchproof.train import Settings

NOISE = "GaussianNoise(sigmas=(50/255, 75/255, 100/255), p=0.5)"


def mnist_odenet() -> Plan:
    """An ODENet on MNIST with Gaussian noise, Euler steps of 0.1 (Yan et al. 2020; the threat only
    measures).
    """
    settings = Settings.of(epochs=100, batch_size=128, lr=1e-3, optimiser="adam",
                           schedule="fifths", weight_decay=5e-4, choose="clean")  # fmt: skip
    return Plan(
        data="mnist", model="odenet(h=0.1)", method="Standard", threat="linf:0.2", augment=NOISE,
        settings=settings,
    )  # fmt: skip


def mnist_tisode() -> Plan:
    """A TisODE on MNIST with Gaussian noise, Euler steps of 0.05, penalty over [T, 2T] with weight
    0.1 (Yan et al. 2020; the authors' code has 0.01 and the window [0.9 T, 1.5 T]).
    """
    method = "TisODE(Standard(), lam=0.1, start=0.05)"
    changes = {"model": "tisode(h=0.05)", "method": method}
    return mnist_odenet().model_copy(update=changes)
