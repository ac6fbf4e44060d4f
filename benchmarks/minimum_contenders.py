"""Minimum-norm attacks behind one signature: ours, and those of the peers that can be loaded.

`Task.eps` plays no part. Every attack gets the same number of steps; what else the libraries let
one choose is set alike, and named in `SETTINGS`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contenders import Answer, Contender, Field, Peer, Task, gathered
from torch import Tensor

from torchproof.attack import Attack, Run
from torchproof.attack.catalogue import cw, ddn, deepfool, fab_t, fmn
from torchproof.attack.minimum import MinimumNorm, Unlimited
from torchproof.core.norms import NORMS
from torchproof.evaluate.curve.plan import nearest

FMN_STEPS, DDN_STEPS, DEEPFOOL_STEPS = 100, 100, 50
ROUNDS, CW_STEPS, CONSTANT = 4, 100, 1.0  # rounds, steps in each, the first constant
FAB_STEPS, TARGETS = 25, 4
FAR = 100.0  # a radius that ends no search

SETTINGS = {
    "FMN": f"{FMN_STEPS} steps",
    "FMN-T": f"{TARGETS} targets x 50 steps, what `torchproof curve` runs",
    "DDN": f"{DDN_STEPS} steps, no quantisation",
    "C&W": f"{ROUNDS} rounds of {CW_STEPS} steps, constant from {CONSTANT}; torchattacks keeps it",
    "DeepFool": f"at most {DEEPFOOL_STEPS} steps, overshoot 0.02",
    "FAB-T": f"{TARGETS} targets x {FAB_STEPS} steps",
}


@dataclass(frozen=True)
class Ours:
    """A minimum-norm attack of torchproof."""

    attack: Attack

    def __call__(self, task: Task) -> Answer:
        run = Run(seed=task.seed, slots=task.batch)
        near = MinimumNorm(self.attack)(task.model, task.x, task.y, run=run).found
        assert isinstance(near.value, Tensor)
        return Answer((task.x + near.value).clamp(0, 1), near.lost, near.spent)


def _own(norm: str) -> dict[str, Contender]:
    free = Unlimited(NORMS[norm])
    made: dict[str, Contender] = {
        "FMN": Ours(fmn(free, FMN_STEPS)),
        "FMN-T": Ours(nearest(NORMS[norm])),
        "DeepFool": Ours(deepfool(free, DEEPFOOL_STEPS, TARGETS)),
        "FAB-T": Ours(fab_t(free, FAB_STEPS, TARGETS)),
    }
    if norm == "l2":
        made |= {"DDN": Ours(ddn(free, DDN_STEPS)), "C&W": Ours(_weighed(free))}
    return made


def _weighed(free: Unlimited) -> Attack:
    made = cw(free, ROUNDS, CW_STEPS)
    search: Any = made.search
    return Attack(free, made.objective, type(search)(ROUNDS, CW_STEPS, constant=CONSTANT))


def _over_targets(norm: str, attack: Any, x: Tensor, single: Callable[[], Tensor]) -> Tensor:
    """The nearest points of FAB's single runs: as a whole it is content with the first class that
    falls within eps. A run returns the image itself where it found nothing.
    """
    best, shortest = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64)
    for target in range(2, TARGETS + 2):  # 1 is the class itself
        attack.target_class = target
        points = single().detach()
        far = distances(norm, x, points)
        nearer = (far > 0) & (far < shortest)
        best[nearer], shortest[nearer] = points[nearer], far[nearer]
    return best


def _autoattack(norm: str) -> dict[str, Peer]:
    # its version is a hash of the first of them
    _, fab_pt = (importlib.import_module(f"autoattack.{n}") for n in ("autopgd_base", "fab_pt"))

    def fab(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = fab_pt.FABAttack_PT(
            task.model, norm={"l2": "L2", "linf": "Linf"}[norm], n_iter=FAB_STEPS, eps=FAR,
            seed=task.seed, device="cpu", targeted=True,
        )  # fmt: skip
        single = partial(made.attack_single_run, x, y, is_targeted=True)
        return _over_targets(norm, made, x, single)

    return {"FAB-T": fab}


def _torchattacks(norm: str) -> dict[str, Peer]:
    lib = importlib.import_module("torchattacks")

    def fab(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = lib.FAB(
            task.model, norm={"l2": "L2", "linf": "Linf"}[norm], eps=FAR, steps=FAB_STEPS,
            seed=task.seed, multi_targeted=True,
        )  # fmt: skip
        return _over_targets(norm, made, x, partial(made.attack_single_run_targeted, x, y))

    def weighed(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = lib.CW(task.model, c=CONSTANT, steps=ROUNDS * CW_STEPS, lr=0.01)
        return made(x, y)  # type: ignore[no-any-return]

    def deep(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = lib.DeepFool(task.model, steps=DEEPFOOL_STEPS, overshoot=0.02)
        return made(x, y)  # type: ignore[no-any-return]

    return {"FAB-T": fab} | ({"C&W": weighed, "DeepFool": deep} if norm == "l2" else {})


def _foolbox(norm: str) -> dict[str, Peer]:
    lib = importlib.import_module("foolbox")
    known = lib.attacks

    def peer(attack: Any) -> Peer:
        def run(task: Task, x: Tensor, y: Tensor) -> Tensor:
            model = lib.PyTorchModel(task.model, bounds=(0, 1), device="cpu")
            # .run is the attack alone; calling it would add a forward pass to judge the result
            return attack.run(model, x, lib.criteria.Misclassification(y))  # type: ignore[no-any-return]

        return run

    if norm == "linf":
        return {
            "FMN": peer(known.LInfFMNAttack(steps=FMN_STEPS)),
            "DeepFool": peer(known.LinfDeepFoolAttack(steps=DEEPFOOL_STEPS)),
        }
    weighed = known.L2CarliniWagnerAttack(
        binary_search_steps=ROUNDS, steps=CW_STEPS, stepsize=0.01, initial_const=CONSTANT
    )
    return {
        "FMN": peer(known.L2FMNAttack(steps=FMN_STEPS)),
        "DDN": peer(known.DDNAttack(steps=DDN_STEPS)),
        "C&W": peer(weighed),
        "DeepFool": peer(known.L2DeepFoolAttack(steps=DEEPFOOL_STEPS)),
    }


def _adv_lib(norm: str) -> dict[str, Peer]:
    lib = importlib.import_module("adv_lib.attacks")
    order = {"l2": 2.0, "linf": math.inf}[norm]

    def peer(attack: Callable[..., Tensor], **options: Any) -> Peer:
        return lambda task, x, y: attack(task.model, x, y, **options)

    made = {
        "FMN": peer(lib.fmn, norm=order, steps=FMN_STEPS),
        "DeepFool": peer(lib.df, norm=order, steps=DEEPFOOL_STEPS, overshoot=0.02),
        "FAB-T": peer(
            lib.fab, norm=order, n_iter=FAB_STEPS, restarts=TARGETS, targeted_restarts=True
        ),
    }
    if norm == "l2":
        made["DDN"] = peer(lib.ddn, steps=DDN_STEPS, levels=None)
        made["C&W"] = peer(
            lib.carlini_wagner_l2, learning_rate=0.01, initial_const=CONSTANT,
            binary_search_steps=ROUNDS, max_iterations=CW_STEPS,
        )  # fmt: skip
    return made


_PEERS = {
    "AutoAttack": ("autoattack", _autoattack),
    "torchattacks": ("torchattacks", _torchattacks),
    "Foolbox": ("foolbox", _foolbox),
    "adv-lib": ("adv-lib", _adv_lib),
}


def minimum_contenders(norm: str, autoattack: Path | None) -> Field:
    """Ours and every peer that loads, for l2 or linf; `autoattack` is a folder with its source."""
    peers = {name: (package, partial(make, norm)) for name, (package, make) in _PEERS.items()}
    return gathered(_own(norm), peers, autoattack)


def distances(norm: str, x: Tensor, points: Tensor) -> Tensor:
    """(N,) float64 lengths of the moves."""
    return NORMS[norm].length(points.double() - x.double())


def valid(points: Tensor) -> Tensor:
    """(N,) bool: in the box up to float noise, and no NaN?"""
    flat = points.flatten(1)
    return ((flat >= -1e-6) & (flat <= 1 + 1e-6)).all(1) & torch.isfinite(flat).all(1)
