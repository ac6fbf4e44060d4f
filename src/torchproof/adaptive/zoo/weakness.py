"""Turning a weakness into a strength (Hu, Yu, Guo, Chao and Weinberger 2019): a natural image is
robust to noise AND easily attacked; what fails either test is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import Declared, DefendedPredictor
from torchproof.adaptive.zoo.barely import Barely
from torchproof.adaptive.zoo.descent import descend
from torchproof.attack.catalogue import pgd
from torchproof.attack.combine import EveryTarget
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import forked, untouched
from torchproof.core import keys
from torchproof.core.objectives import Goal, Objective, margin
from torchproof.core.threats import Threat
from torchproof.nn.cnn import SmallCNN

SIGMA = 0.05  # of the noise
STRIDE = 0.01  # of the steps of the defender's own attack
MOST = 40  # of these steps
EPOCHS = 8


class Tests(nn.Module):
    """The score of rejection (B,): the largest of three figures, each divided by what the share
    `kept` of clean images stay below (`fitted`), so that 1 is the limit of each test. Without
    gradient: it is the defender's own business.

    Noise: |softmax f(x) - softmax f(x + n)|_1, n normal, drawn anew at each call. Untargeted,
    targeted: the number of signed gradient steps that change the class, away from the one that f
    says, and into the second likeliest.
    """

    limits: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("limits", torch.ones(3))

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            return (self.figures(x, logits) / self.limits).amax(1)

    def figures(self, x: Tensor, logits: Tensor) -> Tensor:
        """The three figures (B, 3)."""
        first, second = logits.topk(2, dim=1).indices.unbind(1)
        towards = torch.tensor([-1.0, 1.0], device=x.device).repeat_interleave(len(x))
        away, into = self.steps(torch.cat([x, x]), torch.cat([first, second]), towards).chunk(2)
        return torch.stack([self.noise(x, logits), away, into], 1)

    def noise(self, x: Tensor, logits: Tensor) -> Tensor:
        moved: Tensor = self.network(x + SIGMA * torch.randn_like(x))
        return (logits.softmax(1) - moved.softmax(1)).abs().sum(1)

    def steps(self, x: Tensor, label: Tensor, towards: Tensor) -> Tensor:
        """(B,) how many steps it takes to leave `label` (where towards (B,) is -1), or to reach it
        (1); MOST where that many are not enough.
        """
        count = torch.full((len(x),), float(MOST), device=x.device)
        live, rows = x.detach().clone(), torch.arange(len(x), device=x.device)
        for number in range(1, MOST + 1):
            with torch.enable_grad():
                live.requires_grad_()
                loss = F.cross_entropy(self.network(live), label[rows], reduction="sum")
                (grad,) = torch.autograd.grad(loss, [live])
            way = towards[rows].view(-1, 1, 1, 1)
            live = (live - way * STRIDE * grad.sign()).detach().clamp(0, 1)
            done = (self.network(live).argmax(1) == label[rows]) == (towards[rows] > 0)
            count[rows[done]] = float(number)
            live, rows = live[~done], rows[~done]
            if not len(rows):
                break
        return count

    @torch.no_grad()
    def fitted(self, x: Tensor, kept: float = 0.98) -> Tests:
        """Itself, with limits from clean images."""
        with untouched(self):
            figures = self.figures(x, self.network(x))
        self.limits = figures.quantile(kept, dim=0).clamp_min(1e-6)
        return self


class Near(nn.Module):
    """`logits` (B, K) of a network, and `near` (B, 1 + S, K): those under fixed noises too."""

    noises: Tensor

    def __init__(self, network: nn.Module, like: Tensor, samples: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.network = network
        with forked(keys.seed_of(seed, "noises"), torch.device("cpu")):
            self.register_buffer("noises", SIGMA * torch.randn(samples, *like.shape))
        self.training = False

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        copies = torch.cat([x[:, None], x[:, None] + self.noises.to(x)], 1)
        logits = self.network(copies.flatten(0, 1)).view(*copies.shape[:2], -1)
        return {"logits": logits[:, 0], "near": logits}


@dataclass(frozen=True)
class Between(Objective):
    """-(sum over the copies of max(0, low - m) + max(0, m - high)), m = z_t - max_{j != t} z_j
    with t = `goal.target`: above `low` for the test of noise, below `high` for those of the steps.
    Won: another class, by margins between the two everywhere.
    """

    low: float
    high: float
    targeted: ClassVar[bool] = True

    def loss(self, out: Any, goal: Goal) -> Tensor:
        m = self._ahead(out, goal)
        return -((self.low - m).relu() + (m - self.high).relu()).sum(1)

    def won(self, out: Any, goal: Goal) -> Tensor:
        wrong: Tensor = out["logits"].argmax(1) != goal.y
        return wrong & (self.score(out, goal) > 0)

    def score(self, out: Any, goal: Goal) -> Tensor:
        m = self._ahead(out, goal)
        return torch.minimum(m - self.low, self.high - m).amin(1)

    def _ahead(self, out: Any, goal: Goal) -> Tensor:
        near = out["near"]
        target = goal.target.repeat_interleave(near.shape[1])
        return -margin(near.flatten(0, 1), target).view(near.shape[:2])


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """A plain network with the tests, and itself. Limits and rule are set on two halves of the
    calibration images.
    """
    data, clean = material.train, material.calibration.x
    channels, _, size = data.x.shape[1:]
    with forked(keys.seed_of(seed, "weights"), torch.device("cpu")):
        net = SmallCNN(channels, size, len(data.classes))

    def entropy(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y)

    descend(net, entropy, data, epochs=EPOCHS, seed=seed)
    half = len(clean) // 2
    with forked(keys.seed_of(seed, "limits"), torch.device("cpu")):
        tests = Tests(net).fitted(clean[:half])
    declared = Declared(
        random=True, non_differentiable=True, optimises_at_test_time=True, rejects=True
    )
    defended = DefendedPredictor(net, reject=tests, declared=declared)
    return defended.calibrated(clean[half:]), net


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    bare = defended.without("reject")
    barely = pgd(threat, 100, 0.02, objective=Barely(), start=Zero())
    why = "the nearest wrong class on the network, no surer than it has to be, then tested"
    return (Attempt("CW loss", barely, bare, why=why),)


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    near = Near(defended.networks[0], material.train.x[0])
    with untouched(near), torch.no_grad():
        top = defended.networks[0](material.calibration.x).topk(2, dim=1).values
    usual = float((top[:, 0] - top[:, 1]).median())
    made = []
    for share in (0.7, 0.4):
        band = Between(0.6 * share * usual, share * usual)
        made.append(
            Attempt(
                f"between {band.low:.1f} and {band.high:.1f}",
                EveryTarget(pgd(threat, 60, objective=band), 2), near,
                why="sure enough to stand noise, and no surer, in one loss",
            )
        )  # fmt: skip
    return tuple(made)


DEFENCE = Defence(
    name="weakness",
    source="Hu, Yu, Guo, Chao and Weinberger 2019",
    read="the idea of the two tests, and how they were broken, in a summary of Tramer et al. 2020",
    reconstructed="network, training, the figures of the tests and how they are joined, size of "
    "noise and steps; the naive attack is that of Carlini and Wagner's loss alone, because a "
    "network as small as this takes what PGD finds for natural; the loss that satisfies both "
    "tests is a band for the margin, ours",
    data="mnist",
    threat="linf:0.2",
    flags=("random", "zero-gradients", "optimises-at-test-time", "all-rejected", "other-loss-wins"),
    why="it runs an attack of its own inside the forward pass, and a little noise tells what the "
    "naive attack finds, all of it next to a boundary",
    train=train,
    naive=naive,
    adaptive=adaptive,
)
