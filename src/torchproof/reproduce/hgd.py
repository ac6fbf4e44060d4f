"""Liao et al. 2018: denoisers guided by a classifier, and what is left of them end to end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from torchproof import data as sets
from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.data.dataset import Dataset
from torchproof.nn import Purified, build, cards, in_front_of
from torchproof.recipes import Plan
from torchproof.reproduce.ahead import alone, shared
from torchproof.reproduce.experiment import Outcome, Request, available, conclude
from torchproof.reproduce.hgd_figures import (
    ENSEMBLE,
    EPS,
    HALF,
    KINDS,
    LARGE,
    PLAIN,
    TENTH,
    UNSEEN,
    Cell,
    judge,
    picture,
    rows,
)
from torchproof.reproduce.hgd_measures import Classifiers, measured
from torchproof.reproduce.subjects import seeded, tested_on, trained
from torchproof.train import CGD, FGD, LGD, EnsembleAT, Method, PixelGuided, Settings, fit

PAPER = "Liao, Liang, Dong, Pang, Hu and Zhu 2018, arXiv 1712.02976"
CLAIM = (
    "a denoiser guided by a classifier's logits undoes attacks on that classifier better than one "
    "guided by pixels, also for other classifiers and classes; attacked together with the "
    "classifier it withstands nothing (Athalye and Carlini 2018)"
)
MODELS = {
    "A": "small-cnn",
    "B": "small-cnn(widths=(32, 64), hidden=64, activation='silu')",
    "C": "small-cnn(widths=(24, 48), batch_norm=True)",
}
GUIDES: dict[str, type[PixelGuided] | type[FGD] | type[LGD] | type[CGD]] = {
    "DAE, pixels": PixelGuided, "pixels": PixelGuided, "FGD": FGD, "LGD": LGD, "CGD": CGD,
    HALF: LGD, TENTH: LGD,
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Data and sizes: n images for the classifiers, `few` for the denoisers, `tests` to test on, of
    which `white` are attacked end to end; epochs and DUNET of the denoisers.
    """

    data: str
    n: int | None
    few: int
    tests: int
    white: int
    epochs: int
    widths: tuple[int, ...]
    counts: tuple[int, ...]


SMALL = {
    "mnist": Part("mnist", 8000, 2000, 500, 100, 4, (16, 32, 64), (1, 2, 2)),
    "digits": Part("digits", None, 1000, 300, 100, 10, (16, 32), (1, 2)),
}


def hgd_experiment(request: Request) -> Outcome:
    """Denoisers guided by pixels, features, logits and classes, grey-box and end to end (Liao et
    al. 2018).
    """
    if request.scale == "paper":
        given = "hgd at scale paper, which is ImageNet"
        raise InputError(given, "the scale small", "run it with --scale small")
    part = SMALL["mnist" if available("mnist", request) else "digits"]
    request.claim({"part": f"{part}", "models": f"{MODELS}"})
    found = shared(request, KINDS, lambda kind, seed: Subjects(request, part, seed).cell(kind))
    cells = [found[kind][seed] for seed in range(request.seeds) for kind in KINDS]
    return conclude(
        request,
        name="hgd",
        paper=PAPER,
        claim=CLAIM,
        settings={
            "data": part.data,
            "networks": ", ".join(f"{name} {text}" for name, text in MODELS.items()),
            "denoiser": f"DUNET, widths {part.widths}, convolutions {part.counts}, zero at first",
            "training": f"{part.few} images, {part.epochs} epochs (as many steps for fewer "
            "images), attacks on A and B drawn anew at each step, eps 1/255 to 51/255",
            "label": Purified.caveat,
        },
        rows=rows(cells),
        judged=judge(cells),
        picture=picture(cells),
    )


