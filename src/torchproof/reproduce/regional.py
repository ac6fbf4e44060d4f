"""Ozbulak et al. 2020: perturbations confined to a region transfer, and are smaller."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from torchproof import data as sets
from torchproof.attack.cases import Found
from torchproof.attack.masks import Centre, Frame, Mask, Scattered
from torchproof.attack.regional import Regions, account, drawn_classes, regional, until_fooled
from torchproof.attack.run import Run
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.threats import parse
from torchproof.data.dataset import Dataset
from torchproof.reproduce.ahead import shared
from torchproof.reproduce.efficientnet import NAMES, efficientnets
from torchproof.reproduce.experiment import Outcome, Request, conclude
from torchproof.reproduce.figures import Figures
from torchproof.reproduce.regional_figures import Case, judge, picture, rows

PAPER = (
    "Ozbulak, Peck, De Neve, Goossens, Saeys and Van Messem 2020, ICML Workshop on Uncertainty and "
    "Robustness in Deep Learning, arXiv 2007.03198"
)
CLAIM = (
    "localised perturbations keep the model-to-model transfer of most adversarial examples (76 % "
    "on average) at smaller L0, L2 and Linf distances"
)
CLASSES = 1000
GLOBAL = "global"


@dataclass(frozen=True)
class Setting:
    """What is asked at a scale. n: images per seed, None for all; step in input units, and steps:
    within one network (white) and from one to another (moved); regions of both by name; pairs.
    """

    n: int | None
    white: tuple[float, int]
    moved: tuple[float, int]
    white_regions: tuple[str, ...]
    moved_regions: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


REGIONS: dict[str, Mask | None] = {
    GLOBAL: None,
    "centre 150": Centre(150),
    "centre 120": Centre(120),
    "centre 90": Centre(90),
    "frame 166": Frame(166),
    "frame 190": Frame(190),
    "frame 204": Frame(204),
    "random 45 %": Scattered(0.45),
    "random 28 %": Scattered(0.28),
    "random 17 %": Scattered(0.17),
}
PUBLISHED = (1 / 255, 250)
SETTINGS = {
    # steps eight times as long reach as far (240/255) in an eighth of the passes
    "small": Setting(
        10, PUBLISHED, (8 / 255, 30),
        (GLOBAL, "centre 150", "centre 120", "centre 90", "frame 166"),
        (GLOBAL, "centre 150", "centre 120"),
        tuple(zip(NAMES, NAMES[1:] + NAMES[:1], strict=True)),
    ),
    "paper": Setting(
        None, PUBLISHED, PUBLISHED, tuple(REGIONS), tuple(REGIONS),
        tuple((a, b) for a in NAMES for b in NAMES if a != b),
    ),
}  # fmt: skip


def regional_experiment(request: Request) -> Outcome:
    """Regional attacks between three networks: transfer and distances (Ozbulak et al. 2020)."""
    setting = SETTINGS[request.scale]
    about = {name: json.dumps(value) for name, value in asdict(setting).items()}
    networks = efficientnets()
    pictures = images(request)
    request.claim({**about, "data_sha256": pictures.sha256})
    chosen = choose(networks, pictures, setting.n, request.seeds)
    ways = [(name, name, region) for name in NAMES for region in setting.white_regions]
    ways += [(*pair, region) for pair in setting.pairs for region in setting.moved_regions]
    named = {" ".join(way): way for way in ways}

    def one(name: str, seed: int) -> tuple[Case, ...]:
        return Cell(*named[name], seed).measured(
            request, networks, pictures, chosen[seed], setting
        )  # fmt: skip

    found = shared(request, named, one)
    cases = [case for seed in range(request.seeds) for name in named for case in found[name][seed]]
    return conclude(
        request,
        name="regional",
        paper=PAPER,
        claim=CLAIM,
        settings=_described(setting, [len(ids) for ids in chosen]),
        rows=rows(cases),
        judged=judge(cases),
        picture=picture(cases),
    )


def _described(setting: Setting, counts: list[int]) -> dict[str, str]:
    def text(step: float, steps: int) -> str:
        return f"{steps} steps of {round(step * 255)}/255"

    return {
        "data": "imagenet.npz, the images that all three networks classify correctly: "
        f"{', '.join(map(str, counts))} per seed",
        "networks": f"efficientnet-{', '.join(NAMES)}, at 224 x 224",
        "white-box": f"{text(*setting.white)} (as published)",
        "transfer": f"{text(*setting.moved)} (published: {text(*PUBLISHED)})",
        "pairs": ", ".join(f"{a} to {b}" for a, b in setting.pairs),
        "target class": "drawn, as published; any misclassification counts",
        "intervals": "of shares by Clopper and Pearson, as if the cases of an image were "
        "independent; of lengths by Student's t over images",
    }


def images(request: Request) -> Dataset:
    """The ImageNet-like pictures; raises FileError where they are not."""
    return sets.load("npz:imagenet.npz", data_dir=request.data_dir, split="all")


def choose(
    networks: dict[str, nn.Module], pictures: Dataset, n: int | None, seeds: int
) -> list[list[int]]:
    """For each seed the images that every network classifies correctly: n of them, other ones for
    each seed, in a fixed shuffled order; all of them for n = None.

    Raises InputError where there are not so many.
    """
    wanted = len(pictures) if n is None else n * seeds
    right: list[int] = []
    for part in torch.split(keys.permutation(len(pictures), "regional"), 16):
        x, y = pictures.x[part], pictures.y[part]
        with torch.no_grad():
            hits = [network(x).argmax(1) == y for network in networks.values()]
        right += part[torch.stack(hits).all(0)].tolist()
        if len(right) >= wanted:
            break
    if n is None:
        return [sorted(right)] * seeds
    if len(right) < wanted:
        given = f"{seeds} seeds of {n} images each, of {len(right)} that all networks know"
        raise InputError(given, "enough images", "ask for fewer seeds")
    return [right[seed * n : (seed + 1) * n] for seed in range(seeds)]


class Measured(Figures):
    """The cases of one cell; older files hold more."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Cell:
    """One network attacked in one region until one network is fooled, at one seed."""

    source: str
    target: str
    region: str
    seed: int

    def measured(
        self,
        request: Request,
        networks: dict[str, nn.Module],
        pictures: Dataset,
        ids: list[int],
        setting: Setting,
    ) -> tuple[Case, ...]:
        """The cases of these images, read back where they were measured before."""
        name = f"{self.source}-{self.target}-{self.region}-seed{self.seed}"
        path = request.out / "cells" / (name.replace(" ", "").replace("%", "") + ".json")
        if path.exists():
            return Measured.read(path).cases
        step, steps = setting.white if self.source == self.target else setting.moved
        found = tuple(self.attacked(networks, pictures, ids, step, steps))
        Measured(cases=found).write(path)
        fooled = sum(case.won for case in found)
        request.say(f"{name}: {fooled} of {len(found)} fooled")
        return found

    def attacked(
        self,
        networks: dict[str, nn.Module],
        pictures: Dataset,
        ids: list[int],
        step: float,
        steps: int,
    ) -> list[Case]:
        """The attack itself, and its account."""
        rule, threat = REGIONS[self.region], parse("linf:1")
        attack = regional(threat if rule is None else Regions(threat, rule), steps, step, targets=0)
        number = torch.tensor(ids)
        x, y = pictures.x[number], pictures.y[number]
        target = drawn_classes(y, CLASSES, number, self.seed)
        asked: Callable[..., Found] = attack
        if self.source != self.target:
            asked = until_fooled(attack, networks[self.target])
        run = Run(seed=self.seed, ids=number, slots=8)
        found = asked(networks[self.source], x, y, target=target, run=run)
        assert isinstance(found.value, Tensor), "perturbations of single inputs are one tensor"
        mask = torch.ones(1, 1, 1, 1) if rule is None else rule(networks[self.source], x)
        seen = account(found.value, mask)
        return [
            Case(
                source=self.source, target=self.target, region=self.region, seed=self.seed,
                image=ids[i], won=bool(found.lost[i]), gradients=int(found.spent[i, 1]),
                share=float(seen.share[i]), l0=float(seen.image.l0[i]),
                l2=float(seen.image.l2[i]), linf=float(seen.image.linf[i]),
                l0_inside=float(seen.inside.l0[i]), outside=float(seen.outside.linf[i]),
            )
            for i in range(len(ids))
        ]  # fmt: skip
