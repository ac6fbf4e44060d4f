"""Zhou, Tsang and Yin 2022: fine-tuning on decoded latents that were moved towards a boundary."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchproof.core.threats import parse
from torchproof.data.dataset import Dataset
from torchproof.nn.decoder import Decoder, LeNetDecoder
from torchproof.recipes import Plan
from torchproof.reproduce import subjects
from torchproof.reproduce.experiment import Outcome, Request, at_hand, conclude
from torchproof.reproduce.ladder_figures import LABEL, Cell, judge, picture, rows
from torchproof.reproduce.ladder_measures import Networks, measured
from torchproof.train import Settings, fit, method
from torchproof.train.ladder import Course, Fixed, Ladder, Layer, encode, ladder_training
from torchproof.train.ladder.stages import DECODING, FINE_TUNING

PAPER = "Zhou, Tsang and Yin 2022, arXiv 2206.03717"
CLAIM = (
    "fine-tuning on images decoded from latents that were moved across class boundaries makes a "
    "network robust to such images and to stored attack images, at its clean accuracy"
)
LAYER = Layer("net.fc1")
# How far examples are moved: the least dose of the grid at which the original network is right on
# fewer than 80 % of them, as measured once. Further ones show the other class under the old label.
SHARES = {"mnist": 0.75, "fashion-mnist": 0.25, "digits": 0.75}


@dataclass(frozen=True)
class Part:
    """One data set: the plan of the network, the images of it that LADDER is made from, epochs and
    test images.

    share: of the mean length of a latent, how far training examples are moved; robust: threat of
    the PGD-AT beside it; large: the authors' decoder and number of epochs.
    """

    plan: Plan
    few: int
    tests: int
    epochs: tuple[int, int]
    share: float
    robust: str = "linf:0.2"
    large: bool = False


def parts(request: Request) -> list[Part]:
    """MNIST and Fashion-MNIST; the bundled digits in place of those that are not there."""
    large = request.scale == "paper"
    settings = Settings.of(epochs=10 if large else 3, batch_size=64, lr=1e-3, optimiser="adam",
                           schedule="cyclic", weight_decay=0.0, held_out=0)  # fmt: skip
    plan = Plan(model="lenet", method="Standard", settings=settings, n=None if large else 8000)
    found: list[Part] = []
    for name in at_hand(("mnist", "fashion-mnist"), request):
        changes: dict[str, Any] = {"data": name}
        if name == "digits":
            changes |= {"n": None, "model": "lenet(padding=2)"}
        epochs = (DECODING.epochs, FINE_TUNING.epochs) if large else (14, 8)
        few, tests = (4500, 10000) if large else (3000, 300)
        changed = plan.model_copy(update=changes)
        found.append(Part(changed, few, tests, epochs, SHARES[name], large=large))
    return found


def ladder_experiment(request: Request) -> Outcome:
    """LADDER's decoder, SVMs, examples and fine-tuning, and what is left of it under white-box
    attacks (Zhou, Tsang and Yin 2022).
    """
    chosen = parts(request)
    request.claim({part.plan.data: f"{part}" for part in chosen})
    cells = [Subjects(request, part, seed).cell() for part in chosen for seed in request.all_seeds]
    return conclude(
        request,
        name="ladder",
        paper=PAPER,
        claim=CLAIM,
        settings={"label": LABEL, **{part.plan.data: _described(part) for part in chosen}},
        rows=rows(cells),
        judged=judge(cells),
        picture=picture(cells),
    )


def _described(part: Part) -> str:
    plan, (decoding, tuning) = part.plan, part.epochs
    return (
        f"{plan.model}, {plan.settings.epochs} epochs on {plan.n or 'all'} images; decoder "
        f"({decoding} epochs), SVMs and examples from {part.few} of them, moved by {part.share} of "
        f"the mean length of a latent; fine-tuned for {tuning} epochs, as PGD-AT of "
        f"{part.robust}; first {part.tests} test images"
    )


@dataclass(frozen=True)
class Subjects(subjects.Subjects[Part]):
    """The networks of one data set and seed; what is finished is read back when resuming."""

    def cell(self) -> Cell:
        path = self.folder("figures.json")
        if path.exists():
            return Cell.read(path)
        base, few, test = self.base(), self.few(), self.test()
        found, tuned = self.ladder(base, few)
        networks = Networks(base, tuned, self.robust(base, few))
        cell = measured(networks, found, few, test, self.seed, self.part.share)
        cell.write(path)
        self.say(cell.text)
        return cell

    def ladder(self, base: nn.Module, few: Dataset) -> tuple[Ladder, nn.Module]:
        """All stages, and the fine-tuned network."""
        latents, tuned = encode(base, LAYER, few.x), copy.deepcopy(base)
        eps = self.part.share * float(latents.norm(dim=1).mean())
        decoding, tuning = self.part.epochs
        quick = {"batch_size": 64, "lr": 3e-3, "schedule": "cyclic"}
        course = Course(
            LAYER,
            distance=Fixed(eps),
            unit="distance",
            decoding=DECODING.model_copy(
                update={"epochs": decoding, **({} if self.part.large else quick)}
            ),
            fine_tuning=FINE_TUNING.model_copy(update={"epochs": tuning}),
            seed=self.seed,
        )
        found = ladder_training(
            tuned, (few.x, few.y), self.decoder(latents.shape[1], few), course,
            out=self.folder("ladder"), resume=True,
        )  # fmt: skip
        losses = [record.loss for record in found.decoding]
        self.say(
            f"decoder from {losses[0]:.4f} to {losses[-1]:.4f}, {len(found.boundary.pairs)} SVMs"
        )
        return found, tuned

    def decoder(self, latent: int, few: Dataset) -> nn.Module:
        """Fresh weights, keyed by the seed."""
        channels, size = few.x.shape[1:3]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            if self.part.large:
                return LeNetDecoder(latent, channels)
            return Decoder(latent, channels, size, (32, 16, 8))

    def robust(self, base: nn.Module, few: Dataset) -> nn.Module:
        """PGD-AT on the same images, for as many epochs."""
        model = copy.deepcopy(base)
        settings = FINE_TUNING.model_copy(
            update={"epochs": self.part.epochs[1], "seed": self.seed, "optimiser": "adam",
                    "lr": 1e-3, "momentum": 0.9}
        )  # fmt: skip
        chosen = method("AT(steps=5, length=0.3, ramp=0.5)", parse(self.part.robust))
        for _ in fit(model, few, chosen, settings, out=self.folder("PGD-AT"), resume=True):
            pass
        return model