@dataclass(frozen=True)
class Subjects:
    """The networks of one seed; what is finished is read back when resuming."""

    request: Request
    part: Part
    seed: int

    def folder(self, name: str) -> Path:
        return self.request.out / f"seed{self.seed}" / name.replace(" ", "-").replace(",", "")

    def cell(self, kind: str) -> Cell:
        """A kind, measured."""
        path = self.folder("cells") / f"{self.folder(kind).name}.json"
        if not path.exists():
            with alone(self.request, f"classifiers-seed{self.seed}"):
                nets = self.classifiers()
            cell = self._measure(kind, nets)
            cell.write(path)
            self.request.say(f"seed {self.seed}, {kind}: {cell.text}")
        return Cell.read(path)

    def classifiers(self) -> Classifiers:
        """The plain networks A, B and C."""
        settings = Settings.of(epochs=4, batch_size=64, lr=2e-3, optimiser="adam",
                               schedule="cyclic", weight_decay=0.0, held_out=0)  # fmt: skip
        made = []
        for name, model in MODELS.items():
            plan = Plan(data=self.part.data, model=model, method="Standard", n=self.part.n,
                        settings=settings)  # fmt: skip
            made.append(trained(self.request, seeded(self.request, plan, self.seed),
                                self.folder(name)))  # fmt: skip
        return Classifiers(*made)

    def images(self, kind: str) -> Dataset:
        """What a kind is trained on."""
        train = sets.load(self.part.data, data_dir=self.request.data_dir, split="train")
        if kind == ENSEMBLE:
            return train if self.part.n is None else train.take(self.part.n)
        train = train.take(self.part.few)
        if kind == HALF:
            return train.subset((train.y < UNSEEN).nonzero()[:, 0])
        return train.take(self.part.few // 10) if kind == TENTH else train

    def _measure(self, kind: str, nets: Classifiers) -> Cell:
        test = tested_on(self.request, self.part.data, self.part.tests)
        few = min(self.part.white, len(test))
        if kind == PLAIN:
            return measured(kind, None, nets, test, self.seed, few)
        if kind == ENSEMBLE:
            return measured(kind, None, nets, test, self.seed, few, self._ensemble(nets))
        return measured(kind, self._denoiser(kind, nets), nets, test, self.seed, few)

    def _denoiser(self, kind: str, nets: Classifiers) -> nn.Module:
        """A denoiser trained before A; kinds with fewer images get as many steps."""
        images = self.images(kind)
        name = "dae" if kind.startswith("DAE") else "dunet"
        model = in_front_of(nets.a, denoiser=name, widths=self.part.widths,
                            counts=self.part.counts, seed=self.seed)  # fmt: skip
        epochs = round(self.part.epochs * self.part.few / len(images))
        settings = Settings.of(epochs=epochs, batch_size=60, lr=3e-3, optimiser="adam",
                               schedule="late", weight_decay=0.0, held_out=0,
                               seed=self.seed)  # fmt: skip
        self._fit(kind, model, images, GUIDES[kind](EPS, {"A": nets.a, "B": nets.b}), settings)
        inner: Any = model
        denoiser: nn.Module = inner.net.denoiser
        return denoiser

    def _ensemble(self, nets: Classifiers) -> nn.Module:
        """A network like A, trained on attacks on A, B and itself."""
        images = self.images(ENSEMBLE)
        shape: dict[str, Any] = {"channels": images.x.shape[1], "size": images.x.shape[2]}
        model = build(MODELS["A"], **shape, classes=len(images.classes), seed=self.seed + 1000)
        settings = Settings.of(epochs=5, batch_size=64, lr=2e-3, optimiser="adam",
                               schedule="cyclic", weight_decay=0.0, held_out=0,
                               seed=self.seed)  # fmt: skip
        sources = {"A": nets.a, "B": nets.b}
        method = EnsembleAT(Threat(Linf(), LARGE), sources, ("FGSM", "I-FGSM-4"))
        self._fit(ENSEMBLE, model, images, method, settings)
        return model

    def _fit(
        self, kind: str, model: nn.Module, images: Dataset, method: Method, settings: Settings
    ) -> None:
        folder = self.folder(kind)
        for record in fit(model, (images.x, images.y), method, settings, out=folder, resume=True,
                          save=cards.save):  # fmt: skip
            self.request.say(f"seed {self.seed}, {kind}: epoch {record.epoch}, "
                             f"loss {record.loss:.4f}")  # fmt: skip
