"""Recipes that train on, from a trained network: region adversarial training and LADDER.

Nothing is held out, and the last weights are kept. The network they start from is the run of
mnist-standard or cifar10-standard, or `--start`.
"""

from __future__ import annotations

from torchproof.recipes.cifar10 import cifar10
from torchproof.recipes.plan import Plan
from torchproof.train import Settings

START, CIFAR10 = "runs/mnist-standard", "runs/cifar10-standard"


def mnist_standard() -> Plan:
    """Plain training of a LeNet on MNIST: what mnist-rat and mnist-ladder start from."""
    settings = Settings.of(epochs=10, batch_size=64, lr=1e-3, optimiser="adam", schedule="cyclic",
                           weight_decay=0.0, held_out=0)  # fmt: skip
    return Plan(data="mnist", model="lenet", method="Standard", threat="linf:0.3",
                settings=settings)  # fmt: skip


def mnist_rat() -> Plan:
    """Region adversarial training on 500 images of MNIST in four rounds, patterns of linf 0.3,
    reconstructed (Wang et al. 2021: only the abstract could be had; every setting is ours). An
    image is drawn in one of ten versions: 30 epochs a round are 3 on the enlarged set.
    """
    settings = Settings.of(epochs=120, batch_size=64, lr=5e-4, optimiser="adam",
                           schedule="constant", weight_decay=0.0, held_out=0)  # fmt: skip
    method = "RAT(rounds=4, steps=200)"
    return mnist_standard().model_copy(
        update={"method": method, "settings": settings, "n": 500, "start": START}
    )


def mnist_ladder() -> Plan:
    """LADDER on MNIST, cut before the ReLU of LeNet's first dense layer, decoder of 1,000 epochs,
    steps of 0.5 in the authors' units, 100 epochs of fine-tuning (Zhou, Tsang and Yin 2022;
    authors' script). Unbounded perturbation, not Lp-robust.
    """
    settings = Settings.of(epochs=100, batch_size=64, lr=0.01, momentum=0.5, optimiser="sgd",
                           schedule="constant", weight_decay=0.0, held_out=0)  # fmt: skip
    return mnist_standard().model_copy(
        update={"method": "BoundaryGuided('net.fc1')", "settings": settings, "n": 4500,
                "start": START}
    )  # fmt: skip


def cifar10_rat() -> Plan:
    """Region adversarial training of a PreActResNet-18 on 500 images of CIFAR-10 in four rounds,
    patterns of linf 24/255, reconstructed (Wang et al. 2021: only the abstract could be had; every
    setting is ours).
    """
    more = {"epochs": 120, "batch_size": 64, "lr": 5e-4, "optimiser": "adam",
            "schedule": "constant", "weight_decay": 0.0, "held_out": 0}  # fmt: skip
    return cifar10("RAT(rounds=4, steps=100)", **more).model_copy(
        update={"threat": "linf:24/255", "n": 500, "start": CIFAR10, "augment": None}
    )


def cifar10_ladder() -> Plan:
    """LADDER on CIFAR-10, cut at the pooled features of a PreActResNet-18 (the authors': a
    ResNet-18), decoder of 1,000 epochs, steps of 0.5 in the authors' units, 100 epochs of
    fine-tuning (Zhou, Tsang and Yin 2022; authors' script). Unbounded perturbation, not Lp-robust.
    """
    more = {"epochs": 100, "lr": 1e-3, "schedule": "constant", "held_out": 0}
    return cifar10("BoundaryGuided('net.linear', side='input')", **more).model_copy(
        update={"start": CIFAR10, "augment": None}
    )
