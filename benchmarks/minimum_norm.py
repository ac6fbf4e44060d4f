"""Minimum-norm attacks side by side with the peers: how near, how often, at what cost.

    python benchmarks/minimum_norm.py --autoattack PATH

Every library gets the same correctly classified images in one batch, on one thread, and the same
number of steps; repeats are interleaved, each with a seed of its own, and medians are shown. Every
returned point is judged here: in the box and misclassified, its length measured in float64.
Evaluations are counted outside the libraries (counting.py).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from contenders import OURS, Contender, Field, Task
from counting import Counted
from minimum_contenders import SETTINGS, distances, minimum_contenders, valid
from subjects import Subject, subject
from tables import facts, markdown, store
from torch import Tensor

from torchproof.core.norms import name_of

# The radii play no part, but name the norm.
NETWORKS = (
    "cnn_a_adv:l2:0.25 cnn_a_adv:linf:2/255 kw_small_l2_36:l2:36/255 kw_small_l2_36:linf:1/255"
)


@dataclass(frozen=True)
class Measured:
    """One run of one library. lengths: of the points it returned, inf where they are not valid and
    misclassified; forward, backward: samples; honest: what it says of its own counts and verdicts,
    if anything, is what was found here.
    """

    seed: int
    lengths: list[float]
    forward: int
    backward: int
    honest: bool
    seconds: float

    @property
    def found(self) -> int:
        return sum(math.isfinite(length) for length in self.lengths)

    @property
    def median_length(self) -> float:
        return float(median(self.lengths))


def measure(contender: Contender, on: Subject, seed: int) -> Measured:
    """Runs it once, counting and judging."""
    model = Counted(on.model, on.x, math.inf)
    began = process_time()
    answer = contender(Task(model, on.x, on.y, math.inf, seed, len(on.x)))
    seconds = process_time() - began - model.bookkeeping
    points = answer.points.detach()
    with torch.no_grad():
        lost = (on.model(points).argmax(1) != on.y) & valid(points)
    far = torch.where(lost, distances(name_of(on.threat.norm), on.x, points), torch.inf)
    spent = torch.stack([model.forward_rows, model.backward_rows], 1).sum(0)
    return Measured(
        seed=seed,
        lengths=far.tolist(),
        forward=int(spent[0]),
        backward=int(spent[1]),
        honest=_same(answer.spent, spent)
        and (answer.lost is None or torch.equal(answer.lost, lost)),
        seconds=seconds,
    )


def _same(said: Tensor | None, found: Tensor) -> bool:
    return said is None or torch.equal(said.sum(0), found)


def compared(
    field: Field, attack: str, on: Subject, seeds: Sequence[int]
) -> dict[str, list[Measured]]:
    """Every library that has the attack, once per seed, interleaved; each round starts with
    another.
    """
    runs = list(field.offering(attack).items())
    out: dict[str, list[Measured]] = {name: [] for name, _ in runs}
    for turn, seed in enumerate(seeds):
        for name, contender in runs[turn % len(runs) :] + runs[: turn % len(runs)]:
            out[name].append(measure(contender, on, seed))
    return out


def correct_ones(text: str, n: int) -> Subject:
    """The network with the first n test images that it classifies correctly."""
    on = subject(text, 3 * n)
    rows = on.correct().nonzero()[:n, 0]
    return Subject(on.name, on.threat, on.model, on.x[rows], on.y[rows])


def one(field: Field, on: Subject, seeds: Sequence[int]) -> dict[str, Any]:
    """The record of one network: every attack, every library."""
    found = {attack: compared(field, attack, on, seeds) for attack in field.attacks[OURS]}
    every = [
        run.lengths for libraries in found.values() for runs in libraries.values() for run in runs
    ]
    best = [min(lengths) for lengths in zip(*every, strict=True)]
    rows = [
        {"attack": attack, "library": name, **_medians(runs, best),
         "runs": [_plain(run) for run in runs]}
        for attack, libraries in found.items()
        for name, runs in libraries.items()
    ]  # fmt: skip
    about = {"network": on.name, "norm": name_of(on.threat.norm), "n": len(on.y)}
    return about | {"best": best, "rows": rows}


def _plain(run: Measured) -> dict[str, Any]:
    """As JSON has it: null for no length."""
    short = [float(f"{far:.6g}") if math.isfinite(far) else None for far in run.lengths]
    return asdict(run) | {"lengths": short}


def _medians(runs: Sequence[Measured], best: Sequence[float]) -> dict[str, Any]:
    """Over the repeats; `excess`: how much longer than the shortest of all libraries and attacks,
    on average over the examples that it broke.
    """
    shown = ("found", "median_length", "forward", "backward", "seconds")
    out: dict[str, Any] = {key: median(getattr(run, key) for run in runs) for key in shown}
    excess = [
        far / near - 1
        for run in runs
        for far, near in zip(run.lengths, best, strict=True)
        if math.isfinite(far)
    ]
    out["excess"] = sum(excess) / len(excess) if excess else None
    out["median_length"] = out["median_length"] if math.isfinite(out["median_length"]) else None
    return out | {"honest": all(run.honest for run in runs)}


def written(records: Sequence[dict[str, Any]], seeds: int) -> str:
    """One table per network."""
    n = records[0]["n"]
    text = f"# Minimum-norm attacks side by side\n\nThe first {n} correctly classified test images "
    text += f"in one batch, medians of {seeds} runs. `broken`: share of images for which a valid "
    text += "misclassified point came back; `median`: length of the median image's; `excess`: how "
    text += "much longer its points are, on average, than the shortest that any run found for the "
    text += "same image. Counts are samples per image.\n\n"
    text += "".join(f"- {name}: {said}\n" for name, said in SETTINGS.items())
    head = ["attack", "library", "broken", "median", "excess", "forward", "backward", "CPU s"]
    for record in records:
        text += f"\n## {record['network']}, {record['norm']}\n\n"
        count = record["n"]
        text += markdown(head, [
            [row["attack"], row["library"], f"{row['found'] / count:.0%}",
             _text(row["median_length"], ".4g"), _text(row["excess"], ".1%"),
             float(row["forward"] / count), float(row["backward"] / count), float(row["seconds"])]
            for row in record["rows"]
        ])  # fmt: skip
    return text


def _text(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def main() -> int:
    """0 when ours says of itself what was found, 1 otherwise."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--networks", nargs="+", default=NETWORKS.split(), metavar="NAME:THREAT")
    ask.add_argument("--n", type=int, default=50, help="first n correctly classified test images")
    ask.add_argument("--seeds", type=int, default=3, help="repeats, each with its own seed")
    ask.add_argument("--autoattack", type=Path, help="folder that holds the package autoattack")
    ask.add_argument("--out", default="minimum_norm", help="name of the files in results/")
    asked = ask.parse_args()
    torch.set_num_threads(1)
    records = []
    for text in asked.networks:
        on = correct_ones(text, asked.n)
        field = minimum_contenders(name_of(on.threat.norm), asked.autoattack)
        records.append(one(field, on, range(asked.seeds)))
        for row in records[-1]["rows"]:
            print(records[-1]["network"], {k: v for k, v in row.items() if k != "runs"}, flush=True)
    record = {"facts": facts(field.versions, field.missing), "records": records}
    store(asked.out, record, written(records, asked.seeds))
    return 0 if all(row["honest"] for r in records for row in r["rows"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
