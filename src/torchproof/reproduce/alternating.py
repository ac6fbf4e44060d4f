"""Antoniou et al. 2022: PGD that changes its loss half way is stronger than on a single loss."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import torch
from torch import nn

from torchproof import data as sets
from torchproof.attack.alternating import alternating_pgd
from torchproof.attack.run import Run
from torchproof.core.threats import parse
from torchproof.data.dataset import Dataset
from torchproof.reproduce.alternating_figures import Block, judge, picture, rows
from torchproof.reproduce.alternating_toy import EXPECTED, toy
from torchproof.reproduce.experiment import Outcome, Request, conclude
from torchproof.reproduce.packed import packed

PAPER = "Antoniou, Georgiou and Potamianos 2022, arXiv 2212.07992"
CLAIM = (
    "with the same 100 steps and no restart, PGD that goes from cross-entropy to a margin loss "
    "half way breaks more than PGD on any single loss"
)
STEPS = 100


@dataclass(frozen=True)
class Subject:
    """A trained network, the data set of its test images, and the threat."""

    network: str
    data: str
    threat: str

    @property
    def label(self) -> str:
        return f"{self.network} {self.threat}"


@dataclass(frozen=True)
class Setting:
    """What is asked at a scale. n: test images per seed, other ones for each; attacks: (losses,
    step sizes) as `alternating_pgd` takes them.
    """

    n: int
    subjects: tuple[Subject, ...]
    attacks: tuple[tuple[str, str], ...]


SMALL = tuple(
    Subject(*words.split())
    for words in (
        "cnn_a_adv cifar10 linf:2/255",
        "cnn_a_mix cifar10 linf:2/255",
        "eran_convsmall_pgd cifar10 linf:2/255",
        "oval_base_kw cifar10 linf:2/255",
        "resnet2b_adv cifar10 linf:2/255",
        "mnist_fast_pgd mnist linf:0.3",
        "mnist_cnn_a_adv mnist linf:0.3",
        "mnist_madry_tiny mnist linf:0.3",
    )
)
LARGE = (
    *SMALL,
    *(
        Subject(*words.split())
        for words in (
            "oval_wide_kw cifar10 linf:2/255",
            "oval_deep_kw cifar10 linf:2/255",
            "resnet4b_adv cifar10 linf:2/255",
            "sri_resnet_a_adv cifar10 linf:4/255",
            "mnist_trades mnist linf:0.3",
            "mnist_lenet_adv mnist linf:0.3",
        )
    ),
)
PAIRS = ("CE", "CW", "DLR", "CE-CW", "CE-DLR", "CW-DLR", "CE-CW-DLR")
REST = ("CW-CE", "DLR-CE", "DLR-CW", "CE-DLR-CW", "CE|DLR", "0.25CE+0.75CW", "0.75CE+0.25CW")
SETTINGS = {
    "small": Setting(100, SMALL, tuple((losses, "constant") for losses in PAIRS)),
    "paper": Setting(
        1000,
        LARGE,
        tuple((losses, "constant") for losses in PAIRS + REST)
        + tuple(("CE-CW-DLR", size) for size in ("A3", "GAMA", "MD", "AutoAttack")),
    ),
}


def alternating(request: Request) -> Outcome:
    """Alternating losses against single ones, and the two-dimensional toy problem (Antoniou et al.
    2022).
    """
    setting = SETTINGS[request.scale]
    names = dict.fromkeys(subject.data for subject in setting.subjects)
    data = {name: sets.load(name, data_dir=request.data_dir, split="test") for name in names}
    networks = {s.network: packed(s.network, request.data_dir) for s in setting.subjects}
    parts = {
        (name, seed): _images(data[name], seed, setting.n)
        for name in data
        for seed in range(request.seeds)
    }
    shas = {f"{name} {seed}": part.sha256 for (name, seed), part in parts.items()}
    request.claim({**{k: json.dumps(v) for k, v in asdict(setting).items()}, **shas})
    blocks = [
        _measured(
            request, subject, seed, networks[subject.network], parts[subject.data, seed], setting
        )
        for subject in setting.subjects
        for seed in request.all_seeds
    ]
    lines = {name: toy(name) for name in EXPECTED}
    return conclude(
        request,
        name="alternating",
        paper=PAPER,
        claim=CLAIM,
        settings=_described(setting),
        rows=rows(blocks, lines),
        judged=judge(blocks, lines),
        picture=picture(blocks),
    )


def _described(setting: Setting) -> dict[str, str]:
    return {
        "networks and threats": ", ".join(subject.label for subject in setting.subjects),
        "images": f"{setting.n} test images per network and seed, other ones for each seed",
        "search": f"{STEPS} steps of eps/4 (unless said) from the clean image, no restart; the "
        "worst point counts",
        "seeds": "nothing is drawn at random: a seed chooses the images",
        "intervals": "of Clopper and Pearson over all images, of Student over networks and seeds "
        "for differences; networks of one data set share their images",
    }


def _images(data: Dataset, seed: int, n: int) -> Dataset:
    """Test images seed * n to (seed + 1) * n - 1; raises InputError where there are not so many."""
    return data.subset(torch.arange(seed * n, (seed + 1) * n))


def _label(losses: str, size: str) -> str:
    return losses if size == "constant" else f"{losses}, {size} steps"


def _measured(
    request: Request,
    subject: Subject,
    seed: int,
    model: nn.Module,
    data: Dataset,
    setting: Setting,
) -> Block:
    """One network on the images of one seed; read back where it was measured before."""
    path = request.out / "blocks" / f"{subject.network}-seed{seed}.json"
    if path.exists():
        return Block.read(path)
    threat = parse(subject.threat)
    with torch.no_grad():
        right = torch.cat([model(x).argmax(1) for x in torch.split(data.x, 128)]) == data.y
    ids = right.nonzero()[:, 0]
    standing: dict[str, list[int]] = {}
    for losses, size in setting.attacks:
        attack = alternating_pgd(threat, losses, STEPS, size)
        found = attack(model, data.x[ids], data.y[ids], run=Run(seed=seed, ids=ids))
        standing[_label(losses, size)] = ids[~found.lost].tolist()
    block = Block(
        network=subject.label, seed=seed, n=len(data), correct=len(ids), standing=standing
    )
    block.write(path)
    counts = ", ".join(f"{name} {len(rest)}" for name, rest in standing.items())
    request.say(f"{subject.label}, seed {seed}: {len(ids)} of {len(data)} correct; {counts}")
    return block
