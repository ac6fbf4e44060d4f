"""Certificates by smoothing for many images, in a run that can be killed and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchproof.core.checks import check, check_labels, check_weights
from torchproof.core.errors import InputError, unknown
from torchproof.core.fingerprints import data_sha256, model_sha256
from torchproof.core.journal import Record
from torchproof.core.notes import Notes
from torchproof.core.room import Room
from torchproof.verify.smoothing.certify import ABSTAIN, certify, largest_radius, predict
from torchproof.verify.smoothing.confidence import check_alpha, class_bounds
from torchproof.verify.smoothing.counting import (
    ESTIMATION,
    PREDICTION,
    SELECTION,
    SLOTS,
    Model,
    class_counts,
    count,
    example_ids,
)
from torchproof.verify.smoothing.noise import ADDITIVE, Noise
from torchproof.verify.smoothing.probabilities import whole
from torchproof.verify.smoothing.summary import Log
from torchproof.verify.smoothing.theories import NEYMAN_PEARSON

SCHEMA = "torchproof.smoothing-ledger/1"


@dataclass(frozen=True)
class Smoothing:
    """Randomised smoothing with CERTIFY's settings (Cohen, Rosenfeld and Kolter 2019).

    sigma: standard deviation of `noise` ("gaussian": l2; "laplace", "uniform": l1), in pixel units
    of [0, 1]; or sigma None and a Noise, such as Ablation (l0). n0, n: samples that select the
    class and that bound its probability; alpha: how often a certificate may be wrong; runner_up:
    see `certify`.
    """

    sigma: float | None
    noise: str | Noise = "gaussian"
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    runner_up: bool = False

    def __post_init__(self) -> None:
        whole(1, n0=self.n0, n=self.n)
        check_alpha(self.alpha)
        if isinstance(self.noise, Noise) != (self.sigma is None):
            given = f"sigma = {self.sigma} and noise {self.noise}"
            expected = "a sigma and a name, or a Noise alone"
            raise InputError(given, expected, "write Smoothing(0.25, 'gaussian')")
        _ = self.kernel

    @property
    def kernel(self) -> Noise:
        """The noise itself."""
        if isinstance(self.noise, Noise):
            return self.noise
        if self.noise not in ADDITIVE:
            raise unknown("noise", self.noise, ADDITIVE)
        assert self.sigma is not None
        return ADDITIVE[self.noise](self.sigma)

    @property
    def largest(self) -> float:
        """The radius of an image for which all samples agree (with no `runner_up`)."""
        return largest_radius(self.kernel, self.n, self.alpha)

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        seed: int = 0,
        out: Path | str | None = None,
        *,
        resume: bool = False,
        slots: int = SLOTS,
        progress: Callable[[int, int], None] | None = None,
    ) -> SmoothingRun:
        """CERTIFY for images x (N, C, H, W) in [0, 1] with labels y (N,).

        ids (N,) key each image's noise, by default its position; out: a folder, in which a line per
        image is written, and a killed run goes on with resume=True; slots: images per model call;
        progress: told (done, of how many). The model stays as it was. The records do not depend on
        slots or resumption, but for their seconds. That a resumed run has the same model is checked
        for an nn.Module, and up to the caller for a function. Raises InputError, ModelError,
        FileError and ResumeError.
        """
        check(x, y)
        numbers = example_ids(ids, len(x))
        _check_seed(seed)
        check_weights(model)
        folder = None if out is None else Path(out)
        room = Room(slots)
        settings = self._settings(model, x, y, numbers, seed)
        classes = len(count(model, x[0], self.kernel, 1, int(numbers[0]), seed, "probe", room))
        check_labels(y, len(y), classes)
        notes = Notes.open(SCHEMA, itemgetter("id"), settings, folder, resume)
        try:
            for done, (i, label) in enumerate(zip(numbers.tolist(), y.tolist(), strict=True)):
                if i not in notes.records:
                    notes.add(_record(self, model, x[done], i, label, seed, room))
                if progress is not None:
                    progress(done + 1, len(x))
        finally:
            notes.close()
        return SmoothingRun(self, tuple(notes.records[i] for i in numbers.tolist()))

    def predict(
        self, model: Model, x: Tensor, ids: Tensor | None = None, seed: int = 0, slots: int = SLOTS
    ) -> Tensor:
        """PREDICT for images x (N, C, H, W) in [0, 1], from n samples each: (N,) int64 classes, -1
        where it abstains; an answer is not the smoothed classifier's with probability alpha at
        most.
        """
        _check_seed(seed)
        check_weights(model)
        found = class_counts(model, x, self.kernel, self.n, ids, seed, PREDICTION, slots)
        return torch.tensor([predict(row, self.alpha) for row in found])

    def _settings(
        self, model: Model, x: Tensor, y: Tensor, ids: Tensor, seed: int
    ) -> dict[str, Any]:
        """All that decides what the records say."""
        return {
            "noise": repr(self.kernel),
            "n0": self.n0,
            "n": self.n,
            "alpha": self.alpha,
            "runner_up": self.runner_up,
            "seed": seed,
            "examples": len(x),
            "data_sha256": data_sha256(x, torch.stack([y, ids.to(y)], 1)),
            "model_sha256": model_sha256(model),
        }


def _record(
    s: Smoothing, model: Model, image: Tensor, example: int, label: int, seed: int, room: Room
) -> Record:
    """The line about one image; counts are those of the samples of the estimation."""
    start, noise = time.perf_counter(), s.kernel
    first = count(model, image, noise, s.n0, example, seed, SELECTION, room)
    then = count(model, image, noise, s.n, example, seed, ESTIMATION, room)
    found = certify(first, then, noise, s.alpha, runner_up=s.runner_up)
    return {
        "id": example,
        "label": label,
        "prediction": found.prediction,
        "radius": found.radius,
        "candidate": found.candidate,
        "counts": then.tolist(),
        "seconds": round(time.perf_counter() - start, 3),
    }


@dataclass(frozen=True)
class SmoothingRun:
    """What a run found: a record per image, in the order of the images."""

    smoothing: Smoothing
    records: tuple[Record, ...]

    def log(self, by: str = NEYMAN_PEARSON, runner_up: bool | None = None) -> Log:
        """The certificates that a theory (a name of THEORIES) gives for the stored counts.

        runner_up: see `certify`; by default that of the run. Theories follow from the same bounds
        of probabilities, so that several may be asked; whether to bound the runner-up has to be
        settled beforehand.
        """
        s = self.smoothing
        second = s.runner_up if runner_up is None else runner_up
        counts = np.array([r["counts"] for r in self.records], np.float64)
        names = ("id", "label", "candidate")
        ids, labels, chosen = (np.array([r[k] for r in self.records], np.int64) for k in names)
        rows = np.arange(len(counts))
        hits, n = counts[rows, chosen], counts.sum(1)
        counts[rows, chosen] = -1
        lower, upper = class_bounds(hits, counts.max(1), n, s.alpha, second)
        predictions = np.where(lower > upper, chosen, ABSTAIN)
        seconds = np.array([r["seconds"] for r in self.records])
        return Log(ids, labels, predictions, s.kernel.radius(lower, upper, by), seconds)

    def settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self.smoothing) | {"noise": repr(self.smoothing.kernel)}


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"seed = {seed!r}", "a whole number from 0 to 2**63 - 1", "pass seed=0")
