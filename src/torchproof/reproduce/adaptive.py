"""`reproduce adaptive`: thirteen published defences that survived their papers' evaluations, broken
again by hand, and by `adapt`, which has no case for any of them (Tramer et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from torchproof.adaptive.defence import Defence, Material
from torchproof.adaptive.zoo import ZOO
from torchproof.core.errors import FileError
from torchproof.core.files import write
from torchproof.core.threats import parse
from torchproof.reproduce.adaptive_figures import compact, judge, rows
from torchproof.reproduce.adaptive_measures import code, debugged, on_base, on_defence
from torchproof.reproduce.adaptive_picture import picture
from torchproof.reproduce.adaptive_record import Attacked, Broken, Cell, Control, Debugged
from torchproof.reproduce.adaptive_subjects import Materials, Pair, Part, code_of, trained
from torchproof.reproduce.ahead import shared
from torchproof.reproduce.experiment import Outcome, Request, available, conclude
from torchproof.reproduce.figures import Figures
from torchproof.reproduce.packed import packed

PAPER = "Tramer, Carlini, Brendel and Madry 2020, arXiv 2002.08347"
CLAIM = (
    "defences that survive the evaluation of their papers fall to attacks that are adapted to "
    "them: each of thirteen ends where its undefended network is"
)
PARTS = {
    "small": Part(train=6000, calibration=1000, tests=40, budget=2500),
    "paper": Part(train=50_000, calibration=5000, tests=1000, budget=20_000),
}
PACKED = {"mnist_trades": ("mnist", "linf:0.3"), "mnist_fast_pgd": ("mnist", "linf:0.3")}
"""Adversarially trained networks of the data folder: what they were trained on, and for."""

_LESS = 5  # of the budget, this part, where every answer is an optimisation of its own

F = TypeVar("F", bound=Figures)


def adaptive_experiment(request: Request) -> Outcome:
    """Each defence under the evaluation of its paper, the attacks that broke it and `adapt`, beside
    its undefended base; networks without a defence as a control (Tramer et al. 2020).
    """
    return measured(request, PARTS[request.scale], ZOO, PACKED)


def measured(
    request: Request, part: Part, zoo: Mapping[str, Defence],
    known: Mapping[str, tuple[str, str]],
) -> Outcome:  # fmt: skip
    """The experiment on a zoo, and on packed networks: name to data set and threat."""
    request.claim({"part": f"{part}"})
    defences, missing = built(zoo, request)
    bench = Bench(request, part, Materials(request, part))

    def one(name: str, seed: int) -> Cell | Control | None:
        if name in defences:
            return bench.cell(defences[name], seed)
        return bench.control(name, *known[name]) if seed == 0 else None  # packed ones have no seed

    each = shared(request, [*defences, *known], one)
    cells = {name: [cell for cell in each[name] if isinstance(cell, Cell)] for name in defences}
    found = [Broken(name, defences[name].flags, tuple(mine)) for name, mine in cells.items()]
    controls = [made for name in known if isinstance(made := each[name][0], Control)]
    table = compact(found, missing, controls)
    write(request.out / "zoo.md", table.encode())
    request.say(table)
    return conclude(
        request, name="adaptive", paper=PAPER, claim=CLAIM,
        settings=_settings(part, _codes(found, controls)),
        rows=rows(found, missing, controls), judged=judge(found, missing, controls),
        picture=picture(found, missing),
    )  # fmt: skip


def built(
    zoo: Mapping[str, Defence], request: Request
) -> tuple[dict[str, Defence], dict[str, str]]:
    """The defences that can be imported, and why others cannot."""
    there, missing = {}, {}
    for name in zoo:
        try:
            there[name] = zoo[name]
        except Exception as error:  # whatever the import of a module raises
            missing[name] = f"{type(error).__name__}: {error}"
            request.say(f"{name} is not built: {missing[name]}")
    return there, missing


def _codes(found: Iterable[Broken], controls: Iterable[Control]) -> str:
    every = [cell.debugged.code for one in found for cell in one.cells]
    return ", ".join(sorted({*every, *(control.debugged.code for control in controls)}))


def _settings(part: Part, codes: str) -> dict[str, str]:
    return {
        "images": f"{part.train} to train on, {part.calibration} for thresholds and references, "
        f"{part.tests} attacked at each seed",
        "robust": "answered correctly, and accepted, whatever was tried; of a random defence in "
        "most of 11 draws",
        "base": "same network, same training, without the component; the naive attacks, then APGD, "
        "PGD at every target and Square",
        "formed": "naive at least 20 points above the base",
        "adapt": f"{part.budget} samples per example, {part.budget // _LESS} where every answer is "
        f"an optimisation (weakness), the naive evaluation given; code {codes}",
    }


@dataclass(frozen=True)
class Bench:
    """Measures, and reads back what was measured."""

    request: Request
    part: Part
    materials: Materials

    def cell(self, defence: Defence, seed: int) -> Cell:
        """One defence at one seed. Its networks are trained or read when something is missing."""
        folder = self.request.out / f"{defence.name}-seed{seed}-{code_of(defence)}"
        material = self.materials.of(defence.data, seed)
        one = Subject(self.request, self.part, defence, material, seed, folder)
        tried = self.kept(folder / "attacks.json", Attacked, one.attacked)
        base = self.kept(folder / "base.json", Attacked, one.base)
        adapted = folder / f"adapt-{code()}.json"  # a changed workbench is measured anew
        return Cell(tried, self.kept(adapted, Debugged, lambda: one.debugged(tried)), base)

    def kept(self, path: Path, kind: type[F], make: Callable[[], F]) -> F:
        if not path.exists():
            make().write(path)
        return kind.read(path)

    def control(self, name: str, data: str, threat: str) -> Control | None:
        """A packed network; None, and the reason said, where there is none."""
        if not available(data, self.request):
            return None
        try:
            network = packed(name, self.request.data_dir)
        except FileError as error:
            self.request.say(f"no {name}: {error.given}")
            return None

        def make() -> Debugged:
            self.request.say(f"{name}: adapt")
            test = self.materials.of(data, 0).test
            return debugged(network, test, parse(threat), self.part.budget, 0)

        told = self.kept(self.request.out / f"packed-{name}-{code()}.json", Debugged, make)
        return Control(name=name, threat=threat, debugged=told)


@dataclass(frozen=True)
class Subject:
    """A defence at a seed."""

    request: Request
    part: Part
    defence: Defence
    material: Material
    seed: int
    folder: Path

    def say(self, text: str) -> None:
        self.request.say(f"{self.defence.name}, seed {self.seed}: {text}")

    @cached_property
    def pair(self) -> Pair:
        """The defended predictor and its base."""
        self.say("networks")
        return trained(self.request, self.defence, self.material, self.seed, self.folder)

    def attacked(self) -> Attacked:
        self.say("naive and hand-made attacks")
        return on_defence(self.pair[0], self.defence, self.material, self.seed)

    def base(self) -> Attacked:
        self.say("the undefended base")
        defended, base = self.pair
        return on_base(base, defended, self.defence, self.material, self.seed)

    def debugged(self, before: Attacked) -> Debugged:
        threat, defended = parse(self.defence.threat), self.pair[0]
        naive = self.defence.naive(defended, threat, self.material)
        dear = defended.declared is not None and defended.declared.optimises_at_test_time
        budget = self.part.budget // (_LESS if dear else 1)
        return debugged(
            defended, self.material.test, threat, budget, self.seed, naive,
            self.material.calibration, before, lambda text: self.say(f"adapt: {text}"),
        )  # fmt: skip
