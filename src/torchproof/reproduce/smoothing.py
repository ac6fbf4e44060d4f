"""Randomised smoothing: the tables that published certification logs give, the largest radii, and
what other theories make of the same bounds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from torchproof.core.errors import FileError
from torchproof.core.files import write
from torchproof.data.sources import VARIABLE
from torchproof.reproduce.experiment import Outcome, Request, Row, Verdict, conclude
from torchproof.reproduce.smoothing_figures import Found, page, picture
from torchproof.verify.smoothing import THEORIES, Gaussian, Log, largest_radius, read_log
from torchproof.verify.smoothing.theories import theory

PAPER = (
    "Cohen et al. 2019; Salman et al. 2019; Zhai et al. 2020; Jeong and Shin 2020 (logs); Lecuyer "
    "et al. 2019, Li et al. 2019, Dvijotham et al. 2020 (theories)"
)
CLAIM = (
    "average certified radii and certified accuracies of published logs come out to three "
    "decimals, no radius exceeds the largest that all samples can give, and no theory gives more "
    "than Neyman-Pearson from the same bounds"
)
PARTS = ("certification", "smoothing_logs")
N, ALPHA, LOOSER = 100_000, 0.001, 0.01
# Phi^-1(alpha^(1/n)) sigma, as the literature rounds it.
LARGEST = {0.12: 0.457, 0.25: 0.953, 0.5: 1.906, 1.0: 3.811}
RADII = (0.0, 0.25, 0.5, 0.75)
OF_FIVE = 0.01  # how far one of five trainings may be from their mean


@dataclass(frozen=True)
class Known:
    """What is known of a log: its ACR, or the mean of several trainings, of which it is one;
    certified accuracies at RADII where a table has them.
    """

    words: str
    acr: float | None = None
    trainings: int = 1
    accuracies: tuple[float, ...] = ()


_R110, _R20 = "CIFAR-10, ResNet-110, ", "CIFAR-10, ResNet-20, "
KNOWN: dict[str, Known] = {
    "cohen_official__cifar10__resnet110__noise_0.12__test__sigma_0.12": Known(f"{_R110}noise 0.12"),
    "cohen_official__cifar10__resnet110__noise_0.12__test__sigma_0.50": Known(
        f"{_R110}noise 0.12, smoothed with 0.5"
    ),
    "cohen_official__cifar10__resnet110__noise_0.25__test__sigma_0.25": Known(
        f"{_R110}noise 0.25", 0.429, accuracies=(0.748, 0.600, 0.428, 0.266)
    ),
    "cohen_official__cifar10__resnet110__noise_0.25__test__sigma_0.50": Known(
        f"{_R110}noise 0.25, smoothed with 0.5"
    ),
    "cohen_official__cifar10__resnet110__noise_0.50__test__sigma_0.50": Known(
        f"{_R110}noise 0.5", 0.538
    ),
    "cohen_official__cifar10__resnet110__noise_1.00__test__sigma_0.50": Known(
        f"{_R110}noise 1, smoothed with 0.5"
    ),
    "cohen_official__cifar10__resnet110__noise_1.00__test__sigma_1.00": Known(
        f"{_R110}noise 1", 0.542
    ),
    "cifar10__cohen__cifar_resnet20__noise_0.50_7483": Known(f"{_R20}noise 0.5", 0.524),
    "cifar10__consistency__cohen__num_2__lbd_20.0__eta_0.5__cifar_resnet110__noise_0.25": Known(
        f"{_R110}consistency 0.25", 0.552, accuracies=(0.758, 0.676, 0.581, 0.467)
    ),
    "mnist__cohen__noise_0.25_3870": Known("MNIST, LeNet, noise 0.25", 0.911, 5),
    "mnist__cohen__noise_0.50_1801": Known("MNIST, LeNet, noise 0.5", 1.558, 5),
    "mnist__cohen__noise_1.00_2110": Known("MNIST, LeNet, noise 1", 1.618, 5),
    "mnist__stab__lbd_2__noise_0.5_1297": Known("MNIST, LeNet, stability 0.5", 1.572, 5),
    "mnist__macer_deferred30__num_16__lbd_16.0__gamma_8.0__beta_16.0__noise_0.50_1221": Known(
        "MNIST, LeNet, MACER 0.5", 1.590, 5
    ),
    "mnist__salman__pgd_255.0_10_10__num_4__noise_0.50_3916": Known(
        "MNIST, LeNet, SmoothAdv 0.5", 1.687, 5
    ),
    "mnist__consistency__cohen__num_2__lbd_5.0__eta_0.5__noise_0.50_1": Known(
        "MNIST, LeNet, consistency 0.5", 1.655, 5
    ),
}


def smoothing_experiment(request: Request) -> Outcome:
    """Published logs read again; it needs no training, takes seconds and has one seed."""
    single = replace(request, seeds=1)
    files = logs_in(single.data_dir)
    settings = {
        "logs": str(len(files)), "alpha": str(ALPHA), "n": str(N),
        "other theories": "from pA = Phi(r / sigma) of each logged radius r and pB = 1 - pA",
    }  # fmt: skip
    single.claim(settings)
    found = {name: measured(name, read_log(path)) for name, path in files.items()}
    for f in found.values():
        single.say(f"{f.words}: {len(f.log)} images, ACR {f.log.acr:.3f}")
    write(single.out / "logs.md", page(found).encode())
    return conclude(
        single, name="smoothing", paper=PAPER, claim=CLAIM, settings=settings,
        rows=rows(found), judged=judge(found), picture=picture(found),
    )  # fmt: skip


def logs_in(data_dir: Path | None) -> dict[str, Path]:
    """Every stored log by name; raises FileError where there are none, or a known one is
    missing.
    """
    base = data_dir or Path(os.environ.get(VARIABLE) or ".").expanduser()
    folder = base.joinpath(*PARTS)
    files = {p.name.removesuffix(".tsv.gz"): p for p in sorted(folder.glob("*.tsv.gz"))}
    missing = [name for name in KNOWN if name not in files]
    if missing:
        given = f"{folder} without {len(missing)} of {len(KNOWN)} logs, {missing[0]} first"
        remedy = f"set {VARIABLE} or give --data-dir, where certification/smoothing_logs is"
        raise FileError(given, "the stored certification logs", remedy)
    return files


def sigma_of(name: str) -> float:
    """The noise a log was certified with, from its name; raises FileError for a name without."""
    certified = re.search(r"sigma_([\d.]+)$", name) or re.search(r"noise_([\d.]+)", name)
    if certified is None:
        remedy = "rename it, or take it out of the folder"
        raise FileError(f"the log {name}", "a name with noise_... or sigma_...", remedy)
    return float(certified[1])


def measured(name: str, log: Log) -> Found:
    """A log and the ACR by every theory for Gaussian noise."""
    sigma, known = sigma_of(name), KNOWN.get(name, Known(name))
    kept = log.radii > 0
    distinct, place = np.unique(log.radii[kept], return_inverse=True)
    acr, above = {}, {}
    for by, covered in THEORIES.items():
        if "gaussian" not in covered:
            continue
        there = theory(by, "gaussian")(ndtr(distinct / sigma), None, sigma)
        radii = np.zeros(len(log))
        radii[kept] = there[place]
        acr[by] = replace(log, radii=radii).acr
        above[by] = int((there > distinct * (1 + 1e-6)).sum())
    own = tuple(log.accuracy(r) for r in RADII)
    return Found(
        name, known.words, sigma, log, largest_radius(Gaussian(sigma), N, ALPHA), acr, above,
        known.acr, known.trainings, own, known.accuracies,
    )  # fmt: skip


def rows(found: Mapping[str, Found]) -> tuple[Row, ...]:
    """ACR and certified accuracies beside the published, the largest radii, the theories."""
    made: list[Row] = []
    for f in found.values():
        source = f"mean of {f.trainings} trainings" if f.trainings > 1 else "this log"
        setting = "" if f.published is None else source
        more = {"unit": "", "digits": 4, "published": f.published, "setting": setting}
        made.append(Row(what=f"{f.words}: ACR", ours=(f.log.acr,), n=len(f.log), **more))
        for r, value in zip(RADII, f.known, strict=False):
            hits = [f.log.certified(r)]
            what = f"{f.words}: certified at {r:g}"
            made.append(Row.share(what, hits, [len(f.log)], published=value, setting=source))
    for sigma, value in LARGEST.items():
        own = largest_radius(Gaussian(sigma), N, ALPHA)
        made.append(
            Row(what=f"largest radius, sigma {sigma:g}", ours=(own,), n=N, published=value,
                unit="", digits=4, setting="closed form")
        )  # fmt: skip
    for by in next(iter(found.values())).acr:
        shares = tuple(f.acr[by] / f.log.acr for f in found.values())
        row = Row(what=f"{by}: ACR over the logged ACR", ours=(float(np.mean(shares)),),
                  n=len(shares), unit="", digits=4)  # fmt: skip
        made.append(row)
    return tuple(made)


def judge(found: Mapping[str, Found]) -> tuple[Verdict, str]:
    """Shows: every published figure comes out, to half a unit of its third decimal or, for one of
    several trainings, to OF_FIVE; no log exceeds the largest radius at ALPHA or, to its three
    digits, at LOOSER; no theory is above Neyman-Pearson. Contradicts otherwise.
    """
    off = [f.words for f in found.values() if f.published is not None and not _fits(f)]
    off += [
        f"the largest radius at sigma {sigma:g}"
        for sigma, value in LARGEST.items()
        if abs(largest_radius(Gaussian(sigma), N, ALPHA) - value) > 6e-4
    ]
    beyond = [f for f in found.values() if f.log.radii.max() > _rounded_up(f.largest)]
    far = [f.words for f in beyond if f.log.radii.max() > _rounded_up(_looser(f))]
    above = sum(sum(f.above.values()) for f in found.values())
    unknown = sum(f.published is None for f in found.values())
    alike = f", up to those of alpha = {LOOSER}" if beyond and not far else ""
    text = (
        f"{len(found)} logs, {len(found) - unknown} with published figures, of which "
        f"{len(off)} do not come out{_list(off)}; {len(beyond)} logs hold radii above the largest "
        f"at alpha = {ALPHA}{_list([f.words for f in beyond])}{alike}; {above} radii of other "
        "theories are above Neyman-Pearson"
    )
    return ("contradicts" if off or far or above else "shows"), text


def _fits(f: Found) -> bool:
    assert f.published is not None
    near = abs(f.log.acr - f.published) <= (OF_FIVE if f.trainings > 1 else 5.1e-4)
    pairs = zip(f.accuracies, f.known, strict=False)
    return near and all(abs(a - b) <= 5.1e-4 for a, b in pairs)


def _looser(f: Found) -> float:
    return largest_radius(Gaussian(f.sigma), N, LOOSER)


def _rounded_up(radius: float) -> float:
    """The largest number that three digits may make of it."""
    return max(float(f"{radius:.3g}"), radius)


def _list(words: list[str]) -> str:
    return f" ({'; '.join(words)})" if words else ""
