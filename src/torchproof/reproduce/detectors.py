"""`reproduce detectors`: eight detectors of adversarial examples, without what leaks in published
comparisons, and attacked by an adversary who knows them (Aldahdooh et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from torchproof import data as sets
from torchproof.core.errors import FileError
from torchproof.detect.bench.attack_rows import attack_rows, chosen, strengths_of
from torchproof.detect.bench.record import Bench
from torchproof.detect.bench.run import bench
from torchproof.detect.bench.setup import Setup
from torchproof.detect.bench.splits import ELSEWHERE, Sizes, elsewhere
from torchproof.detect.catalogue import DETECTORS, recipe
from torchproof.recipes import Plan
from torchproof.reproduce.ahead import shared
from torchproof.reproduce.detectors_figures import judge, rows
from torchproof.reproduce.detectors_picture import picture
from torchproof.reproduce.experiment import Outcome, Request, at_hand, conclude
from torchproof.reproduce.subjects import seeded, trained
from torchproof.train import Settings

PAPER = "Aldahdooh, Hamidouche, Fezza and Deforges 2022, arXiv 2105.00203"
CLAIM = (
    "thresholds from clean images kept apart hold their false-alarm rate; supervised detectors are "
    "worse on attacks that they have not learnt; an adversary who knows a detector evades it"
)
# So that minutes on two cores suffice: fewer epochs, of smaller batches since there are 30 times
# fewer images than in the papers, and a narrower SFAD.
SHORT = {
    "magnet": "magnet(epochs=16, batch=32, lr=0.005)",
    "sfad": "sfad(width=0.0625, epochs=10, batch=50)",
}
FEW = ("FGSM linf:0.3", "PGD l1:15", "PGD l2:2", "PGD linf:0.3", "CW l2", "DeepFool l2", "Square",
       "Spatial")  # fmt: skip
LEARNT = ("FGSM", "PGD", "DeepFool")


@dataclass(frozen=True)
class Part:
    """One data set: the classifier's plan, sizes, attacks by pattern (none: all), detectors."""

    plan: Plan
    sizes: Sizes
    attacks: tuple[str, ...]
    detectors: tuple[str, ...]

    @property
    def data(self) -> str:
        return self.plan.data


def parts_of(request: Request) -> tuple[Part, ...]:
    """MNIST and Fashion-MNIST, at scale paper 10,000 images of CIFAR-10 too; the bundled digits in
    the place of those that are not there.
    """
    paper = request.scale == "paper"
    names = ("mnist", "fashion-mnist", "cifar10") if paper else ("mnist", "fashion-mnist")
    return tuple(_part(name, paper) for name in at_hand(names, request))


def _part(name: str, paper: bool) -> Part:
    settings = Settings.of(epochs=5, batch_size=64, lr=2e-3, optimiser="adam", schedule="cyclic",
                           weight_decay=0.0, held_out=0)  # fmt: skip
    plan = Plan(data=name, model="small-cnn(dropout=0.3)", method="Standard", n=10_000,
                settings=settings)  # fmt: skip
    detectors = tuple(DETECTORS) if paper else tuple(SHORT.get(name, name) for name in DETECTORS)
    sizes = Sizes(2000, 2000, 1000, 200) if paper else Sizes(2000, 1000, 400, 40)
    if name == "cifar10":
        settings = settings.model_copy(update={"epochs": 30})
        model = "small-cnn(widths=(64, 128), hidden=256, batch_norm=True, dropout=0.3)"
        plan = plan.model_copy(update={"model": model, "settings": settings})
    if name == "digits":
        settings = settings.model_copy(update={"epochs": 20})
        plan = plan.model_copy(update={"n": None, "settings": settings})
        sizes = Sizes(600, 200, 120, 30)
    return Part(plan, sizes, () if paper or name == "digits" else FEW, detectors)


def detectors_experiment(request: Request) -> Outcome:
    """Eight detectors fitted, calibrated and judged on different images; supervised ones for each
    of three attacks against all; each under its own adaptive attack.
    """
    parts = parts_of(request)
    request.claim({"parts": f"{parts}"})
    named = {part.data: part for part in parts}
    found = shared(request, named, lambda name, seed: _measured(request, named[name], seed))
    return conclude(
        request, name="detectors", paper=PAPER, claim=CLAIM,
        settings={part.data: _described(part, found[part.data][0]) for part in parts},
        rows=[row for name, each in found.items() for row in rows(name, each)],
        judged=judge(found), picture=picture(found),
    )  # fmt: skip


def _described(part: Part, found: Bench) -> str:
    plan, sizes = part.plan, part.sizes
    return (
        f"{plan.model}, {plan.settings.epochs} epochs on {plan.n or 'all'} images; detectors "
        f"{', '.join(part.detectors)} fitted on {found.fit} of them; {found.calibrate} test images "
        f"for thresholds ({100 * found.settings['fpr']:g} % false alarms), {found.test} others to "
        f"test, {min(sizes.adaptive, found.test)} of these attacked adaptively"
    )


def _measured(request: Request, part: Part, seed: int) -> Bench:
    """The comparison at one seed; what is recorded already is not measured again."""
    folder = request.out / f"{part.data}-seed{seed}"
    model = trained(request, seeded(request, part.plan, seed), folder / "classifier")
    train = sets.load(part.data, data_dir=request.data_dir, split="train")
    train = train if part.plan.n is None else train.take(min(part.plan.n, len(train)))
    test = sets.load(part.data, data_dir=request.data_dir, split="test")
    return bench(
        model, train, test, setup_of(part, test.x[0], seed),
        _elsewhere(request, part, test.x[0], seed), out=folder / "bench", resume=True,
        say=lambda text: request.say(f"{part.data}, seed {seed}: {text}"),
    )  # fmt: skip


def setup_of(part: Part, like: Tensor, seed: int) -> Setup:
    """Detectors and attacks for images (C, H, W)."""
    known = attack_rows(part.data, tuple(like.shape))
    main = f"PGD linf:{strengths_of(part.data, tuple(like.shape)).main:g}"
    used = chosen(known, (*part.attacks, main)) if part.attacks else known
    learnt = tuple(_learnt(kind, used, main) for kind in LEARNT)
    return Setup(
        dict(recipe(text, part.data) for text in part.detectors), used, main, learnt,
        part.sizes, seed=seed,
    )  # fmt: skip


def _learnt(kind: str, used: Iterable[str], main: str) -> str:
    """The main attack where it is of this kind, else that of the same radius, or the first."""
    radius = main.partition(" ")[2]
    names = [name for name in used if name.startswith(kind)]
    return next((name for name in names if name.endswith(radius)), names[0])


def _elsewhere(request: Request, part: Part, like: Tensor, seed: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name in ELSEWHERE.get(part.data, ()):
        try:
            found |= elsewhere([name], like, part.sizes.test, seed, request.data_dir)
        except FileError as error:
            request.say(f"without {name}, because of: {error.given}")
    return found
