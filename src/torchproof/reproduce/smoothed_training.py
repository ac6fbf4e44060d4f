"""Training for randomised smoothing: how far the smoothed classifiers of networks that were trained
in different ways are certified (Cohen et al. 2019 and those who built on it).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from torchproof.core.metrics import student
from torchproof.data.dataset import Dataset
from torchproof.nn import load_model
from torchproof.recipes import Plan, recipe
from torchproof.report.pictures import content
from torchproof.reproduce.experiment import Outcome, Request, Row, Verdict, available, conclude
from torchproof.reproduce.figures import Figures
from torchproof.reproduce.subjects import seeded, tested_on, trained
from torchproof.train import Settings
from torchproof.verify.smoothing import Smoothing

PAPER = (
    "Cohen et al. 2019; Li et al. 2019 (stability); Salman et al. 2019 (SmoothAdv); Zhai et al. "
    "2020 (MACER); Jeong and Shin 2020 (consistency)"
)
CLAIM = (
    "attacks on the smoothed classifier (SmoothAdv) and consistency under noise raise the average "
    "certified radius above that of training on noisy images"
)
NOISE, SMOOTHADV, CONSISTENCY = "noise", "SmoothAdv", "consistency"
HELPERS = (SMOOTHADV, CONSISTENCY)
SIGMAS = (0.25, 0.5)
MEANS = "LeNet, 10,000 images, n = 100,000, mean of 5 trainings"
# ACR on MNIST: means over the logs that Jeong and Shin 2020 published.
PUBLISHED = {
    (0.25, NOISE): 0.911, (0.5, NOISE): 1.558,
    (0.25, "stability"): 0.915, (0.5, "stability"): 1.572,
    (0.25, SMOOTHADV): 0.932, (0.5, SMOOTHADV): 1.687,
    (0.25, "MACER"): 0.920, (0.5, "MACER"): 1.590,
    (0.25, CONSISTENCY): 0.928, (0.5, CONSISTENCY): 1.655,
}  # fmt: skip
_SETTINGS = Settings.of(epochs=6, batch_size=100, lr=2e-3, optimiser="adam", schedule="cyclic",
                        weight_decay=0.0, held_out=0)  # fmt: skip

Key = tuple[float, str]


class Found(Figures):
    """The certified radii of one network by image, 0 for wrong and abstained ones."""

    radii: tuple[float, ...]
    abstained: float

    @property
    def acr(self) -> float:
        return statistics.fmean(self.radii)


@dataclass(frozen=True)
class Setting:
    """The plans by sigma and method; how many images are certified, and with how many samples."""

    plans: Mapping[Key, Plan]
    images: int
    samples: int


def methods(sigma: float, small: bool) -> dict[str, str]:
    """The methods that are compared at a sigma, with fewer noises and steps where it is small."""
    m, steps, ramp = (2, 2, 0.2) if small else (4, 10, 10 / 90)
    noises, lam = (4, 4) if small else (16, 16)
    weight = {0.25: 10, 0.5: 5}.get(sigma, 5)
    return {
        NOISE: f"NoiseAugmentation(sigma={sigma})",
        "stability": f"Stability(sigma={sigma}, lam=2)",
        SMOOTHADV: f"SmoothAdv(sigma={sigma}, m={m}, steps={steps}, ramp={ramp})",
        "MACER": f"MACER(sigma={sigma}, m={noises}, lam={lam}, deferred=1/3)",
        CONSISTENCY: f"Consistency(NoiseAugmentation(sigma={sigma}, m=2), lam={weight})",
    }


def setting(request: Request) -> Setting:
    """Small networks on few images, or the settings of Jeong and Shin 2020 (batches of 256 images
    whatever the number of noises).
    """
    small = request.scale == "small"
    base = recipe("mnist-noise")
    if small:
        name = "mnist" if available("mnist", request) else "digits"
        few = {"n": 5000} if name == "mnist" else {}
        base = Plan(data=name, model="small-cnn", settings=_SETTINGS, threat="l2:1", **few)
    plans = {
        (sigma, name): base.model_copy(update={"method": method})
        for sigma in SIGMAS
        for name, method in methods(sigma, small).items()
    }
    return Setting(plans, 200 if small else 10_000, 1000 if small else 100_000)


def smoothed_training(request: Request) -> Outcome:
    """Networks trained on noise in five ways, and certified by smoothing with the same noise."""
    chosen = setting(request)
    request.claim({f"{s:g} {m}": p.model_dump_json() for (s, m), p in chosen.plans.items()})
    some = next(iter(chosen.plans.values()))
    test = tested_on(request, some.data, chosen.images)
    table = {
        key: [_measure(request, chosen, key, seed, test) for seed in request.all_seeds]
        for key in chosen.plans
    }
    return conclude(
        request, name="smoothed-training", paper=PAPER, claim=CLAIM,
        settings={
            "data": some.data, "model": some.model,
            "certified with": f"n0 = 100, n = {chosen.samples}, alpha = 0.001, {len(test)} images",
            "training": f"{some.settings.epochs} epochs, {some.n or 'all'} training images",
            "weights": "last",
        },
        rows=_rows(table, len(test)), judged=judge(table), picture=_picture(table),
    )  # fmt: skip


def _measure(request: Request, chosen: Setting, key: Key, seed: int, test: Dataset) -> Found:
    """Trains and certifies one network; finished parts are read back."""
    sigma, name = key
    folder = request.out / f"{sigma:g}" / f"{name}-seed{seed}"
    kept = folder / "found.json"
    if kept.exists():
        return Found.read(kept)
    trained(request, seeded(request, chosen.plans[key], seed), folder)
    model = load_model(str(folder / "last.safetensors")).model
    smoothing, out = Smoothing(sigma, n=chosen.samples), folder / "smoothed"
    run = smoothing(model, test.x, test.y, seed=seed, out=out, resume=out.exists())
    log = run.log()
    found = Found(radii=tuple(np.where(log.correct, log.radii, 0.0)), abstained=log.abstained)
    found.write(kept)
    request.say(f"sigma {sigma:g}, {name}, seed {seed}: ACR {found.acr:.3f} of {len(test)} images")
    return found


Table = Mapping[Key, list[Found]]


def _rows(table: Table, n: int) -> tuple[Row, ...]:
    """ACR, accuracy of the smoothed classifier, certified accuracy at radius sigma, abstentions."""
    rows: list[Row] = []
    for (sigma, name), each in table.items():
        words, of = f"sigma {sigma:g}, {name}", [n] * len(each)
        known = PUBLISHED.get((sigma, name))
        acr = [found.acr for found in each]
        row = Row.per_seed(f"{words}: ACR", acr, n, unit="")
        rows.append(row.model_copy(update={"published": known, "setting": MEANS if known else ""}))
        for radius, what in ((0.0, "certified at all"), (sigma, f"certified at {sigma:g}")):
            hits = [sum(r > 0 and r >= radius for r in found.radii) for found in each]
            rows.append(Row.share(f"{words}: {what}", hits, of))
        idle = [round(found.abstained * n) for found in each]
        rows.append(Row.share(f"{words}: abstained", idle, of))
    return tuple(rows)


def gain(table: Table, sigma: float, name: str) -> tuple[float, float, float]:
    """The mean gain in radius against training on noise, and its 95 % interval over images, each
    averaged over seeds.
    """
    ours, plain = (_by_image(table[sigma, m]) for m in (name, NOISE))
    differences = [a - b for a, b in zip(ours, plain, strict=True)]
    low, high = student(differences) or (-np.inf, np.inf)
    return statistics.fmean(differences), low, high


def _by_image(each: Sequence[Found]) -> list[float]:
    return [statistics.fmean(radii) for radii in zip(*(f.radii for f in each), strict=True)]


def judge(table: Table) -> tuple[Verdict, str]:
    """Shows: SmoothAdv and consistency gain at every sigma, by the lower end of the interval over
    images. Contradicts: one of them loses somewhere, by the upper end.
    """
    sigmas = dict.fromkeys(sigma for sigma, _ in table)
    found = {(s, m): gain(table, s, m) for s in sigmas for m in HELPERS}
    text = "; ".join(
        f"sigma {s:g}, {m}: {mean:+.3f} ({low:+.3f} to {high:+.3f})"
        for (s, m), (mean, low, high) in found.items()
    )
    text = f"gain in average certified radius against training on noise: {text}"
    if any(high < 0 for _, _, high in found.values()):
        return "contradicts", text
    shows = all(low > 0 for _, low, _ in found.values())
    return ("shows" if shows else "does not show at this scale"), text


def _picture(table: Table) -> bytes:
    """Certified accuracy over the radius, a panel per sigma, averaged over seeds, as PNG."""
    sigmas = list(dict.fromkeys(sigma for sigma, _ in table))
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels = figure.subplots(1, len(sigmas), sharey=True, squeeze=False)[0]
    for axes, sigma in zip(panels, sigmas, strict=True):
        own = {name: each for (s, name), each in table.items() if s == sigma}
        top = max(max(found.radii) for each in own.values() for found in each)
        radii = np.linspace(top / 400, max(top, 1e-3), 400)
        for name, each in own.items():
            stored = np.array([found.radii for found in each]).ravel()
            shares = [100 * float((stored >= r).mean()) for r in radii]
            axes.plot(radii, shares, label=name, lw=1.2)
        axes.set_title(f"sigma {sigma:g}")
        axes.set_xlabel("l2 radius")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("certified accuracy, %")
    panels[0].set_ylim(0, 102)
    panels[0].legend(frameon=False, fontsize=8, loc="lower left")
    return content(figure)
