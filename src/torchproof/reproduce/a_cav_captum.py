"""The TCAV of captum, for `reproduce a-cav` to set ours beside."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from torchproof.attack.untouched import forked
from torchproof.concept import Cav
from torchproof.core.errors import MissingExtra

BATCH = 16


def captum_tcav(
    model: nn.Module, layer: str, concept: Tensor, random: Tensor, x: Tensor, target: int,
    seed: int = 0,
) -> tuple[float, Cav]:  # fmt: skip
    """captum's TCAV score ("sign_count") of images x (N, C, H, W) for the logit `target`, and its
    vector, with its default classifier, which holds out a third of the images for itself.

    Raises MissingExtra where captum does not load.
    """
    try:
        from captum.concept import TCAV, Concept
    except Exception as error:  # whatever a package that does not fit this environment raises
        raise MissingExtra(
            f"captum, which does not load ({type(error).__name__}: {error})",
            "the package captum",
            "pip install captum",
        ) from error
    pair = [
        Concept(number, name, _loaded(rows))
        for number, (name, rows) in enumerate((("concept", concept), ("random", random)))
    ]
    with tempfile.TemporaryDirectory() as folder, _quiet(seed):
        made = TCAV(model, [layer], model_id="torchproof", save_path=folder)
        scores = made.interpret(x, [pair], target=target)
        stats = made.cavs["0-1"][layer].stats
    place = [int(number) for number in stats["classes"]].index(0)
    weights = stats["weights"][place].detach().double().numpy()
    return float(scores["0-1"][layer]["sign_count"][0]), Cav.of(weights, 0.0)


def _loaded(rows: Tensor) -> Any:
    return DataLoader(list(rows), batch_size=BATCH)  # type: ignore[arg-type]


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """captum draws from the global generators, which are as before afterwards."""
    before = np.random.get_state()
    with forked(seed, torch.device("cpu")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)
