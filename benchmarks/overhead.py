"""What an attack costs beside the model: CPU microseconds per sample and step above the bare
forward and backward passes.

    python benchmarks/overhead.py --autoattack PATH

The model is linear, 3 x 32 x 32 to 10 classes, with margins of about three radii, so that no
example is ever broken and every library does all its steps. Rounds are interleaved; medians are
shown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from contenders import OURS, Contender, Task, contenders
from counting import Counted, broken
from tables import facts, markdown, store
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 8 / 255
STEPS = {"PGD": 50, "APGD-CE": 100, "FAB": 20, "Square": 200}
# Calls per timing and batch size, so that each timing takes long enough to be read.
CALLS = {"PGD": 128, "APGD-CE": 48, "FAB": 24, "Square": 48}


class Linear(nn.Module):
    """Logits W x + b; class 0 leads by about three times what a perturbation of EPS can take."""

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.randn(10, 3072, generator=torch.Generator().manual_seed(0)) * 1e-3
        self.weight, self.bias = nn.Parameter(drawn), nn.Parameter(torch.zeros(10))
        lead = (drawn - drawn[:1]).abs().sum(1).amax() * 3 * EPS
        with torch.no_grad():
            self.bias.sub_(drawn.sum(1) / 2)  # an image of mean 0.5 has logits near zero
            self.bias[0] += lead

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight, self.bias)


def images(n: int) -> tuple[Tensor, Tensor]:
    """x (n, 3, 32, 32) uniform in [0, 1], y (n,) all zero."""
    x = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return x, torch.zeros(n, dtype=torch.int64)


def clock(call: Callable[[], object], times: int) -> float:
    """CPU seconds per call."""
    began = process_time()
    for _ in range(times):
        call()
    return (process_time() - began) / times


def bare(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A forward pass, and a forward with the gradient of the cross-entropy, nothing else."""

    @torch.no_grad()
    def forward() -> Tensor:
        out: Tensor = model(x)
        return out

    def both() -> Tensor:
        leaf = x.detach().requires_grad_()
        loss = F.cross_entropy(model(leaf), y, reduction="sum")
        return torch.autograd.grad(loss, leaf)[0]

    return forward, both


def passes(contender: Contender, model: nn.Module, x: Tensor, y: Tensor) -> tuple[int, int]:
    """Forward and backward samples of one call; raises AssertionError if an example was broken."""
    counted = Counted(model, x, EPS)
    answer = contender(Task(counted, x, y, EPS, 0, len(x)))
    lost, _ = broken(model, x, y, EPS, answer.points)
    assert not lost.any(), "the linear model was broken: the steps cannot be counted"
    return int(counted.forward_rows.sum()), int(counted.backward_rows.sum())


