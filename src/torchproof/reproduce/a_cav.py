"""Soni et al. 2020 (A-CAV): do adversarial margins and averages over random draws make concept
vectors find more of their concept, and depend less on the draw? And at what price?

Only the abstract is known to us; what is measured is our reading of it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchproof.concept import (
    Cav,
    Examined,
    Halves,
    Margin,
    a_cav,
    activations,
    captum_tcav,
    cav,
    derivatives,
    draw,
    examine,
    pattern_cav,
    random_concepts,
    tcav,
)
from torchproof.concept.draws import Way as Trained
from torchproof.core import keys
from torchproof.core.errors import FileError, MissingExtra
from torchproof.core.files import write
from torchproof.reproduce.a_cav_figures import (
    ADVERSARIAL,
    COMBINED,
    LOGISTIC,
    MEASURES,
    NOISE,
    PLAIN,
    Cell,
    Sensitive,
    Way,
    judge,
    picture,
    rows,
)
from torchproof.reproduce.a_cav_subjects import Subject, subject
from torchproof.reproduce.experiment import Outcome, Request, conclude

PAPER = "Soni, Shah, Seng and Moore 2020, arXiv 2002.03549"
CLAIM = (
    "an adversarial margin raises the recall of concept images and, with averages over "
    "Gram-Schmidt random concepts, lowers its standard deviation over random seeds (our reading of "
    "the abstract)"
)
DECAY, EPS = 0.01, 0.05
MANY = 4  # times as many random images


@dataclass(frozen=True)
class Part:
    """draws: of random images, as many as the concept has (at most n); group: draws per average;
    held_out: share of the images; asked: draws whose TCAV score is counted.
    """

    draws: int = 10
    group: int = 5
    held_out: float = 7 / 12
    n: int = 50
    asked: int = 3


PARTS = {"small": Part(), "paper": Part(draws=30)}


def _plain(concept: Tensor, random: Tensor, seed: int) -> Cav:
    return cav(concept, random, seed=seed)


def _pattern(concept: Tensor, random: Tensor, seed: int) -> Cav:
    return pattern_cav(concept, random)


def _trained(
    concept: Tensor, random: Tensor, seed: int, margin: Margin, noise: str = "none"
) -> Cav:
    """noise: Gram-Schmidt random concepts, as many as random images, not used, added to them, or in
    their place.
    """
    if noise != "none":
        made = random_concepts(concept, min(len(random), _room(concept)), seed)
        random = made if noise == "alone" else torch.cat([random, made])
    return a_cav(concept, random, margin, DECAY)


def _room(concept: Tensor) -> int:
    return max(1, concept.shape[1] - len(concept))


def _with(eps: float, side: str = "concept", noise: str = "none") -> Trained:
    return partial(_trained, margin=Margin(eps, side), noise=noise)  # type: ignore[arg-type]


WAYS: Mapping[str, Trained] = {
    PLAIN: _plain,
    LOGISTIC: _with(0.0),
    ADVERSARIAL: _with(EPS),
    "A-CAV, concept side, eps 0.2": _with(4 * EPS),
    "A-CAV, both sides, eps 0.05": _with(EPS, "both"),
    "A-CAV, random side, eps 0.05": _with(EPS, "random"),
    NOISE: _with(0.0, noise="alone"),
    "random images and Gram-Schmidt noise": _with(0.0, noise="added"),
    COMBINED: _with(EPS, noise="added"),
    "difference of means": _pattern,
}
MORE = f"CAV (logistic), {MANY} times the random images"


def a_cav_experiment(request: Request) -> Outcome:
    """Concept vectors with adversarial margins and Gram-Schmidt random concepts beside plain ones
    (Soni et al. 2020), recall with its false-positive rate and AUROC.
    """
    part, about = PARTS[request.scale], subject(request)
    request.claim({"part": f"{part}", "network": about.name, "data": about.sha256})
    bench = Bench(request, part, about)
    cells = [
        bench.cell(layer, concept, seed)
        for layer in about.layers
        for concept in about.concepts
        for seed in request.all_seeds
    ]
    asked = [bench.sensitive(name) for name in about.concepts if name in about.targets]
    return conclude(
        request,
        name="a-cav",
        paper=PAPER,
        claim=CLAIM,
        settings=_described(part, about, cells[0], any(one.captum for one in asked)),
        rows=rows(cells, asked),
        judged=judge(cells, part.group),
        picture=picture(cells),
    )


def _described(part: Part, about: Subject, cell: Cell, captum: bool) -> dict[str, str]:
    return {
        "network": about.name,
        "data": f"{about.about}; concepts {', '.join(about.concepts)}; random images are those of "
        "all other classes",
        "held out": f"{cell.n} concept and {cell.n_random} random images, split anew for each seed",
        "draws": f"{part.draws} per concept and seed, of as many random images as the concept has "
        f"(at most {part.n}), averages over {part.group}",
        "classifiers": "activations divided by their root mean square; hinge: SGDClassifier, alpha "
        f"0.01; the others logistic, decay {DECAY:g}; eps in root mean squares, Linf",
        "TCAV": f"{part.asked} draws, activations as they are; p times the {len(about.targets)} "
        "classes asked about (Bonferroni); captum: "
        + ("its default classifier on the same images" if captum else "not installed"),
        "intervals": "Student's t over seeds",
    }


@dataclass
class Bench:
    """Measures each cell once; activations are kept in the folder."""

    request: Request
    part: Part
    subject: Subject
    held: dict[str, Tensor] = field(default_factory=dict)

    def answers(self, layer: str) -> Tensor:
        """(N, D) of all images, read back where they were worked out before."""
        if layer not in self.held:
            path = self.request.out / "activations" / f"{layer}.npy"
            if path.exists():
                self.held = {layer: _read(path)}  # one layer at a time in memory
            else:
                self.request.say(f"activations of {layer} for {len(self.subject.x)} images")
                found = activations(self.subject.model, self.subject.x, layer)
                packed = io.BytesIO()
                np.save(packed, found.numpy())
                write(path, packed.getvalue())
                self.held = {layer: found}
        return self.held[layer]

    def cell(self, layer: str, concept: str, seed: int) -> Cell:
        """Every way to a vector for one concept, layer and split."""
        path = self.request.out / f"seed{seed}" / f"{layer}-{concept}.json"
        if path.exists():
            return Cell.read(path)
        a, mine = self.answers(layer), self.subject.of(concept)
        halves = Halves.of(a[mine], a[~mine], self.part.held_out, seed)
        n = min(len(halves.concept), self.part.n)
        made = draw(halves, WAYS, self.part.draws, n, seed)
        many = min(MANY * n, len(halves.pool))
        made |= draw(halves, {MORE: WAYS[LOGISTIC]}, self.part.draws, many, seed)
        ways = {one.name: _stored(one) for one in examine(halves, made, self.part.group)}
        cell = Cell(
            layer=layer, concept=concept, seed=seed, n=len(halves.concept_held),
            n_random=len(halves.pool_held), ways=ways,
        )  # fmt: skip
        cell.write(path)
        plain, ours = ways[PLAIN], ways[ADVERSARIAL]
        self.request.say(
            f"seed {seed}, {layer}, {concept}: recall {plain.mean('recall'):.3f} plain, "
            f"{ours.mean('recall'):.3f} A-CAV, false positives "
            f"{plain.mean('false_positives'):.3f} and {ours.mean('false_positives'):.3f}"
        )
        return cell

    def sensitive(self, concept: str) -> Sensitive:
        """TCAV in the first layer of the class named for the concept, ours and captum's."""
        path = self.request.out / "tcav" / f"{concept}.json"
        if path.exists():
            return Sensitive.read(path)
        about, layer = self.subject, self.subject.layers[0]
        (number, name), x = about.targets[concept], about.images[concept]
        a, mine = self.answers(layer), about.of(concept)
        up = mine.nonzero()[: self.part.n, 0]
        others = (~mine).nonzero()[:, 0]

        def drawn(*key: int | str) -> Tensor:
            return others[keys.permutation(len(others), concept, *key)]

        random = [drawn(i)[: len(up)] for i in range(self.part.asked)]
        pairs = [drawn("random", i)[: 2 * len(up)] for i in range(max(2, 2 * self.part.asked))]
        ours = [cav(a[up], a[rows], seed=i) for i, rows in enumerate(random)]
        none = [cav(a[r[: len(up)]], a[r[len(up) :]], seed=i) for i, r in enumerate(pairs)]
        found = tcav(about.model, x, number, layer, ours, none, tests=len(about.targets))
        theirs = self._captum(layer, about.x[up], [about.x[rows] for rows in random], x, number)
        cosines = [float(u.vector @ c.vector) for u, (_, c) in zip(ours, theirs, strict=False)]
        one = Sensitive(
            layer=layer, concept=concept, target=name, n=len(x), ours=found.scores,
            random=found.random, p=found.p, captum=tuple(score for score, _ in theirs),
            along=_along(partial(derivatives, about.model, x, number, layer), theirs),
            cosines=tuple(cosines),
        )  # fmt: skip
        one.write(path)
        self.request.say(f"TCAV of {name} for {concept}: {found.score:.2f}, p = {found.p:.2g}")
        return one

    def _captum(
        self, layer: str, up: Tensor, random: list[Tensor], x: Tensor, target: int
    ) -> list[tuple[float, Cav]]:
        """By draw; nothing where captum is not installed."""
        try:
            both = [
                captum_tcav(self.subject.model, layer, up, rows, [(x, target)], seed)
                for seed, rows in enumerate(random)
            ]
            return [(scores[0], vector) for scores, vector in both]
        except MissingExtra as error:
            self.request.say(f"captum's TCAV is not set beside ours, because of: {error.given}")
            return []


def _along(
    derive: Callable[[Tensor], Tensor], theirs: list[tuple[float, Cav]]
) -> tuple[float, ...]:
    """Our scores along captum's vectors."""
    if not theirs:
        return ()
    found = derive(torch.stack([one.vector for _, one in theirs]))
    return tuple((found > 0).double().mean(0).tolist())


def _stored(one: Examined) -> Way:
    each, averaged = (
        tuple((q.recall, q.false_positives, q.auroc) for q in several)
        for several in (one.each, one.averaged)
    )
    assert MEASURES == ("recall", "false_positives", "auroc")
    return Way(each=each, averaged=averaged, margin=sum(one.margins) / len(one.margins))


def _read(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        given = f"{path} ({error})"
        raise FileError(given, "activations of this experiment", "remove that file") from error
