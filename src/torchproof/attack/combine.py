"""Attacks as values: a threat, an objective and a search, and the ways to combine them.

`Restarts` and `EveryTarget` only add jobs to an attack; `Chain` hands the survivors of one to the
next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.ascend import ascend
from torchproof.attack.cases import Found, Jobs
from torchproof.attack.oracle import Oracle, Plain
from torchproof.attack.run import Run
from torchproof.attack.search import Search
from torchproof.attack.untouched import place, untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.objectives import Objective, hard
from torchproof.core.room import keep_freed_memory
from torchproof.core.sets import Set
from torchproof.core.sites import Model
from torchproof.core.threats import AnyThreat, Region
from torchproof.core.values import put, take

log = logging.getLogger(__name__)

Wrap = Callable[[Oracle], Oracle]


def _unwrapped(oracle: Oracle) -> Oracle:
    return oracle


@dataclass(frozen=True)
class Attack:
    """A threat, an objective and a search. Called on (model, x, y) it returns what it found.

    restarts: runs per target; targets: 0 for none, else a run at each of the `targets` most likely
    wrong classes (at most K - 1); wrap: puts EOT, quantisation or another wrapper around the
    oracle. Raises InputError at construction when the parts do not fit together.
    """

    threat: AnyThreat
    objective: Objective
    search: Search
    restarts: int = 1
    targets: int = 0
    wrap: Wrap = _unwrapped

    def __post_init__(self) -> None:
        if self.restarts < 1 or self.targets < 0:
            given = f"restarts = {self.restarts}, targets = {self.targets}"
            raise InputError(given, "restarts >= 1 and targets >= 0", "count runs from one")
        self._check_parts()
        self._check_starts()
        _check_region(self.threat)

    def _check_parts(self) -> None:
        """What the search needs, site and objective must offer."""
        site = self.threat.site
        offers = self.threat.offers | site.offers | self.objective.offers
        missing = self.search.needs - offers
        names = [type(part).__name__ for part in (self.search, site, self.objective)]
        if missing:
            raise InputError(
                f"{names[0]} at the site {names[1]} with the objective {names[2]}",
                f"a threat and an objective that offer: {', '.join(sorted(missing))}",
                "choose a search that needs less, such as PGD or APGD",
            )
        norm = type(getattr(self.threat, "norm", None))
        if self.search.norms is not None and norm not in self.search.norms:
            known = sorted(n.__name__ for n in self.search.norms)
            raise InputError(
                f"{names[0]} against a threat of norm {norm.__name__}",
                f"the norm {' or '.join(known)}",
                "choose a search for every norm, such as PGD or APGD",
            )
        if self.targets and not self.objective.targeted:
            raise InputError(
                f"EveryTarget with the objective {names[2]}, which reads no target",
                "a targeted objective",
                "use TargetedMargin() or TargetedDLR()",
            )
        if self.targets and site.shared:
            raise InputError(
                f"EveryTarget at the site {names[1]}",
                "a site with one perturbation per example",
                "pass one target= for the shared perturbation",
            )

    def _check_starts(self) -> None:
        """A random start where restarts or the objective's zero gradient ask for one."""
        name = type(self.search).__name__
        if self.search.random:
            return
        if self.restarts > 1:
            raise InputError(
                f"{self.restarts} restarts of a {name} that always starts alike",
                "a random start",
                "pass start=Uniform() to the search, or drop the restarts",
            )
        if self.objective.soft:
            raise InputError(
                f"{type(self.objective).__name__} searched by {name} from the clean point",
                "a random start, because its gradient is zero there",
                "pass start=Gaussian(0.001) or start=Uniform()",
            )

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        target: Tensor | None = None,
        run: Run = Run(),
    ) -> Found:
        """Attacks x (N, C, H, W) with labels y (N,) or probabilities (N, K); leaves the model as it
        was.

        target: (N,) classes for targeted objectives without `EveryTarget` (one class at a shared
        site). Raises InputError and ModelError; about targets beyond K once the model has answered.
        """
        if len(y) != len(x):
            given = f"{len(x)} images and {len(y)} labels"
            raise InputError(given, "one label per image", "cut both to the same examples")
        if not len(x):
            return Found.empty(0, x, x.device)
        keep_freed_memory()
        x, (device, floating) = x.detach(), place(model, x.device)
        kind = _working(floating, x.dtype)
        with untouched(model, keys.seed_of(run.seed, "model"), device):
            jobs = self._base(model, x.to(kind), y, target, run.slots, device)
            aim = int(jobs.target.max()) if self.objective.targeted and len(jobs) else -1
            # training ranks no points, and a wrapper may look at anything
            scored = not (run.last and self.search.even) or self.wrap is not _unwrapped
            site, jobs = self.threat.site, jobs.repeated(self.restarts)
            oracle = self.wrap(Plain(model, site, self.objective, aim, scored))

            def enclose(rows: Tensor) -> Set:
                return self.threat.set(model, rows)

            found = ascend(oracle, self.search, site, enclose, x, y, jobs, run, device, kind)
        _warn(found)
        return found

    def _base(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        target: Tensor | None,
        slots: int,
        device: torch.device,
    ) -> Jobs:
        """One job per problem and target, the most likely target first."""
        if self.targets:
            return _wrong_classes(model, x, y, self.targets, slots, device)
        problems = self.threat.site.problems(len(x))
        if target is not None and target.shape != (problems,):
            given, expected = f"target of shape {tuple(target.shape)}", f"shape ({problems},)"
            raise InputError(given, expected, "give one class per perturbation")
        if target is not None and self.objective.targeted and int(target.min()) < 0:
            given = f"target {int(target.min())}"
            raise InputError(given, "classes 0 to K - 1", "count classes from 0")
        if target is not None and self.objective.targeted and target.shape == y.shape:
            same = (target.to(y.device) == y).nonzero()[:, 0].tolist()
            if same:
                given = f"targets equal to the labels at positions {same[:5]}"
                raise InputError(given, "wrong classes", "aim at other classes, or leave these out")
        if target is None and self.objective.targeted:
            raise InputError(
                f"{type(self.objective).__name__} without targets",
                "target=, one class per example, or EveryTarget(attack)",
                "wrap the attack: EveryTarget(attack, 9)",
            )
        return Jobs.one_each(problems, target)


