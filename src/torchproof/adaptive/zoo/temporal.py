"""Temporal dependency (Yang, Li, Chen and Song 2019), made for speech: what a network says about
the beginning of a sequence should agree with what it says about the whole. Here the sequence is
an image, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.adaptive.attempt import Attempt
from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.predictor import Declared, DefendedPredictor
from torchproof.adaptive.zoo.barely import Barely
from torchproof.adaptive.zoo.descent import descend
from torchproof.attack.catalogue import averaged, pgd
from torchproof.attack.combine import EveryTarget
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.rejection import Heedless
from torchproof.core.threats import Threat

HIDDEN = 64
SPLITS = (2 / 3, 3 / 4, 4 / 5, 5 / 6)  # shares of the rows that a beginning may have
EPOCHS = 12


class Reader(nn.Module):
    """Images (B, C, H, W), read from the first of the rows to the last by a GRU, to logits
    (B, K).
    """

    def __init__(self, row: int, classes: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.gru = nn.GRU(row, hidden, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x)[:, -1]

    def after(self, x: Tensor) -> Tensor:
        """Logits (B, H, K) after each row."""
        rows = x.transpose(1, 2).flatten(2)
        logits: Tensor = self.head(self.gru(rows)[0])
        return logits


class Disagreement(nn.Module):
    """Total variation between the classes after a share of the rows and after all of them, (B,) in
    [0, 1]; the share is drawn from `splits` at each call, for each image.
    """

    def __init__(self, reader: Reader, splits: tuple[float, ...] = SPLITS) -> None:
        super().__init__()
        self.reader, self.splits = reader, splits

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        after = self.reader.after(x).softmax(2)
        rows = torch.tensor([self.length(share, x.shape[2]) for share in self.splits])
        drawn = rows[torch.randint(len(rows), (len(x),))].to(x.device)
        early = after[torch.arange(len(x), device=x.device), drawn - 1]
        return (early - logits.softmax(1)).abs().sum(1) / 2

    @staticmethod
    def length(share: float, rows: int) -> int:
        """The rows that a share of all `rows` is, at least one."""
        return max(1, min(rows, round(share * rows)))


class EveryBeginning(nn.Module):
    """The defence without its dice: the mean of the logits after every split and after the whole,
    and the largest of the disagreements.
    """

    def __init__(self, test: Disagreement) -> None:
        super().__init__()
        self.test = test

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        after = self.test.reader.after(x)
        spots = [self.test.length(share, x.shape[2]) - 1 for share in self.test.splits]
        early, whole = after[:, spots], after[:, -1]
        apart = (early.softmax(2) - whole.softmax(1)[:, None]).abs().sum(2) / 2
        logits = torch.cat([early, whole[:, None]], 1).mean(1)
        return {"logits": logits, "reject": apart.amax(1)}


def train(material: Material, seed: int) -> tuple[DefendedPredictor, nn.Module]:
    """A reader that is trained to know the class from the first split on, with the test of its
    beginnings; and itself.
    """
    data = material.train
    channels, rows, width = data.x.shape[1:]
    first = Disagreement.length(SPLITS[0], rows)
    with forked(keys.seed_of(seed, "weights"), torch.device("cpu")):
        reader = Reader(channels * width, len(data.classes))

    def always(x: Tensor, y: Tensor) -> Tensor:
        logits = reader.after(x)[:, first - 1 :]
        return F.cross_entropy(logits.flatten(0, 1), y.repeat_interleave(logits.shape[1]))

    descend(reader, always, data, epochs=EPOCHS, lr=5e-3, seed=seed)
    defended = DefendedPredictor(
        reader, reject=Disagreement(reader), declared=Declared(random=True, rejects=True)
    )
    return defended.calibrated(material.calibration.x), reader


def naive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    barely = pgd(threat, 100, 0.02, objective=Barely(), start=Zero())
    why = "the nearest image with another class after the last row, then tested"
    return (Attempt("CW loss", barely, defended.without("reject"), why=why),)


def adaptive(defended: DefendedPredictor, threat: Threat, material: Material) -> Sequence[Attempt]:
    rule, test = defended.rule, defended.reject
    assert rule is not None and isinstance(test, Disagreement)
    sure = pgd(threat, 100, objective=Heedless(rule))
    return (
        Attempt(
            "all beginnings, every target", EveryTarget(sure, 3), EveryBeginning(test),
            why="one other class, after every beginning as after the whole",
        ),
        Attempt(
            "class and agreement, EOT", averaged(pgd(threat, 50, objective=rule), 5),
            why="both parts in one loss, over draws of the split",
        ),
    )  # fmt: skip


DEFENCE = Defence(
    name="temporal",
    source="Yang, Li, Chen and Song 2019",
    read="the idea, consistency of the beginning of a transcript, and how it was broken, in a "
    "summary of Tramer et al. 2020",
    reconstructed="nearly all: images read row by row by a small GRU stand for speech, classes for "
    "transcripts, total variation for their distance; the splits are from memory of the paper; "
    "it forms only against a loss that stops at the first wrong class, which was chosen after "
    "plain PGD had gone unnoticed",
    data="mnist",
    threat="linf:0.1",
    flags=("random", "all-rejected", "other-loss-wins", "surrogate-wins", "active-test-fails"),
    why="the naive loss asks for the class of the whole alone, and what it finds is turned away; "
    "the point of the split is drawn anew each time",
    train=train,
    naive=naive,
    adaptive=adaptive,
)
