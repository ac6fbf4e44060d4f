"""Error-correcting output codes (Verma and Swami 2019): networks that each answer with a few bits
of a code word, and a decoder that compares the bits with the words of all classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.declaration import declaration
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import DefendedPredictor, Inside
from torchproof.adaptive.zoo.descent import descend
from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import Attack, EveryTarget
from torchproof.attack.oracle import Oracle
from torchproof.attack.pgd import PGD
from torchproof.attack.through import Through
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.objectives import TargetedMargin
from torchproof.core.threats import Threat
from torchproof.nn.cnn import SmallCNN

BITS, EACH = 16, 4  # bits of a code word, and of a network
FLOOR = 1e-7  # of probabilities, before their logarithm
GAIN = 16.0  # of trained bits: stands for a long training, after which they saturate
EPOCHS = 8


def words(classes: int, bits: int = BITS) -> Tensor:
    """(K, N) code words of -1 and 1 that differ in half of their bits: rows of the Hadamard matrix
    of order N (Sylvester's construction), the constant one left out. N is a power of two > K.
    """
    made = torch.ones(1, 1)
    while len(made) < bits:
        made = torch.cat([torch.cat([made, made], 1), torch.cat([made, -made], 1)])
    return made[1 : classes + 1]


class Decoder(nn.Module):
    """Values z (B, N) of the bits before they saturate to log-probabilities (B, K):

        p_k = max(0, c_k . b) / sum_j max(0, c_j . b),  b = tanh(z) = 2 sigmoid(2 z) - 1

    c_k being the word of class k. As in common attack libraries p is clipped before the logarithm.
    """

    codes: Tensor

    def __init__(self, classes: int, bits: int = BITS) -> None:
        super().__init__()
        self.register_buffer("codes", words(classes, bits))

    def forward(self, z: Tensor) -> Tensor:
        agree = (z.tanh() @ self.codes.T).relu()
        p = agree / agree.sum(1, keepdim=True).clamp_min(FLOOR)
        return p.clamp_min(FLOOR).log()


class Agreement(nn.Module):
    """c_k . z, what a decoder compares before anything saturates or is clipped."""

    codes: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.codes.T


class Bits(nn.Module):
    """Networks side by side, each with a few of the N numbers z (B, N), `gain` times what it
    says; tanh(z) is 1 to the last bit of float32 from 9 on.
    """

    def __init__(self, networks: Sequence[nn.Module], gain: float = 1.0) -> None:
        super().__init__()
        self.networks, self.gain = nn.ModuleList(networks), gain

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * torch.cat([network(x) for network in self.networks], 1)


def _bodies(material: Material, out: int, count: int, seed: int) -> Bits:
    channels, _, size = material.train.x.shape[1:]
    with forked(keys.seed_of(seed, "weights"), torch.device("cpu")):
        return Bits([SmallCNN(channels, size, out) for _ in range(count)])


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """Four networks of four bits behind a decoder, and four like them whose logits are averaged."""
    data = material.train
    classes, count = len(data.classes), BITS // EACH
    bits, decoder = _bodies(material, EACH, count, seed), Decoder(classes)

    def coded(x: Tensor, y: Tensor) -> Tensor:
        return F.softplus(-2 * decoder.codes[y] * bits(x)).mean()  # cross-entropy of each bit

    descend(bits, coded, data, epochs=EPOCHS, seed=seed)
    bits.gain = GAIN
    plain = _bodies(material, classes, count, seed).networks

    def separate(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(network(x), y) for network in plain]).mean()

    descend(plain, separate, data, epochs=EPOCHS, seed=seed)
    defended = DefendedPredictor(
        nn.Sequential(bits, decoder),
        inside={"decoder": Inside(Decoder, plain=_unclipped)},
    )
    # how many bits saturate is a matter of data and training: what is seen is what is declared
    seen = declaration(defended, material.calibration.x[:200], material.calibration.y[:200])
    defended.declared = seen.measured.properties
    return defended, DefendedPredictor(list(plain)).eval()


def _unclipped(decoder: nn.Module) -> nn.Module:
    assert isinstance(decoder, Decoder)
    return Agreement(decoder.codes)


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    why = "cross-entropy of the decoded probabilities, as in the paper"
    return (Attempt("PGD-40", pgd(threat, 40), why=why),)


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    before, loss = defended.without("decoder"), TargetedMargin()

    def through(oracle: Oracle) -> Oracle:
        return Through(oracle, before, threat.site, loss)

    attack = Attack(threat, loss, PGD(100), wrap=through)
    why = "what the decoder compares, before it saturates and is clipped, for every other class"
    return (Attempt("agreement, every target", EveryTarget(attack, 9), why=why),)


DEFENCE = Defence(
    name="ecoc",
    source="Verma and Swami 2019",
    read="abstract and reviews: bits by sigmoids, softly compared with code words; how it was "
    "broken, in a summary of Tramer et al. 2020",
    reconstructed="networks, training, code, and the decoder's formula, from memory of the paper; "
    "bits are enlarged after a short training, so that they saturate",
    data="mnist",
    threat="linf:0.2",
    flags=("zero-gradients", "surrogate-wins", "gradient-free-wins", "active-test-fails"),
    why="saturated bits and probabilities clipped to 0 have no gradient in float32, while the "
    "numbers before them have",
    train=train,
    naive=naive,
    adaptive=adaptive,
)
