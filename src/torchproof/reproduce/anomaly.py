"""`reproduce anomaly`: what does training on contaminated images do to an autoencoder, and which
way of rejecting the outliers mends it (Beggel et al. 2019)?
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from torchproof import data as sets
from torchproof.anomaly.baselines import BASELINES, fit_baseline
from torchproof.anomaly.contamination import Contaminated, contaminate, shrunk
from torchproof.anomaly.detector import load
from torchproof.anomaly.figures import told_apart
from torchproof.anomaly.fit import Fitted, fit
from torchproof.anomaly.itsr import ITSR
from torchproof.anomaly.learner import Learner, Setting
from torchproof.anomaly.networks import Architecture
from torchproof.anomaly.rejection import EarlyRejection, Oracle
from torchproof.anomaly.scores import rule_from, scores
from torchproof.anomaly.stages import Method, Plain
from torchproof.core.ranking import auroc
from torchproof.report.anomaly_plots import draw_heat_maps
from torchproof.report.pictures import save
from torchproof.reproduce.ahead import shared
from torchproof.reproduce.anomaly_figures import (
    AAE,
    MAKE_WORSE,
    ORACLE,
    PLAIN,
    PUBLISHED,
    REJECT,
    Areas,
    Found,
    Point,
    Run,
    judge,
    rows,
)
from torchproof.reproduce.anomaly_parts import Part, parts_of
from torchproof.reproduce.anomaly_picture import picture
from torchproof.reproduce.experiment import Outcome, Request, conclude

PAPER = "Beggel, Pfeiffer and Bischl 2019, arXiv 1901.06355"
CLAIM = (
    "an autoencoder trained on contaminated images learns to reconstruct the outliers as well, and "
    "rejecting suspects during training prevents it"
)


def anomaly_experiment(request: Request) -> Outcome:
    """Plain autoencoders over epochs and contamination; at one contamination rejection by
    reconstruction error, removal by the truth, the adversarial autoencoder without and with ITSR,
    and detectors of scikit-learn.
    """
    parts = parts_of(request)
    request.claim({"parts": f"{parts}"})
    named = {part.slug: part for part in parts}
    seeds = shared(request, named, lambda slug, seed: _measured(request, named[slug], seed))
    found = {part.about: _joined(part, seeds[part.slug]) for part in parts}
    for part in parts:
        _heat_maps(request, part)
    return conclude(
        request, name="anomaly", paper=PAPER, claim=CLAIM, settings=_settings(parts),
        rows=[row for one in found.values() for row in rows(one)],
        judged=judge(found), picture=picture(found),
    )  # fmt: skip


def _settings(parts: tuple[Part, ...]) -> dict[str, str]:
    return {
        part.about: f"{part.sizes.train} normal images and {100 * part.share:g} % outliers to "
        f"train on, {part.sizes.held} normal ones held out, {part.sizes.test} of either kind to "
        f"test; {part.size} x {part.size} pixels, {part.width} units, {part.late} epochs, ITSR "
        f"{part.itsr.pretrain} + {part.itsr.rounds} x {part.itsr.refine} + {part.itsr.retrain}"
        f"{part.note and f' ({part.note})'}"
        for part in parts
    }


def _measured(request: Request, part: Part, seed: int) -> tuple[list[Run], Areas]:
    """All runs of a part and a seed; those whose file is there are read back."""
    normal, outliers = _images(request, part)
    folder = request.out / part.slug / f"seed{seed}"
    runs: list[Run] = []
    for share in part.shares:
        case = contaminate(normal, outliers, share, part.sizes, seed)
        pieces: dict[str, Method] = {PLAIN: Plain(part.late)}
        if share == part.share:
            pieces = _methods(part, case)
        for name, method in pieces.items():
            path = folder / f"{name.replace(' ', '-')}-{share:g}.json"
            if not path.exists():
                _run(part, case, name, method, share, seed, path).write(path)
                request.say(f"{part.about}, seed {seed}: {name} at {share:g}")
            runs.append(Run.read(path))
    case = contaminate(normal, outliers, part.share, part.sizes, seed)
    return runs, _baselines(folder / "baselines.json", case, seed)


def _joined(part: Part, seeds: list[tuple[list[Run], Areas]]) -> Found:
    runs = tuple(run for own, _ in seeds for run in own)
    areas = tuple(areas for _, areas in seeds)
    return Found(
        part.about, part.early, part.late, part.share, runs, areas, PUBLISHED.get(part.about, {}),
    )  # fmt: skip


def _images(request: Request, part: Part) -> tuple[Tensor, Tensor]:
    """Normal images, and those that outliers are drawn from."""
    found = sets.load(part.data, data_dir=request.data_dir, split=part.split)
    normal = found.y == found.classes.index(part.normal)
    bad = ~normal if part.outlier is None else found.y == found.classes.index(part.outlier)
    return shrunk(found.x[normal], part.size), shrunk(found.x[bad], part.size)


def _methods(part: Part, case: Contaminated) -> dict[str, Method]:
    outliers = tuple(case.outlier.nonzero()[:, 0].tolist())
    return {
        PLAIN: Plain(part.late),
        REJECT: EarlyRejection(part.early, part.late - part.early),
        ORACLE: Oracle(outliers, part.late),
        MAKE_WORSE: Oracle(outliers, part.late, -0.1),
        AAE: Plain(_total(part.itsr)),
        "ITSR": part.itsr,
    }


def _total(how: ITSR) -> int:
    return how.pretrain + how.rounds * how.refine + how.retrain


def _run(
    part: Part, case: Contaminated, name: str, method: Method, share: float, seed: int, path: Path
) -> Run:
    """Trains and judges at the marks and at the end; the network of rejection is kept."""
    adversarial = name in (AAE, "ITSR")
    how = Architecture("dense", 2 if adversarial else 32, part.width, batch_norm=adversarial)
    points: list[Point] = []
    last = sum(stage.epochs for stage in method.stages())

    def watch(learner: Learner, weights: Tensor) -> None:
        if learner.epochs in {*part.marks, last}:
            points.append(_point(learner, weights, case))

    fitted = fit(case.x, method, Setting(how, adversarial, seed=seed), watch=watch)
    if name == REJECT:
        fitted.detector(case.held).save(path.parent / "detector")
    return _told(fitted, case, name, share, seed, points)


def _point(learner: Learner, weights: Tensor, case: Contaminated) -> Point:
    """Errors on the training images; the rule of the paper, of kept training images, and that of
    held-out ones, on the test images.
    """
    network, adversarial = learner.network, learner.setting.adversarial
    train, test = scores(network, case.x), scores(network, case.test)
    published = rule_from(train.take(weights > 0), adversarial)
    held = rule_from(scores(network, case.held), adversarial)
    errors = train.error[~case.outlier], train.error[case.outlier]
    paper, ours = (told_apart(test, case.anomalous, rule) for rule in (published, held))
    return Point(
        epochs=learner.epochs, normal=float(errors[0].mean()),
        outlier=float(errors[1].mean()) if len(errors[1]) else None,
        balanced=paper.balanced, left_alone=paper.left_alone, found=paper.found,
        balanced_held=ours.balanced, auroc=ours.auroc, auroc_error=ours.auroc_error,
        auroc_likelihood=ours.auroc_likelihood,
    )  # fmt: skip


def _told(
    fitted: Fitted, case: Contaminated, name: str, share: float, seed: int, points: list[Point]
) -> Run:
    """What was rejected at each stage, and the latent likelihoods of the training images."""
    likelihood = scores(fitted.learner.network, case.x).likelihood
    stages = [weights < 1 for weights in fitted.weights.values()]
    keep = name in (AAE, "ITSR")
    normal, outlier = likelihood[~case.outlier], likelihood[case.outlier]
    area = auroc(-normal, -outlier) if case.planted else None
    return Run(
        method=name, share=share, seed=seed, planted=case.planted, points=tuple(points),
        rejected=tuple(int(stage.sum()) for stage in stages),
        true=tuple(int((stage & case.outlier).sum()) for stage in stages),
        negative=int((fitted.last < 0).sum()),
        negative_true=int(((fitted.last < 0) & case.outlier).sum()),
        latent_area=area if keep else None,
        likelihood_normal=tuple(normal.tolist()) if keep else (),
        likelihood_outlier=tuple(outlier.tolist()) if keep else (),
        contrast=tuple(
            one.error_rejected / one.error_kept for one in fitted.premises.values() if one
        ),
    )  # fmt: skip


def _baselines(path: Path, case: Contaminated, seed: int) -> Areas:
    if not path.exists():
        areas = {}
        for name in BASELINES:
            suspicion = fit_baseline(name, case.x, seed=seed).suspicion(case.test)
            areas[name] = auroc(suspicion[~case.anomalous], suspicion[case.anomalous])
        Areas(areas=areas, n=len(case.test)).write(path)
    return Areas.read(path)


def _heat_maps(request: Request, part: Part) -> None:
    """Of the first seed: test images that the network of rejection suspects most, of each kind."""
    path = request.out / f"heat-maps-{part.slug}.png"
    if path.exists():
        return
    normal, outliers = _images(request, part)
    case = contaminate(normal, outliers, part.share, part.sizes, request.all_seeds[0])
    detector = load(request.out / part.slug / f"seed{request.all_seeds[0]}" / "detector")
    suspicion = detector.suspicion(case.test)
    chosen: list[Tensor] = []
    pick: dict[str, Callable[[Tensor], Tensor]] = {"outlier": lambda a: a, "normal": lambda a: ~a}
    titles: list[str] = []
    for kind, of in pick.items():
        mine = of(case.anomalous).nonzero()[:, 0]
        few = mine[suspicion[mine].argsort(descending=True)[:4]]
        chosen.append(few)
        titles += [f"{kind}\n{value:.1f}" for value in suspicion[few].tolist()]
    x = case.test[torch.cat(chosen)]
    save(draw_heat_maps(x, detector.heat_maps(x), titles), path)
