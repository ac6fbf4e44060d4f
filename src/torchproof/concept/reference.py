"""The TCAV of captum, to set beside the plain part of ours."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home, untouched
from torchproof.concept.cav import Cav
from torchproof.concept.draws import Halves
from torchproof.core import keys
from torchproof.core.errors import MissingExtra

BATCH = 16


@dataclass(frozen=True)
class Reference:
    """captum's scores of one class, one for each draw of random images; cosines: of our plain
    vectors and captum's, by draw.
    """

    target: int
    n: int
    scores: tuple[float, ...]
    cosines: tuple[float, ...]


def captum_tcav(
    model: nn.Module, layer: str, concept: Tensor, random: Tensor,
    asked: Sequence[tuple[Tensor, int]], seed: int = 0,
) -> tuple[tuple[float, ...], Cav]:  # fmt: skip
    """captum's TCAV scores ("sign_count") of images (N, C, H, W) for the logit of a class, for each
    pair asked about, and its vector between `concept` and `random`, from its default classifier: it
    holds out a third of the images for itself and takes activations as they are.

    Raises MissingExtra where captum does not load.
    """
    try:
        from captum.concept import TCAV, Concept
    except Exception as error:  # whatever a package that does not fit this environment raises
        raise MissingExtra(
            f"captum, which does not load ({type(error).__name__}: {error})",
            "the package captum",
            "pip install 'torchproof[concepts]'",
        ) from error
    place = home(model)
    pair = [
        Concept(number, name, _loaded(rows.to(place)))
        for number, (name, rows) in enumerate((("concept", concept), ("random", random)))
    ]
    with tempfile.TemporaryDirectory() as folder, untouched(model, seed), _quiet(seed):
        made = TCAV(model, [layer], model_id="torchproof", save_path=folder)
        made.compute_cavs([pair])
        stats = made.cavs["0-1"][layer].stats
        scores = []
        for x, target in asked:
            up = 0.0
            for part in torch.split(x, BATCH):
                found = made.interpret(part.to(place), [pair], target=target)
                up += float(found["0-1"][layer]["sign_count"][0]) * len(part)
            scores.append(up / len(x))
    number = [int(one) for one in stats["classes"]].index(0)
    weights = stats["weights"][number].detach().double().cpu().numpy()
    return tuple(scores), Cav.of(weights, 0.0)


def references(
    model: nn.Module, layer: str, images: tuple[Tensor, Tensor], halves: Halves,
    ours: Sequence[Cav], asked: Sequence[tuple[Tensor, int]], n: int, seed: int,
) -> tuple[Reference, ...]:  # fmt: skip
    """captum beside our plain vectors `ours`, one of each draw: it is given the very images that
    the vector was trained with, n of them at random. images: all of the concept (N, C, H, W), and
    all random ones (M, C, H, W).

    Raises MissingExtra where captum does not load.
    """
    concept, random = images[0][halves.concept_rows], images[1]
    found = []
    for number in range(len(ours)):
        rows = halves.drawn_images(n, seed, number)
        key = keys.seed_of(seed, number)
        found.append(captum_tcav(model, layer, concept, random[rows], asked, key))
    cosines = tuple(float(u.vector @ c.vector) for u, (_, c) in zip(ours, found, strict=True))
    return tuple(
        Reference(target, len(x), tuple(scores[place] for scores, _ in found), cosines)
        for place, (x, target) in enumerate(asked)
    )


def _loaded(rows: Tensor) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(list(rows), batch_size=BATCH)  # type: ignore[arg-type]


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """captum draws from numpy's global generator too, which is as before afterwards."""
    before = np.random.get_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)