def _check_region(threat: AnyThreat) -> None:
    """A region is one mask for all images: rows of examples come and go, those of a mask do not."""
    if isinstance(threat, Region) and threat.mask.dim() > 3 and len(threat.mask) > 1:
        raise InputError(
            f"a Region with a mask for each of {len(threat.mask)} images",
            "one mask for all images, (H, W) or (C, H, W)",
            "for a mask per image write Regions(threat, Given.each(x, masks))",
        )


def _warn(found: Found) -> None:
    """A search that was blind now and then may have found less than there is."""
    blind = int((found.undefined > 0).sum())
    if blind:
        log.warning(
            "gradients were NaN or infinite in %d questions about %d of %d examples, and put to 0",
            int(found.undefined.sum()), blind, len(found.undefined),
        )  # fmt: skip


def _working(model: torch.dtype | None, x: torch.dtype) -> torch.dtype:
    """The type of perturbations: the model's (that of x for a plain function), at least float32."""
    return torch.promote_types(model or x, torch.float32)


def _wrong_classes(
    model: Model, x: Tensor, y: Tensor, count: int, slots: int, device: torch.device
) -> Jobs:
    """Jobs at the `count` most likely classes other than the label, by the clean logits."""
    # copies, because a model may write to what it is given
    parts = (x[i : i + slots].to(device, copy=True) for i in range(0, len(x), slots))
    answers = [_answer(model, part) for part in parts]
    z = torch.cat(answers)
    z = z.scatter(1, hard(y).to(z.device)[:, None], -torch.inf)
    count = min(count, z.shape[1] - 1)
    target = z.topk(count, dim=1).indices.cpu()
    problem = torch.arange(len(x)).repeat_interleave(count)
    cost: int = getattr(model, "draws", 1)
    return Jobs(problem, target.reshape(-1), torch.zeros_like(problem), cost)


@torch.no_grad()
def _answer(model: Model, x: Tensor) -> Tensor:
    out: Any = model(x)
    out = out["logits"] if isinstance(out, Mapping) else out  # of a model that may reject
    z: Tensor = out.to(torch.promote_types(out.dtype, torch.float32))
    return z


def Restarts(attack: Attack, n: int = 5) -> Attack:
    """`attack` with n runs from different starts; a win cancels the rest."""
    return replace(attack, restarts=n)


def EveryTarget(attack: Attack, n: int = 9) -> Attack:
    """`attack` at each of the n most likely wrong classes (at most K - 1); a win cancels the
    rest.
    """
    return replace(attack, targets=n)


@dataclass(frozen=True)
class Chain:
    """Attacks in sequence, each on the survivors of those before; the result is their worst
    case.
    """

    attacks: Sequence[Any]

    def __post_init__(self) -> None:
        if not self.attacks:
            raise InputError("an empty chain", "at least one attack", "write Chain((one, two))")

    @property
    def threat(self) -> AnyThreat:
        """That of the first attack: they share it."""
        first: AnyThreat = self.attacks[0].threat
        return first

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, run: Run = Run()) -> Found:
        ids = torch.arange(len(x)) if run.ids is None else run.ids
        quiet = replace(run, ids=ids, on_done=None)
        total: Found = self.attacks[0](model, x, y, run=quiet)
        told = _tell(run, total, total.lost & False, total.lost)
        for number, attack in enumerate(self.attacks[1:], 1):
            problems = (~total.lost & total.done).nonzero()[:, 0]
            if not len(problems):
                break
            rows, seed = self.threat.site.rows(problems), keys.seed_of(run.seed, number)
            part = attack(model, x[rows], y[rows], run=replace(quiet, ids=ids[rows], seed=seed))
            _merge(total, problems, part)
            told = _tell(run, total, told, total.lost)
        _tell(run, total, told, total.done)
        return total


def _tell(run: Run, found: Found, told: Tensor, ready: Tensor) -> Tensor:
    """Calls run.on_done with the problems that are ready and were not told of; returns all told."""
    fresh = (ready & ~told).nonzero()[:, 0].tolist()
    if run.on_done is not None and fresh:
        run.on_done(found, fresh)
    return told | ready


def _merge(total: Found, rows: Tensor, part: Found) -> None:
    """Writes a later attack's result over the rows it improved; costs add up."""
    better = part.lost | (part.score > total.score[rows])
    at = rows[better]
    put(total.value, at, take(part.value, better))
    total.score[at], total.by[at] = part.score[better], part.by[better]
    total.lost[rows] |= part.lost
    total.spent[rows] += part.spent
    total.undefined[rows] += part.undefined
    total.done[rows] = part.done
