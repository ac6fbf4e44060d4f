"""Max-Mahalanobis centre loss (Pang et al. 2020): features are drawn to fixed centres, as far from
each other as they can be, instead of being told apart by cross-entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import DefendedPredictor, Inside
from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import EveryTarget
from torchproof.attack.starts import Uniform
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.objectives import Margin, TargetedMargin
from torchproof.core.threats import Threat
from torchproof.nn.cnn import SmallCNN
from torchproof.train.loop import fit
from torchproof.train.method import Batch, Method, answers
from torchproof.train.settings import Settings
from torchproof.train.standard import Standard

SCALE = 100.0  # C_MM, the squared length of the centres
FEATURES = 64
EPOCHS = 8


def centres(classes: int, features: int, scale: float) -> Tensor:
    """(K, D) centres of squared length `scale` with equal inner products -scale / (K - 1): the
    corners of a simplex, built one after the other (Pang et al. 2018). D >= K - 1.
    """
    made = torch.zeros(classes, max(features, classes), dtype=torch.float64)
    made[0, 0] = 1
    for i in range(1, classes):
        for j in range(i):
            made[i, j] = -(1 / (classes - 1) + made[i] @ made[j]) / made[j, j]
        made[i, i] = (1 - made[i].square().sum()).clamp_min(0).sqrt()
    found: Tensor = (made[:, :features] * scale**0.5).float()
    return found


class Centres(nn.Module):
    """Features z (B, D) to logits -|z - mu_k|^2 (B, K)."""

    mu: Tensor

    def __init__(self, classes: int, features: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("mu", centres(classes, features, scale))

    def forward(self, z: Tensor) -> Tensor:
        return -(z[:, None] - self.mu).square().sum(2)


class Slopes(nn.Module):
    """The same decisions from logits of an ordinary size: <z, mu_k> / |mu_k|^2, since |z|^2 is the
    same for all classes.
    """

    def __init__(self, head: Centres) -> None:
        super().__init__()
        self.register_buffer("weight", head.mu / head.mu[:1].square().sum())

    def forward(self, z: Tensor) -> Tensor:
        weight: Tensor = self.weight  # type: ignore[assignment]
        return z @ weight.T


@dataclass(frozen=True)
class CentreLoss(Method):
    """|z - mu_y|^2 / 2 (Pang et al. 2020), of a network that ends in `Centres`."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return -answers(model, batch.x).gather(1, batch.y[:, None])[:, 0] / 2


def _plain(head: nn.Module) -> nn.Module:
    assert isinstance(head, Centres)
    return Slopes(head)


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """The network drawn to the centres, and the same with a linear layer and cross-entropy."""
    data, made = material.train, []
    channels, _, size = data.x.shape[1:]
    classes = len(data.classes)
    for head, method, lr in (
        (Centres(classes, FEATURES, SCALE), CentreLoss(), 1e-3),
        (nn.Linear(FEATURES, classes), Standard(), 1e-3),
    ):
        with forked(keys.seed_of(seed, "weights"), torch.device("cpu")):
            body = SmallCNN(channels, size, FEATURES)
        net = nn.Sequential(body, head)
        how = Settings.of(epochs=EPOCHS, lr=lr, optimiser="adam", weight_decay=0.0, seed=seed)
        for _ in fit(net, data, method, how):
            pass
        made.append(net.eval())
    inside = {"centres": Inside(Centres, plain=_plain)}
    return DefendedPredictor(made[0], inside=inside), made[1]


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    why = "cross-entropy of the softmax of the distances, as in the paper"
    return (Attempt("PGD-50", pgd(threat, 50, 0.25), why=why),)


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    start = Uniform()
    pair = pgd(threat, 100, objective=TargetedMargin(), start=start)
    why = "the loss that it was trained on: nearer to another centre, further from its own"
    margin = pgd(threat, 100, objective=Margin(), start=start)
    return (
        Attempt("distances, every target", EveryTarget(pair, 9), why=why),
        Attempt("distances", margin, why="the same towards the nearest other centre"),
    )


DEFENCE = Defence(
    name="mahalanobis",
    source="Pang, Xu, Dong, Du, Chen and Zhu 2020",
    read="the loss and the rule for the centres, in the paper's abstract and introduction; how it "
    "was broken, in a summary of Tramer et al. 2020",
    reconstructed="network, training, and the squared length of the centres: 100 instead of the "
    "paper's 10, at which a network as small as this does not form a defence",
    data="mnist",
    threat="linf:0.2",
    flags=("saturated-softmax", "other-loss-wins", "active-test-fails"),
    why="the softmax of squared distances is flat to the last bit where the features lie near "
    "their centre, while the distances themselves have a slope everywhere",
    train=train,
    naive=naive,
    adaptive=adaptive,
)
