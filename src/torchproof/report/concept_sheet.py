"""The page of `torchproof concepts`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from torchproof.concept.concepts import Concept
from torchproof.concept.draws import Examined
from torchproof.concept.quality import spread
from torchproof.report.concept_plots import draw, draw_images
from torchproof.report.sheet import Picture, Section, Sheet, Table

RECALL = (
    "Never read recall alone: a margin on the concept's side moves the boundary, so that recall "
    "and false-positive rate rise together. Whether more was learnt shows in the AUROC."
)
SCORE = (
    "A score is the share of a class's images whose logit grows along the vector; p is of a "
    "two-sided t-test against vectors between random images, times the number of classes."
)


def concept_sheet(
    found: Concept, x: Tensor, labels: Tensor, classes: Sequence[str], title: str,
    about: Mapping[str, Any], record: str,
) -> Sheet:  # fmt: skip
    """x (N, C, H, W), labels (N,): the images that were ranked."""
    quality = Picture("quality", "Dots are draws of random images, bars their means.",
                      draw(found, classes, title))  # fmt: skip
    sections = [
        Section("Is the concept in the layer?", (RECALL,), (_quality(found),), (quality,)),
    ]
    if found.tcav:
        text = (SCORE, _captum(found)) if found.captum else (SCORE,)
        sections.append(Section("Which classes depend on it?", text, (_scores(found, classes),)))
    if found.most:
        names = {
            one.row: classes[int(labels[one.row])] for one in (*found.most, *found.least)
        }  # fmt: skip
        sheet = draw_images(x, found.most, found.least, names, title)
        words = "Class and score of the averaged A-CAV, in root mean squares of the activations."
        pictures = (Picture("images", words, sheet),)
        sections.append(Section("Which images show it most, and least?", pictures=pictures))
    return Sheet(
        kind="concepts", title=title, sections=tuple(sections), record=record,
        about=f"{found.n_concept} concept and {found.n_random} random images per draw, "
        f"{found.plan.draws} draws · held out {found.n_concept_held} and {found.n_random_held} · "
        f"{found.width} activations · seed {found.plan.seed}",
        cautions=found.cautions, command=about["command"], versions=about["versions"],
    )  # fmt: skip


def _quality(found: Concept) -> Table:
    rows = tuple(
        row
        for way in found.ways
        for row in (_row(way.name, way, False), _row(f"{way.name}, averages", way, True))
    )
    return Table(
        f"On held-out images: means and standard deviations over draws, and over averages of "
        f"{min(found.plan.group, found.plan.draws)} draws.",
        ("classifier", "recall", "false-positive rate", "AUROC"), rows,
    )  # fmt: skip


def _row(name: str, way: Examined, averaged: bool) -> tuple[str, ...]:
    each = way.averaged if averaged else way.each
    s, several = spread(each), len(each) > 1
    pairs = (
        (s.recall, s.recall_std), (s.false_positives, s.false_positives_std), (s.auroc, s.auroc_std)
    )  # fmt: skip
    return (name, *(f"{mean:.3f} ± {std:.3f}" if several else f"{mean:.3f}" for mean, std in pairs))


def _scores(found: Concept, classes: Sequence[str]) -> Table:
    columns = ("class", "images", "TCAV", "of random vectors", "p", "TCAV of A-CAV", "p")
    theirs = {one.target: f"{statistics.fmean(one.scores):.2f}" for one in found.captum}
    rows = tuple(
        (
            classes[one.target], f"{one.n}", f"{one.score:.2f}",
            f"{statistics.fmean(one.random):.2f}", f"{one.p:.2g}", f"{other.score:.2f}",
            f"{other.p:.2g}", *([theirs[one.target]] if theirs else []),
        )
        for one, other in zip(found.tcav, found.tcav_adversarial, strict=True)
    )  # fmt: skip
    return Table("Means over draws.", (*columns, *(["captum"] if theirs else [])), rows)


def _captum(found: Concept) -> str:
    cosines = found.captum[0].cosines
    return (
        "captum was given the same images, takes activations as they are and holds out a third of "
        f"the images for itself; the cosines of our plain vectors and its are "
        f"{min(cosines):.2f} to {max(cosines):.2f}."
    )
