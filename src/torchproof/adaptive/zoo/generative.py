"""A generative classifier (deep Bayes, Li, Bradshaw and Sharma 2019): a latent variable model of
features and class answers with log p(features, class), and declines unlikely inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import Declared, DefendedPredictor, Inside
from torchproof.attack.catalogue import averaged, pgd
from torchproof.attack.combine import EveryTarget
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.matching import Matching
from torchproof.core.objectives import CrossEntropy
from torchproof.core.threats import Threat
from torchproof.core.unaware import Unaware
from torchproof.nn.cnn import SmallCNN
from torchproof.train.loop import fit
from torchproof.train.settings import Settings
from torchproof.train.standard import Standard

FEATURES, LATENT, HIDDEN = 64, 16, 128
SAMPLES = 10
EPOCHS, STEPS = 8, 3000


class Features(nn.Module):
    """The hidden linear layer of a classifier."""

    def __init__(self, net: SmallCNN) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        maps = net.act2(net.bn2(net.conv2(net.act1(net.bn1(net.conv1(x))))))
        found: Tensor = net.act3(net.fc1(maps.flatten(1)))
        return found


def _layers(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, after))


def _log_normal(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Sum over the last axis of log N(x; mean, exp(log_std)^2)."""
    each = -((x - mean) / log_std.exp()).square() / 2 - log_std - math.log(2 * math.pi) / 2
    return each.sum(-1)


