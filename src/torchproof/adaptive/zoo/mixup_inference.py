"""Mixup inference (Pang, Xu and Zhu 2020): a network that was trained on mixed images is asked
about mixtures of the image with others, and answers with the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import Declared, DefendedPredictor, Inside
from torchproof.adaptive.zoo.barely import Barely
from torchproof.attack.catalogue import averaged, pgd
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.objectives import Margin
from torchproof.core.threats import Threat, parse
from torchproof.data.dataset import Dataset
from torchproof.nn.cnn import SmallCNN
from torchproof.train.interpolated import IAT
from torchproof.train.loop import fit
from torchproof.train.settings import Settings

RATIO = 0.6  # of the image itself
SAMPLES = 15
POOL = 50  # images of each class
HARD = "linf:0.1"  # what the network is trained against
EPOCHS = 8


class MixupInference(nn.Module):
    """Logits log (1/S) sum_s softmax f(ratio x + (1 - ratio) x_s) (B, K), each x_s drawn anew from
    the pool (K, R, C, H, W) among the classes other than the one that f predicts for x ("MI-OL").
    """

    pool: Tensor

    def __init__(
        self, network: nn.Module, pool: Tensor, ratio: float = RATIO, samples: int = SAMPLES
    ) -> None:
        super().__init__()
        self.network, self.ratio, self.samples = network, ratio, samples
        self.register_buffer("pool", pool)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            said = self.network(x).argmax(1)
        others = self.drawn(said)  # (S, B, C, H, W)
        mixed = self.ratio * x + (1 - self.ratio) * others
        logits: Tensor = self.network(mixed.flatten(0, 1))
        p = logits.view(self.samples, len(x), -1).softmax(2).mean(0)
        return p.clamp_min(1e-12).log()

    def drawn(self, said: Tensor) -> Tensor:
        """Pool images (S, B, C, H, W) of other classes than `said` (B,)."""
        classes, each = self.pool.shape[:2]
        shape = (self.samples, len(said))
        away = torch.randint(1, classes, shape, device=said.device)
        row = torch.randint(each, shape, device=said.device)
        return self.pool[(said + away) % classes, row]


def pool_of(data: Dataset, each: int = POOL) -> Tensor:
    """The first images of each class, (K, R, C, H, W), as many as the rarest class has at most."""
    classes = len(data.classes)
    rows = [(data.y == k).nonzero()[:, 0] for k in range(classes)]
    each = min(each, *(len(r) for r in rows))
    return torch.stack([data.x[r[:each]] for r in rows])


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """A network trained by interpolated adversarial training, asked about mixtures; and itself."""
    data = material.train
    channels, _, size = data.x.shape[1:]
    with forked(keys.seed_of(seed, "weights"), torch.device("cpu")):
        net = SmallCNN(channels, size, len(data.classes))
    settings = Settings.of(
        epochs=EPOCHS, lr=2e-3, optimiser="adam", weight_decay=0.0, seed=seed, choose="clean"
    )
    for _ in fit(net, data, IAT(parse(HARD)), settings):
        pass
    net.eval().requires_grad_(False)
    defended = DefendedPredictor(
        MixupInference(net, pool_of(data)),
        inside={"mixup": Inside(MixupInference, plain=_network_of)},
        declared=Declared(random=True),
    )
    return defended, net


def _network_of(module: nn.Module) -> nn.Module:
    assert isinstance(module, MixupInference)
    return module.network


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    ten = pgd(threat, 10, 0.25, objective=Barely())
    why = "found on the network alone, then mixed, as in the paper"
    return (Attempt("PGD-10 on the network", ten, defended.without("mixup"), why=why),)


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    why = "the gradient through the mean over the mixtures"
    return (
        Attempt("PGD-50 through the mean", pgd(threat, 50, objective=Margin()), why=why),
        Attempt(
            "PGD-50, EOT", averaged(pgd(threat, 50, start=Zero()), 3),
            why="the same, with three times the mixtures",
        ),
    )  # fmt: skip


DEFENCE = Defence(
    name="mixup-inference",
    source="Pang, Xu and Zhu 2020",
    read="abstract and introduction; ratio, samples and the attack that broke it, in a summary of "
    "Tramer et al. 2020 and of their published notebook",
    reconstructed="network, training, size of the pool, steps of the naive attack, which ends at "
    "the first wrong class (chosen after one that goes on had left 2.5 % of the first 40 test "
    "images); only the variant of other labels is here",
    data="mnist",
    threat="linf:0.25",
    flags=("random", "active-test-fails", "gradient-free-wins"),
    why="its answers are drawn anew each time, and its evaluation never looked through the mixing",
    train=train,
    naive=naive,
    adaptive=adaptive,
)
