"""The gallery: a few broken examples as clean image, scaled perturbation and adversarial image."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from torchproof.evaluate.outcome import Example
from torchproof.report import numbers
from torchproof.report.evaluation import Evaluation, Floats, broken

SHOWN = 8
LARGE = 160  # pixels; larger images are drawn smoothly, smaller ones with their pixels visible
# Ends of the colour scale for single-channel perturbations: darker, unchanged, brighter.
DARKER, UNCHANGED, BRIGHTER = (0.02, 0.30, 0.58), (0.97, 0.97, 0.96), (0.70, 0.22, 0.02)


@dataclass(frozen=True)
class Picture:
    """One example: three PNG images as data URIs, and what is said of them."""

    example: Example
    clean: str
    perturbation: str
    adversarial: str
    length: str
    scale: str
    small: bool


@dataclass(frozen=True)
class Gallery:
    """The pictures, how many broken examples they were taken from, and why there are none."""

    pictures: tuple[Picture, ...]
    broken: int
    colour: bool
    missing: str


def gallery(evaluation: Evaluation) -> Gallery:
    """The first broken example of every class by id, then the second, up to eight."""
    images, examples = evaluation.images, evaluation.examples
    if images is None:
        return Gallery((), 0, False, "Adversarial images were not saved with this evaluation.")
    if examples is None:
        return Gallery((), 0, False, "There is no examples.csv to say which examples were broken.")
    rows = images.rows()
    lost = [example for example in examples if broken(example) and example.id in rows]
    if not lost:
        return Gallery((), 0, False, "No example was broken, so there is nothing to show.")
    pictures = [
        _picture(evaluation, example, images.x[rows[example.id]], images.x_adv[rows[example.id]])
        for example in chosen(lost)
    ]
    return Gallery(tuple(pictures), len(lost), images.x.shape[1] == 3, "")


def chosen(lost: list[Example]) -> list[Example]:
    """Rounds over the classes, each giving its next example by id, until eight are found."""
    seen: dict[int, int] = {}
    ranked = []
    for example in sorted(lost, key=lambda example: example.id):
        turn = seen[example.label] = seen.get(example.label, -1) + 1
        ranked.append((turn, example.label, example))
    return [example for _, _, example in sorted(ranked, key=lambda item: item[:2])[:SHOWN]]


def _picture(evaluation: Evaluation, example: Example, x: Floats, x_adv: Floats) -> Picture:
    delta = x_adv.astype(np.float64) - x
    peak, scale = _scale(evaluation, delta)
    return Picture(
        example,
        png(x),
        png(coloured(delta / peak)),
        png(x_adv),
        " and ".join(
            f"{numbers.norm(part)} length {numbers.plain(length(delta, part.norm))}"
            for part in evaluation.threats
        ),
        scale,
        max(x.shape[1:]) < LARGE,
    )


def _scale(evaluation: Evaluation, delta: Floats) -> tuple[float, str]:
    """What is drawn at full strength: eps for a single L-inf threat, else the largest change."""
    threat = evaluation.threats[0]
    if len(evaluation.threats) == 1 and threat.norm == "linf" and threat.eps:
        return threat.eps, f"±ε = ±{numbers.plain(threat.eps)}"
    peak = float(np.abs(delta).max()) or 1.0
    return peak, f"±{numbers.plain(peak)}, its largest change"


def length(delta: Floats, norm: str) -> float:
    """The length of one perturbation (C, H, W); L0 counts values; NaN for an unknown norm."""
    flat = np.abs(delta).ravel()
    match norm.lower():
        case "linf":
            return float(flat.max())
        case "l2":
            return float(np.sqrt((flat**2).sum()))
        case "l1":
            return float(flat.sum())
        case "l0":
            return float((flat > 0).sum())
    return float("nan")


def coloured(signed: Floats) -> Floats:
    """(C, H, W) in [-1, 1] as an image: diverging for one channel, grey at zero for three."""
    signed = np.clip(signed, -1, 1)
    if signed.shape[0] == 3:
        return 0.5 + signed / 2
    strength = np.abs(signed[0])
    ends = np.where(
        signed[0][None] < 0, np.reshape(DARKER, (3, 1, 1)), np.reshape(BRIGHTER, (3, 1, 1))
    )
    mixed: Floats = (1 - strength) * np.reshape(UNCHANGED, (3, 1, 1)) + strength * ends
    return mixed


def png(image: Floats) -> str:
    """(C, H, W) in [0, 1] as a data URI; the first channel unless there are three."""
    values = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    pixels = values.transpose(1, 2, 0) if len(values) == 3 else values[0]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
