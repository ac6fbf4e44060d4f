"""Where `thorough` may give a run up: traces of full runs on networks that no comparison uses.

    python benchmarks/levels.py [--networks NAME:THREAT ...] [--n 100]

On what a short margin attack leaves standing, ten targeted steps at each of nine classes and Square
with 5,000 queries are run to their end, and the best margin is noted at each mark, in units of the
clean margin. The tables say, for each choice of levels, which wins it would have lost, and how long
a run without a win would have been. The full-length runs tell how near the margin of an example was
that only they break, which is what `Nearest` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from subjects import Subject, subject
from tables import facts, markdown, store
from torch import Tensor

from torchproof.attack.apgd import APGD
from torchproof.attack.around import Around
from torchproof.attack.cases import Point
from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.attack.square import Square
from torchproof.attack.starts import Uniform, Zero
from torchproof.core import keys
from torchproof.core.objectives import CrossEntropy, Margin, TargetedMargin, margin
from torchproof.core.schedules import Cosine
from torchproof.core.sets import Set

NETWORKS = [
    "mnist_madry_tiny:linf:0.3", "mnist_lenet_adv:linf:0.3", "mnist_cnn_a_adv:linf:0.3",
    "mnist_colt_0.1:linf:0.2", "eran_convsmall_pgd:linf:2/255", "cnn_a_mix:linf:2/255",
    "sri_resnet_a_adv:linf:4/255", "fmnist_kw_small:linf:0.1", "svhn_kw_small:linf:0.01",
]  # fmt: skip
SEED = 7
MARKS = {"targeted": [2, 3, 5, 7, 10], "square": [50, 100, 200, 400, 800, 1600, 3200]}
CHOICES = {
    "targeted": [
        {3: 1.0, 6: 0.6}, {2: 2.0, 3: 1.5, 5: 1.0, 7: 0.7}, {2: 2.5, 3: 2.0, 5: 1.2, 7: 0.8},
        {3: 2.0},
    ],
    "square": [
        {100: 0.5, 200: 0.35, 400: 0.2, 800: 0.12, 1600: 0.06},
        {100: 0.6, 200: 0.4, 400: 0.25, 800: 0.15, 1600: 0.08},
        {100: 0.6, 400: 0.3, 1600: 0.1},
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Traced:
    """best: the largest value so far; trace: (P, M) what it was at each mark."""

    inner: Any
    t: Tensor
    best: Tensor
    trace: Tensor

    @property
    def delta(self) -> Any:
        """Where to ask next."""
        return self.inner.delta


@dataclass(frozen=True)
class Tracing(Around):
    """`search`, noting the best value at each mark into `book`: job key -> (steps, won, trace)."""

    marks: tuple[int, ...]
    watch: str
    book: dict[int, tuple[int, bool, list[float]]]

    def init(self, set: Set, key: Tensor) -> Traced:
        low = torch.full((len(key), 1 + len(self.marks)), -torch.inf)
        inner = self.search.init(set, key)
        return Traced(inner, torch.zeros_like(key), low[:, 0].clone(), low[:, 1:].clone())

    def step(self, set: Set, key: Tensor, state: Traced, point: Point) -> Traced:
        best, t = torch.maximum(state.best, getattr(point, self.watch)), state.t + 1
        at = t[:, None] == torch.tensor(self.marks)
        trace = torch.where(at, best[:, None], state.trace)
        for row in ((t >= self.steps) | point.won).nonzero()[:, 0].tolist():
            self.book[int(key[row])] = (int(t[row]), bool(point.won[row]), trace[row].tolist())
        return Traced(self.search.step(set, key, state.inner, point), t, best, trace)


@dataclass(frozen=True)
class Trace:
    """One run: how many answers it took, whether it won, the best value at each mark."""

    example: int
    steps: int
    won: bool
    values: dict[int, float]

    def stopped(self, levels: dict[int, float]) -> int:
        """After how many answers these levels would have ended it."""
        for mark, level in levels.items():
            if mark < self.steps and -self.values.get(mark, 0.0) > level:
                return mark
        return self.steps


def traces(
    attack: Attack, watch: str, marks: list[int], on: Subject, rows: Tensor, target: Tensor | None
) -> list[Trace]:
    """One trace for each row, values in units of the clean margin."""
    book: dict[int, tuple[int, bool, list[float]]] = {}
    traced = replace(attack, search=Tracing(attack.search, tuple(marks), watch, book))
    traced(on.model, on.x[rows], on.y[rows], target=target, run=Run(seed=SEED, ids=rows))
    clean = -margin(on.model(on.x[rows]).detach(), on.y[rows])
    aim = torch.full_like(rows, -1) if target is None else target
    found = keys.mix(SEED, rows, aim, torch.zeros_like(rows)).tolist()
    out = []
    for row, key, size in zip(rows.tolist(), found, clean.tolist(), strict=True):
        if key in book:  # a job that won at the very end was judged without a step
            steps, won, values = book[key]
            out.append(
                Trace(row, steps, won, dict(zip(marks, [v / size for v in values], strict=True)))
            )
    return out


def study(on: Subject) -> dict[str, Any]:
    """All traces of one network, and the examples that only long runs break."""
    rows = on.correct().nonzero()[:, 0]
    first = Attack(on.threat, Margin(), PGD(8, 1.0, Uniform(), Cosine()))
    found = first(on.model, on.x[rows], on.y[rows], run=Run(seed=SEED, ids=rows))
    best = dict(zip(rows.tolist(), found.score.tolist(), strict=True))
    rows = rows[~found.lost]
    z = on.model(on.x[rows]).detach()
    clean = dict(zip(rows.tolist(), (-margin(z, on.y[rows])).tolist(), strict=True))
    ranks = z.scatter(1, on.y[rows, None], -torch.inf).topk(9, dim=1).indices
    short = Attack(on.threat, TargetedMargin(), APGD(10, Zero()))
    targeted, lost = [], torch.zeros(len(rows), dtype=torch.bool)
    for k in range(9):
        targeted += traces(short, "loss", MARKS["targeted"], on, rows, ranks[:, k])
        again = short(on.model, on.x[rows], on.y[rows], target=ranks[:, k],
                      run=Run(seed=SEED, ids=rows))  # fmt: skip
        lost |= again.lost
        for row, score in zip(rows.tolist(), again.score.tolist(), strict=True):
            best[row] = max(best[row], score)
    rows, ranks = rows[~lost], ranks[~lost]
    square = traces(
        Attack(on.threat, Margin(), Square(5000)), "loss", MARKS["square"], on, rows, None
    )
    late = {row: ["Square"] for row in (t.example for t in square if t.won)}
    for name, attack, target in _long(on, ranks):
        again = attack(on.model, on.x[rows], on.y[rows], target=target,
                       run=Run(seed=SEED, ids=rows))  # fmt: skip
        for row in rows[again.lost].tolist():
            late.setdefault(row, []).append(name)
    near = {row: -best[row] / clean[row] for row in late}
    return {"network": on.label, "left": len(rows), "targeted": targeted, "square": square,
            "late": late, "near": near}  # fmt: skip


def _long(on: Subject, ranks: Tensor) -> list[tuple[str, Attack, Tensor | None]]:
    full = Attack(on.threat, TargetedMargin(), APGD(100))
    runs: list[tuple[str, Attack, Tensor | None]] = [
        (f"T{k + 1}", full, ranks[:, k]) for k in range(9)
    ]
    return [("CE", Attack(on.threat, CrossEntropy(), APGD(100)), None), *runs]


def written(studies: Sequence[dict[str, Any]]) -> str:
    """The tables."""
    text = "# Where runs may be given up\n\nMargins in units of the clean margin.\n"
    for kind, choices in CHOICES.items():
        text += f"\n## {kind}\n\n"
        runs = [(s["network"], t) for s in studies for t in s[kind]]
        rows = []
        for levels in choices:
            won: dict[Any, list[bool]] = {}
            for network, t in runs:
                if t.won:
                    won.setdefault((network, t.example), []).append(t.stopped(levels) >= t.steps)
            missed = [f"{n} {i}" for (n, i), kept in won.items() if not any(kept)]
            idle = [t.stopped(levels) for _, t in runs if not t.won]
            rows.append(
                [str(levels), len(won), ", ".join(missed) or "-", sum(idle) / max(len(idle), 1)]
            )
        text += markdown(["levels", "examples won", "lost", "mean length without a win"], rows)
    text += "\n## Examples that only long runs break\n\n"
    rows = []
    for s in studies:
        nearest = sorted(s["late"], key=s["near"].get)
        rows += [
            [s["network"], s["left"], i, s["near"][i], ", ".join(s["late"][i])] for i in nearest
        ]
    return text + markdown(["network", "left", "example", "best margin before", "by"], rows)


def main() -> int:
    """Prints and stores the tables."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME:THREAT")
    ask.add_argument("--n", type=int, default=100, help="first n test images")
    asked = ask.parse_args()
    torch.set_num_threads(1)
    studies = []
    for name in asked.networks:
        studies.append(study(subject(name, asked.n)))
        print(name, studies[-1]["left"], studies[-1]["late"], flush=True)
    kept = [{k: s[k] for k in ("network", "left", "late", "near")} for s in studies]
    store("levels", {"facts": facts({}, {}), "records": kept}, written(studies))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
