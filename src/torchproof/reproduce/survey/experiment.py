"""Li, Xie and Li 2023, "SoK: Certified Robustness for Deep Neural Networks", as an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torchproof.core.errors import FileError, InputError
from torchproof.evaluate.survey import Survey, survey
from torchproof.evaluate.survey.record import Cell, Share
from torchproof.reproduce.ahead import shared
from torchproof.reproduce.experiment import Outcome, Request, Row, Verdict, conclude
from torchproof.reproduce.survey.figure import drawn
from torchproof.reproduce.survey.networks import SMALL as NETWORKS
from torchproof.reproduce.survey.networks import small
from torchproof.reproduce.survey.page import publish
from torchproof.reproduce.survey.smoothed import theories, trainings
from torchproof.reproduce.survey.smoothed_here import trained

IMAGES, SECONDS = 18, 4.0
SMALL = "digits"  # networks whose names begin so have at most some hundred units
COMPLETE = ("milp-ibp", "ai2", "bab")
LINEAR = ("fast-lin", "crown", "crown-ibp", "deepz", "alpha-crown-full", "best")
SHOWN = ("ibp", "crown", "alpha-crown-full", "lp-full", "bab")


def survey_experiment(request: Request) -> Outcome:
    """All approaches on all networks; resumable image by image, processes share the networks. One
    seed: nothing in it is random but the attacks. Raises InputError for the scale "paper", which
    needs its own networks.
    """
    if request.scale != "small":
        remedy = "use torchproof.evaluate.survey.survey on your own networks"
        raise InputError(f"scale {request.scale!r}", "small", remedy)
    request = replace(request, seeds=1)
    request.claim({"images": str(IMAGES), "limit": f"{SECONDS:g}"})
    asked = shared(request, list(NETWORKS), lambda name, _: _asked(request, name))
    found = together([one for each in asked.values() for one in each if one is not None])
    smoothed = {
        "theories": theories(request.data_dir),
        "trainings": (*trainings(request.data_dir), *trained(request.out, request.say)),
    }
    return told(found.model_copy(update=smoothed), request)


def _asked(request: Request, name: str) -> Survey | None:
    """All approaches on one network; None for one that is not at hand, which is said."""
    folder = request.out / "survey" / name
    try:
        return Survey.read(folder)
    except FileError:  # not finished yet
        pass
    try:
        subjects = small(request.out, IMAGES, (name,), request.data_dir, request.say)
    except FileError as error:
        request.say(f"without {name}: {error.given}")
        return None
    found = survey(
        subjects, IMAGES, SECONDS, out=folder, resume=True, say=request.say,
        command="torchproof reproduce survey",
    )  # fmt: skip
    found.save(folder)
    return found


def together(parts: Sequence[Survey]) -> Survey:
    """One survey of several, of different networks; `spent` is the sum."""
    return parts[0].model_copy(
        update={
            "cells": tuple(cell for one in parts for cell in one.cells),
            "violations": tuple(found for one in parts for found in one.violations),
            "spent": sum(one.spent for one in parts),
        }
    )


def told(found: Survey, request: Request) -> Outcome:
    """The outcome of a survey, and its page beside it."""
    found.save(request.out)
    publish(found, request.out)
    return conclude(
        request,
        name="survey",
        paper='Li, Xie and Li 2023, "SoK: Certified Robustness for Deep Neural Networks"',
        claim="complete verification certifies what is robust on small networks and gives up on "
        "larger ones, where linear bounds certify the most; no bound contradicts an attack",
        settings={
            "images": f"the first {found.n} test images of each network",
            "limit": f"{found.seconds:g} s for an image and a method",
            "published": "no figure of ours is comparable: other networks and input sets",
        },
        rows=rows(found.cells),
        judged=judge(found),
        picture=drawn(found),
    )


def rows(cells: Sequence[Cell]) -> list[Row]:
    """Clean and attacked accuracy, and what some approaches certify, network by network."""
    table = []
    for cell in cells:
        about = f"{cell.network} ({cell.training}), {cell.norm}:{cell.eps_text}"
        table += [_row(f"{about}: clean", cell.clean), _row(f"{about}: attacked", cell.attacked)]
        for name in SHOWN:
            share = _certified(cell, name)
            if share is not None:
                table.append(_row(f"{about}: certified by {name}", share))
    return table


def judge(found: Survey) -> tuple[Verdict, str]:
    """Shows where (1) on every small network a complete method certifies all that attacks left,
    (2) on every larger one the best linear bound certifies at least the share that the best
    complete method does, (3) no bound is above what was reached. Without (3) it contradicts.
    """
    if found.violations:
        return "contradicts", f"{len(found.violations)} bounds above what was reached: a defect"
    few = [cell for cell in found.cells if cell.network.startswith(SMALL)]
    many = [cell for cell in found.cells if cell not in few]
    tight = [best(cell, COMPLETE) == cell.attacked.value for cell in few]
    ahead = [best(cell, LINEAR) >= best(cell, COMPLETE) for cell in many]
    because = (
        f"a complete method certifies all that attacks left on {sum(tight)} of {len(few)} small "
        f"networks; a linear bound certifies as much as the best complete method on {sum(ahead)} "
        f"of {len(many)} larger ones; no bound is above what was reached in its set"
    )
    return "shows" if all(tight) and all(ahead) else "does not show at this scale", because


def best(cell: Cell, names: Sequence[str]) -> float:
    """The largest share of all images that one of these methods certifies; what it was not asked
    about, because it had been late too often, it has not certified.
    """
    shares = [_certified(cell, name) for name in names]
    return max((share.hits for share in shares if share is not None), default=0) / cell.clean.n


def _certified(cell: Cell, name: str) -> Share | None:
    return next((r.certified for r in cell.rows if r.method == name), None)


def _row(what: str, share: Share) -> Row:
    return Row(what=what, ours=(share.value,), n=share.n, unit="%", ci95=share.ci95)
