"""AutoAttack itself (Croce and Hein 2020a), from a folder with its source: no release of it is
kept up.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from torchproof.compare.library import Library, Offer, Plan
from torchproof.core.errors import FileError
from torchproof.core.norms import L1


@contextmanager
def source(folder: Path | None) -> Iterator[None]:
    """The package `autoattack` under `folder` can be imported inside; raises FileError."""
    if folder is None:
        yield
        return
    if not (folder / "autoattack" / "__init__.py").is_file():
        remedy = "give the folder that holds the folder autoattack"
        raise FileError(f"{folder}", "the source of AutoAttack", remedy)
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def _offers(plan: Plan) -> dict[str, Offer]:
    base, fab, square = (
        importlib.import_module(f"autoattack.{name}")
        for name in ("autopgd_base", "fab_pt", "square")
    )
    normed = {"norm": plan.label, "eps": plan.eps, "seed": plan.seed, "device": plan.device}
    apgd = {**normed, "use_largereps": plan.norm is L1}
    steps, classes = {"n_iter": plan.count}, {"n_target_classes": plan.targets}
    targeted = {**normed, "targeted": True, **classes}
    queries = {"n_queries": plan.count, "resc_schedule": False}
    whole = {**normed, "version": "standard", "verbose": False}
    return {
        "apgd-ce": Offer(base.APGDAttack, {**apgd, "loss": "ce"}, steps),
        "apgd-dlr": Offer(base.APGDAttack, {**apgd, "loss": "dlr"}, steps),
        "apgd-t": Offer(base.APGDAttack_targeted, {**apgd, **classes}, steps),
        "fab-t": Offer(fab.FABAttack_PT, targeted, steps),
        "square": Offer(square.SquareAttack, normed, queries),
        "autoattack": Offer(importlib.import_module("autoattack").AutoAttack, whole),
    }


def _call(plan: Plan, offer: Offer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    attack = offer.function(model, **offer.arguments(plan))
    if plan.attack == "autoattack":
        for member in (attack.apgd_targeted, attack.fab):  # it fails on fewer classes than targets
            member.n_target_classes = min(member.n_target_classes, plan.classes - 1)
        points: Tensor = attack.run_standard_evaluation(x, y, bs=plan.batch)
        return points
    with torch.set_grad_enabled(plan.attack != "square"):
        found: Tensor = attack.perturb(x, y)
    return found


def _version() -> str:
    """A hash of its files: the source has no version."""
    file = sys.modules["autoattack"].__file__
    assert file is not None
    digest = hashlib.sha256()
    for path in sorted(Path(file).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return f"source {digest.hexdigest()[:12]}"


AUTOATTACK = Library(
    "autoattack",
    "autoattack",
    "fetch its source and give the folder with --autoattack (autoattack=)",
    _offers,
    _call,
    version=_version,
)
