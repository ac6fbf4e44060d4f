"""The attacks under comparison behind one signature: ours, and those of the peers that can be
loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.attack import ATTACKS, Run
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat

OURS = "torchproof"


@dataclass(frozen=True)
class Task:
    """One call: attack `model` at x (N, C, H, W), y (N,) within eps (Linf), `batch` images at a
    time.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    seed: int
    batch: int


@dataclass(frozen=True)
class Answer:
    """points: (N, C, H, W) what the attack returned; lost, spent: what it says itself, (N,) bool
    and (N, 2) forward and backward samples, None where it says nothing.
    """

    points: Tensor
    lost: Tensor | None = None
    spent: Tensor | None = None


Contender = Callable[[Task], Answer]
Peer = Callable[[Task, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Field:
    """attacks: library -> attack -> how to run it; versions; missing: library -> why it is not
    there.
    """

    attacks: dict[str, dict[str, Contender]]
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def offering(self, attack: str) -> dict[str, Contender]:
        """The libraries that have this attack, ours first."""
        return {name: has[attack] for name, has in self.attacks.items() if attack in has}


def _ours(name: str, **options: Any) -> Contender:
    def run(task: Task) -> Answer:
        attack = ATTACKS[name](Threat(Linf(), task.eps), **options)
        run = Run(seed=task.seed, slots=task.batch)
        found = attack(task.model, task.x, task.y, run=run)
        assert isinstance(found.value, Tensor)
        return Answer((task.x + found.value).clamp(0, 1), found.lost, found.spent)

    return run


def theirs(peer: Peer) -> Contender:
    """A peer's attack, batch by batch, with torch's own random state seeded inside and given
    back.
    """

    def run(task: Task) -> Answer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            at = [slice(i, i + task.batch) for i in range(0, len(task.x), task.batch)]
            return Answer(torch.cat([peer(task, task.x[i], task.y[i]).detach() for i in at]))

    return run


def _own(pgd: int, apgd: int, fab: int, square: int) -> dict[str, Contender]:
    return {
        "PGD": _ours("PGD", steps=pgd, length=1 / 20),
        "APGD-CE": _ours("APGD-CE", steps=apgd),
        "APGD-T": _ours("APGD-T", steps=apgd),
        "FAB": _ours("FAB-T", steps=fab, targets=1),
        "Square": _ours("Square", queries=square),
    }


def _autoattack(pgd: int, apgd: int, fab: int, square: int) -> dict[str, Peer]:
    base, fab_pt, sq = (
        importlib.import_module(f"autoattack.{n}") for n in ("autopgd_base", "fab_pt", "square")
    )

    def apgd_ce(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = base.APGDAttack(
            task.model, n_iter=apgd, eps=task.eps, seed=task.seed, loss="ce", device="cpu"
        )
        return made.perturb(x, y)  # type: ignore[no-any-return]

    def apgd_t(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = base.APGDAttack_targeted(
            task.model, n_iter=apgd, eps=task.eps, seed=task.seed, device="cpu"
        )
        return made.perturb(x, y)  # type: ignore[no-any-return]

    def fab_t(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = fab_pt.FABAttack_PT(
            task.model, n_iter=fab, eps=task.eps, seed=task.seed, device="cpu", targeted=True,
            n_target_classes=1,
        )  # fmt: skip
        return made.perturb(x, y)  # type: ignore[no-any-return]

    def squares(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = sq.SquareAttack(
            task.model, n_queries=square, eps=task.eps, seed=task.seed, device="cpu",
            resc_schedule=False,
        )  # fmt: skip
        with torch.no_grad():
            return made.perturb(x, y)  # type: ignore[no-any-return]

    return {"APGD-CE": apgd_ce, "APGD-T": apgd_t, "FAB": fab_t, "Square": squares}


def _torchattacks(pgd: int, apgd: int, fab: int, square: int) -> dict[str, Peer]:
    lib = importlib.import_module("torchattacks")

    def descent(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = lib.PGD(task.model, eps=task.eps, alpha=task.eps / 20, steps=pgd)
        return made(x, y)  # type: ignore[no-any-return]

    def apgd_ce(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = lib.APGD(task.model, eps=task.eps, steps=apgd, seed=task.seed)
        return made(x, y)  # type: ignore[no-any-return]

    def fab_t(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = lib.FAB(
            task.model, eps=task.eps, steps=fab, seed=task.seed, multi_targeted=True, n_classes=2
        )
        return made(x, y)  # type: ignore[no-any-return]

    def squares(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = lib.Square(
            task.model, eps=task.eps, n_queries=square, seed=task.seed, resc_schedule=False
        )
        return made(x, y)  # type: ignore[no-any-return]

    return {"PGD": descent, "APGD-CE": apgd_ce, "FAB": fab_t, "Square": squares}


def _foolbox(pgd: int, apgd: int, fab: int, square: int) -> dict[str, Peer]:
    lib = importlib.import_module("foolbox")

    def descent(task: Task, x: Tensor, y: Tensor) -> Tensor:
        made = lib.attacks.LinfPGD(rel_stepsize=1 / 20, steps=pgd)
        model = lib.PyTorchModel(task.model, bounds=(0, 1), device="cpu")
        # .run is the attack alone; calling it would add a forward pass to judge the result
        return made.run(model, x, lib.criteria.Misclassification(y), epsilon=task.eps)  # type: ignore[no-any-return]

    return {"PGD": descent}


def _adv_lib(pgd: int, apgd: int, fab: int, square: int) -> dict[str, Peer]:
    lib = importlib.import_module("adv_lib.attacks")

    def descent(task: Task, x: Tensor, y: Tensor) -> Tensor:
        return lib.pgd_linf(task.model, x, y, task.eps, steps=pgd, relative_step_size=1 / 20)  # type: ignore[no-any-return]

    def apgd_ce(task: Task, x: Tensor, y: Tensor) -> Tensor:
        return lib.apgd(task.model, x, y, task.eps, math.inf, n_iter=apgd, loss_function="ce")  # type: ignore[no-any-return]

    def fab_t(task: Task, x: Tensor, y: Tensor) -> Tensor:
        return lib.fab(task.model, x, y, math.inf, n_iter=fab, restarts=1, targeted_restarts=True)  # type: ignore[no-any-return]

    return {"PGD": descent, "APGD-CE": apgd_ce, "FAB": fab_t}


_PEERS = {
    "AutoAttack": ("autoattack", _autoattack),
    "torchattacks": ("torchattacks", _torchattacks),
    "Foolbox": ("foolbox", _foolbox),
    "adv-lib": ("adv-lib", _adv_lib),
}


def contenders(
    autoattack: Path | None, pgd: int = 50, apgd: int = 100, fab: int = 100, square: int = 5000
) -> Field:
    """Ours and every peer that loads, with the given numbers of steps; `autoattack` is a folder
    with its source. What does not load is told with the reason.
    """
    steps = (pgd, apgd, fab, square)
    peers = {name: (package, partial(make, *steps)) for name, (package, make) in _PEERS.items()}
    return gathered(_own(*steps), peers, autoattack)


def gathered(
    own: dict[str, Contender],
    peers: dict[str, tuple[str, Callable[[], dict[str, Peer]]]],
    autoattack: Path | None,
) -> Field:
    """Ours and the peers that load, each given as its package and what makes its attacks."""
    out = Field({OURS: own}, {OURS: _installed(OURS)})
    if autoattack is not None:
        sys.path.insert(0, str(autoattack))
    for name, (package, make) in peers.items():
        try:
            made = make()
        except Exception as error:  # a broken optional package may raise anything, not ImportError
            reason = f"{type(error).__name__}: {error}"
            hint = "; give --autoattack PATH" if name == "AutoAttack" and autoattack is None else ""
            out.missing[name] = reason + hint
            continue
        out.attacks[name] = {attack: theirs(peer) for attack, peer in made.items()}
        out.versions[name] = _version(name, package)
    return out


def _version(name: str, package: str) -> str:
    """The installed version; for AutoAttack, which has none, a hash of the source that matters."""
    if name != "AutoAttack":
        return _installed(package)
    file = sys.modules["autoattack.autopgd_base"].__file__
    assert file is not None
    return "autopgd_base.py sha256 " + hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "from its source folder"