class DeepBayes(nn.Module):
    """p(x, z, y) = p(z) p(y | z) p(x | z) of standardised features x (B, D), "GBZ" of Li et al.
    2019; answers with

        log p(x, y) = log 1/K sum_k p(x, z_k, y) / q(z_k | x, y),  z_k ~ q(z | x, y)

    with K = `samples` fresh draws for each class y.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classes: int, features: int = FEATURES, samples: int = SAMPLES) -> None:
        super().__init__()
        self.classes, self.samples = classes, samples
        self.encoder = _layers(features + classes, 2 * LATENT)
        self.decoder, self.label = _layers(LATENT, features), _layers(LATENT, classes)
        self.log_std = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def weights(self, features: Tensor, y: Tensor, noise: Tensor) -> Tensor:
        """log p(x, z_k, y) - log q(z_k | x, y), (K, B), at y (B,), noise (K, B, LATENT)."""
        x = (features - self.mean) / self.std
        told = torch.cat([x, F.one_hot(y, self.classes).to(x)], 1)
        mean, log_std = self.encoder(told).chunk(2, 1)
        log_std = log_std.clamp(-5, 2)
        z = mean + log_std.exp() * noise
        label = F.log_softmax(self.label(z), 2).gather(2, y.expand(len(noise), -1)[..., None])
        prior = _log_normal(z, torch.zeros_like(z), torch.zeros_like(z))
        seen = _log_normal(x, self.decoder(z), self.log_std)
        return prior + label[..., 0] + seen - _log_normal(z, mean, log_std)

    def forward(self, features: Tensor) -> Tensor:
        many = features.repeat_interleave(self.classes, 0)
        y = torch.arange(self.classes, device=features.device).repeat(len(features))
        noise = torch.randn(self.samples, len(many), LATENT).to(many)
        joint = self.weights(many, y, noise).logsumexp(0) - math.log(self.samples)
        return joint.view(len(features), self.classes)


class Generative(nn.Module):
    """Images to log p(features, class), beside the features themselves."""

    def __init__(self, features: nn.Module, bayes: nn.Module) -> None:
        super().__init__()
        self.features, self.bayes = features, bayes

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.features(x)
        return {"logits": self.bayes(features), "features": features}


class Unlikely(nn.Module):
    """The larger of two suspicions, in units of how far it ranges over clean images: that the
    features are unlikely, -log p(x) = -log sum_y p(x, y), and that the classes' probabilities are
    far from usual for the answer c, KL(mean probabilities of answer c, these) (Li et al. 2019,
    marginal and divergence detection).
    """

    usual: Tensor
    middle: Tensor
    spread: Tensor

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        classes, p = logits.shape[1], logits.softmax(1)
        answer = logits.argmax(1)
        rows = [p[answer == k] for k in range(classes)]
        none = torch.full((classes,), 1 / classes)
        self.register_buffer("usual", torch.stack([r.mean(0) if len(r) else none for r in rows]))
        both = self.both(logits)
        middle = both.median(0).values
        self.register_buffer("middle", middle)
        self.register_buffer("spread", (both.quantile(0.95, 0) - middle).clamp_min(1e-6))

    def both(self, logits: Tensor) -> Tensor:
        """(B, 2) -log p(x) and the divergence."""
        usual = self.usual[logits.argmax(1)]
        kl = (usual * (usual.clamp_min(1e-12).log() - logits.log_softmax(1))).sum(1)
        return torch.stack([-logits.logsumexp(1), kl], 1)

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        return ((self.both(logits) - self.middle) / self.spread).amax(1)


def _plain(bayes: nn.Module) -> nn.Module:
    """The part of the score that tells classes apart, without samples: log p(y | z) at the mean of
    q(z | x, y).
    """
    assert isinstance(bayes, DeepBayes)
    return LabelTerm(bayes)


class LabelTerm(nn.Module):
    """Features to log p(y | z_y), z_y the mean of q(z | x, y): (B, K)."""

    def __init__(self, bayes: DeepBayes) -> None:
        super().__init__()
        self.bayes = bayes

    def forward(self, features: Tensor) -> Tensor:
        bayes = self.bayes
        x = ((features - bayes.mean) / bayes.std).repeat_interleave(bayes.classes, 0)
        y = torch.arange(bayes.classes, device=x.device).repeat(len(features))
        told = torch.cat([x, F.one_hot(y, bayes.classes).to(x)], 1)
        z = bayes.encoder(told).chunk(2, 1)[0]
        found = F.log_softmax(bayes.label(z), 1).gather(1, y[:, None])
        return found.view(len(features), bayes.classes)


def _bayes(features: Tensor, y: Tensor, classes: int, seed: int) -> DeepBayes:
    """Trained on the evidence lower bound."""
    with forked(keys.seed_of(seed, "bayes"), torch.device("cpu")):
        made = DeepBayes(classes, features.shape[1])
        made.mean.copy_(features.mean(0))
        made.std.copy_(features.std(0).clamp_min(1e-2))
        optimiser = torch.optim.Adam(made.parameters(), 2e-3)
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            rows = torch.randint(len(y), (128,))
            noise = torch.randn(1, len(rows), LATENT)
            loss = -made.weights(features[rows], y[rows], noise).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
    return made.eval()


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """Deep Bayes on the features of a classifier, and the classifier."""
    data, cpu = material.train, torch.device("cpu")
    channels, _, size = data.x.shape[1:]
    classes = len(data.classes)
    with forked(keys.seed_of(seed, "weights"), cpu):
        base = SmallCNN(channels, size, classes, hidden=FEATURES)
    for _ in fit(base, data, Standard(), Settings.of(epochs=EPOCHS, lr=0.05, seed=seed)):
        pass
    extract = Features(base.eval())
    with torch.no_grad():
        features = torch.cat([extract(part) for part in torch.split(data.x, 512)])
    bayes = _bayes(features, data.y, classes, seed)
    with torch.no_grad(), forked(keys.seed_of(seed, "clean"), cpu):
        logits = torch.cat([bayes(part) for part in torch.split(features, 512)])
    defended = DefendedPredictor(
        Generative(extract, bayes),
        inside={"bayes": Inside(DeepBayes, plain=_plain)},
        reject=Unlikely(logits),
        declared=Declared(random=True, rejects=True),
    )
    return defended.calibrated(material.calibration.x), base


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    unaware = pgd(threat, 40, objective=Unaware(CrossEntropy()))
    return (
        Attempt("PGD-40, unaware", unaware, why="the classes alone, 10 samples, as in the paper"),
    )


@torch.no_grad()
def _references(defended: DefendedPredictor, material: Material) -> tuple[Tensor, ...]:
    """The features of correctly answered images, class by class."""
    data = material.calibration
    with forked(0, torch.device("cpu")):
        found = defended.networks[0](data.x)
    right = found["logits"].argmax(1) == data.y
    classes = found["logits"].shape[1]
    return tuple(found["features"][right & (data.y == k)] for k in range(classes))


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    rule, references = defended.rule, _references(defended, material)
    assert rule is not None
    match = pgd(threat, 100, objective=Matching(references, "features", rule))
    aware = pgd(threat, 60, objective=rule)
    return (
        Attempt("feature matching", EveryTarget(match, 3), why="the features of another class"),
        Attempt("aware", averaged(aware, 4), why="classes and likelihood at once, more samples"),
    )


DEFENCE = Defence(
    name="generative",
    source="Li, Bradshaw and Sharma 2019",
    read="the attack that broke it (Tramer et al. 2020), in a published notebook; the paper's "
    "abstract",
    reconstructed="network, sizes, training; features of a small convolutional network instead of "
    "VGG; the two ways to reject are taken together",
    data="fashion-mnist",
    threat="linf:0.2",
    flags=("random", "all-rejected", "other-loss-wins"),
    why="an attack on the classes makes features that no clean image has, and these are rejected; "
    "scores are estimated from fresh samples",
    train=train,
    naive=naive,
    adaptive=adaptive,
)