def at(batch: int, field: dict[str, dict[str, Contender]], rounds: int) -> list[dict[str, Any]]:
    """One row per attack and library at this batch size."""
    model, (x, y) = Linear(), images(batch)
    model.eval()
    runs = [(a, lib, run) for a in STEPS for lib, run in field[a].items()]
    spent = {(a, lib): passes(run, model, x, y) for a, lib, run in runs}
    forward, both = bare(model, x, y)
    took: dict[Any, list[float]] = {(a, lib): [] for a, lib, _ in runs}
    took |= {"forward": [], "both": []}
    for turn in range(rounds):
        for a, lib, run in runs[turn % len(runs) :] + runs[: turn % len(runs)]:
            task = Task(model, x, y, EPS, 0, batch)
            seconds = clock(lambda r=run, t=task: r(t), max(CALLS[a] // (batch * 8), 1))  # type: ignore[misc]
            took[a, lib].append(seconds)
        took["forward"].append(clock(forward, 100))
        took["both"].append(clock(both, 100))
    out = []
    for a, lib, _ in runs:
        row = _row(a, spent[a, lib], batch, took[a, lib], took["forward"], took["both"])
        out.append({"attack": a, "batch": batch, "library": lib} | row)
    return out


def _row(
    attack: str,
    spent: tuple[int, int],
    batch: int,
    took: Sequence[float],
    forward: Sequence[float],
    both: Sequence[float],
) -> dict[str, Any]:
    """Microseconds per sample-step: all, bare, and the difference, with its spread over rounds."""
    pairs, singles = spent[1] / batch, (spent[0] - spent[1]) / batch
    unit = 1e6 / (batch * STEPS[attack])
    beyond = [
        (t - pairs * b - singles * f) * unit
        for t, f, b in zip(took, forward, both, strict=True)
    ]  # fmt: skip
    bare_us = (pairs * median(both) + singles * median(forward)) * unit
    quarters = sorted(beyond)
    return {
        "forward": spent[0],
        "backward": spent[1],
        "total_us": median(took) * unit,
        "bare_us": bare_us,
        "above_us": median(took) * unit - bare_us,
        "above_low": quarters[len(quarters) // 4],
        "above_high": quarters[-1 - len(quarters) // 4],
    }


def judged(rows: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Ours beside the lowest peer, per attack and batch size."""
    out = []
    for attack in STEPS:
        for batch in sorted({r["batch"] for r in rows}, reverse=True):
            here = {r["library"]: r for r in rows if (r["attack"], r["batch"]) == (attack, batch)}
            ours, peers = here.pop(OURS), here
            if peers:
                best = min(peers, key=lambda name: peers[name]["above_us"])
                us = [ours["above_us"], peers[best]["above_us"]]
                out.append([attack, batch, *us, best, us[0] / us[1], us[0] <= us[1]])
    return out


def written(rows: Sequence[dict[str, Any]], verdicts: Sequence[Sequence[Any]], rounds: int) -> str:
    """Both tables."""
    text = "# Overhead per sample-step\n\nCPU microseconds per sample and step above the bare "
    text += f"passes, {rounds} interleaved rounds, medians (quartiles). Linear model, 3 x 32 x 32, "
    text += "never broken; all = with the passes; forward and backward per sample and step.\n\n"
    cells = []
    for r in rows:
        per = r["batch"] * STEPS[r["attack"]]
        span = f"{r['above_low']:.3g} to {r['above_high']:.3g}"
        row = [r["attack"], r["batch"], r["library"], r["forward"] / per, r["backward"] / per]
        cells.append([*row, r["total_us"], r["above_us"], span])
    head = ["attack", "batch", "library", "forward", "backward", "all us", "above us", "quartiles"]
    text += markdown(head, cells)
    head = ["attack", "batch", "ours us", "lowest peer us", "which", "ratio", "ok"]
    return text + "\nOurs beside the lowest peer.\n\n" + markdown(head, verdicts)


def main() -> int:
    """0 when ours is at most the lowest peer everywhere, 1 otherwise."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--batches", nargs="+", type=int, default=[128, 16, 1])
    ask.add_argument("--rounds", type=int, default=7)
    ask.add_argument("--autoattack", type=Path, help="folder that holds the package autoattack")
    ask.add_argument("--out", default="overhead", help="name of the files in results/")
    asked = ask.parse_args()
    torch.set_num_threads(1)
    found = contenders(
        asked.autoattack, pgd=STEPS["PGD"], apgd=STEPS["APGD-CE"], fab=STEPS["FAB"],
        square=STEPS["Square"],
    )  # fmt: skip
    field = {attack: found.offering(attack) for attack in STEPS}
    rows = [row for batch in asked.batches for row in at(batch, field, asked.rounds)]
    verdicts = judged(rows)
    record = {"facts": facts(found.versions, found.missing), "rows": rows}
    record["verdicts"] = [
        dict(zip(("attack", "batch", "ours_us", "peer_us", "peer", "ratio", "ok"), v, strict=True))
        for v in verdicts
    ]
    store(asked.out, record, written(rows, verdicts, asked.rounds))
    return 0 if verdicts and all(v[-1] for v in verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
