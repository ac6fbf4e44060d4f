"""Stored certification logs of published networks: the same counts under four theories, and the
trainings beside each other.

A log has the radius that Neyman and Pearson's lemma gives, sigma Phi^-1(pA). pA is read back from
it, and is what the other theories start from: nothing is sampled again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from torchproof.core.errors import FileError
from torchproof.data.sources import VARIABLE
from torchproof.evaluate.survey.record import Share, Smoothed
from torchproof.verify.smoothing import Log
from torchproof.verify.smoothing.certify import ABSTAIN
from torchproof.verify.smoothing.logs import read_log
from torchproof.verify.smoothing.theories import NEYMAN_PEARSON, theory

FOLDER = Path("certification") / "smoothing_logs"
F_DIVERGENCE = "f-divergence"
DIVERGENCES = ("kullback-leibler", "hellinger", "chi-square", "total-variation")
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True)
class Stored:
    """A log, the survey's name of its training, the network's data, and the noise of both training
    and certificate.
    """

    file: str
    training: str
    data: str
    sigma: float


COHEN = "cohen_official__cifar10__resnet110__noise_{0}__test__sigma_{0}.tsv.gz"
LOGS: tuple[Stored, ...] = (
    Stored(COHEN.format("0.25"), "Data augmentation", "CIFAR-10, ResNet-110", 0.25),
    Stored(COHEN.format("0.50"), "Data augmentation", "CIFAR-10, ResNet-110", 0.5),
    Stored(COHEN.format("1.00"), "Data augmentation", "CIFAR-10, ResNet-110", 1.0),
    Stored("cifar10__consistency__cohen__num_2__lbd_20.0__eta_0.5__cifar_resnet110__noise_0.25.tsv"
           ".gz", "Consistency", "CIFAR-10, ResNet-110", 0.25),
    Stored("mnist__cohen__noise_0.50_1801.tsv.gz", "Data augmentation", "MNIST, LeNet", 0.5),
    Stored("mnist__salman__pgd_255.0_10_10__num_4__noise_0.50_3916.tsv.gz", "SmoothAdv",
           "MNIST, LeNet", 0.5),
    Stored("mnist__macer_deferred30__num_16__lbd_16.0__gamma_8.0__beta_16.0__noise_0.50_1221.tsv"
           ".gz", "MACER", "MNIST, LeNet", 0.5),
    Stored("mnist__stab__lbd_2__noise_0.5_1297.tsv.gz", "Stability", "MNIST, LeNet", 0.5),
    Stored("mnist__consistency__cohen__num_2__lbd_5.0__eta_0.5__noise_0.50_1.tsv.gz",
           "Consistency", "MNIST, LeNet", 0.5),
)  # fmt: skip
THEORY_LOGS = (*LOGS[:3], LOGS[4])


def at_hand(data_dir: Path | None) -> Path | None:
    """The folder of the logs in the data folder, by default $TORCHPROOF_DATA; None where there is
    none.
    """
    text = os.environ.get(VARIABLE) if data_dir is None else data_dir
    folder = Path(text).expanduser() / FOLDER if text else None
    return folder if folder is not None and folder.is_dir() else None


def trainings(data_dir: Path | None, logs: Sequence[Stored] = LOGS) -> tuple[Smoothed, ...]:
    """Every log that is there, by the lemma of Neyman and Pearson."""
    return tuple(_read(stored, log, NEYMAN_PEARSON) for stored, log in _found(data_dir, logs))


def theories(data_dir: Path | None, logs: Sequence[Stored] = THEORY_LOGS) -> tuple[Smoothed, ...]:
    """Some logs by each of the survey's theories; f-divergence is the largest radius of DIVERGENCES
    for each image, all of which hold at once.
    """
    names = ("differential-privacy", "renyi", F_DIVERGENCE, NEYMAN_PEARSON)
    return tuple(
        _read(stored, again(log, stored.sigma, name), name)
        for stored, log in _found(data_dir, logs) for name in names
    )  # fmt: skip


def _found(data_dir: Path | None, logs: Sequence[Stored]) -> list[tuple[Stored, Log]]:
    folder = at_hand(data_dir)
    if folder is None:
        return []
    found = []
    for stored in logs:
        try:
            found.append((stored, read_log(folder / stored.file)))
        except FileError:
            if (folder / stored.file).exists():
                raise
    return found


def again(log: Log, sigma: float, name: str) -> Log:
    """The log with the radii that another theory gives for the same bounds pA."""
    if name == NEYMAN_PEARSON:
        return log
    kinds = DIVERGENCES if name == F_DIVERGENCE else (name,)
    answered = log.predictions != ABSTAIN
    lower = np.minimum(ndtr(log.radii[answered] / sigma), math.nextafter(1.0, 0.0))
    radii = np.zeros_like(log.radii)
    made = [theory(kind, "gaussian")(lower, None, sigma) for kind in kinds]
    radii[answered] = np.max(made, 0)
    return replace(log, radii=radii)


def _read(stored: Stored, log: Log, name: str) -> Smoothed:
    return Smoothed(
        log=stored.file, training=stored.training, data=stored.data, sigma=stored.sigma,
        theory=name, acr=log.acr, radii=RADII,
        certified=tuple(Share.of(log.certified(r), len(log)) for r in RADII),
    )  # fmt: skip
