"""What each training method costs: seconds per step beside the passes it makes.

    python benchmarks/training.py [--model small-cnn] [--size 28] [--methods AT AWP ...]

One thread, batches of 128 random images, rounds interleaved, medians. The passes are counted at the
model: rows forward, rows whose gradient came back. Beside them stands what the algorithm as
published needs for a batch (IMPLIED, with its source). `above AT` is how much longer a step took
than AT's, beyond what its passes explain; `above bare`, how much longer than the same passes, at
the price of a bare forward and a bare backward of this network in the same run and mode. Terms with
second derivatives go backward through the backward pass as well, which no count at the model sees:
they are marked. What RAT and LADDER make before an epoch (patterns, images) is no part of a step
and is made before it is timed; HAT's standard network is not counted, MMA's images are all
classified correctly at first.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from time import process_time
from typing import Any

import torch
from tables import facts, markdown, store
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.threats import parse
from torchproof.nn import build
from torchproof.train import Settings
from torchproof.train import method as parsed
from torchproof.train.job import Job, lesson_of, started
from torchproof.train.ladder.method import LADDER
from torchproof.train.rows import order
from torchproof.train.step import take

BATCH, STEPS = 128, 10
PGD = f"steps={STEPS}, length=0.25"
METHODS = {
    "Standard": "Standard", "AT": f"AT({PGD})", "TRADES": f"TRADES({PGD})", "MART": f"MART({PGD})",
    "AWP": f"AWP(AT({PGD}))", "IAT": f"IAT({PGD})", "FAT, tau inf": f"FAT(AT({PGD}), tau={STEPS})",
    "THRM": f"THRM({PGD})", "ALP": f"ALP({PGD})", "SCORE": f"SCORE({PGD})", "FGSM-AT": "FGSMAT",
    "N-FGSM": "NFGSM", "Free AT": "FreeAT(m=1)", "EMA": f"EMA(AT({PGD}))",
    "LabelSmoothing": f"LabelSmoothing(AT({PGD}))", "Sum": f"Sum(AT({PGD}), Standard())",
    "GradAlign": "Sum(FGSMAT(), GradAlign())",
    "Jacobian": "Sum(Standard(), JSIGR(jacobian=0.1, selective=0))",
}  # fmt: skip
METHODS |= {
    "SPAT": f"SPAT({PGD})", "HAT": f"HAT({PGD})", "MMA": f"MMA(steps={STEPS}, bisections=10)",
    "HE": f"HE({PGD})", "RAT": "RAT(steps=1)", "LADDER": "LADDER(images)",
}  # fmt: skip
TWICE = {"GradAlign", "Jacobian"}  # second derivatives
BEGUN = {"RAT", "MMA", "HE", "SPAT"}  # have something to do before the first epoch
COSINE = {"SPAT": 8.0, "HE": 10.0}  # scales of their heads
K = STEPS
IMPLIED: dict[str, tuple[int, int, str]] = {
    "Standard": (1, 1, "the loss"),
    "AT": (K + 1, K + 1, "Madry et al. 2018: K steps, and the loss at x'"),
    "TRADES": (K + 3, K + 2, "Zhang et al. 2019: f(x) for the attack, K steps, the loss "
               "at x and x'"),
    "MART": (K + 2, K + 2, "Wang et al. 2020: K steps, the loss at x and x'"),
    "AWP": (K + 2, K + 2, "Wu et al. 2020: AT, and a step for the weights"),
    "IAT": (K + 2, K + 2, "Lamb et al. 2022: K steps, the loss at mixed x and mixed x'"),
    "FAT, tau inf": (K + 1, K + 1, "Zhang et al. 2020: AT where nothing is friendly"),
    "THRM": (K + 2, K + 2, "Tao et al. 2022: K steps, the loss at x and x'"),
    "ALP": (K + 2, K + 2, "Kannan et al. 2018: K steps, the loss at x and x'"),
    "SCORE": (K + 3, K + 2, "Pang et al. 2022: TRADES with squared errors"),
    "FGSM-AT": (2, 2, "Goodfellow et al. 2015: one step, and the loss at x'"),
    "N-FGSM": (2, 2, "de Jorge et al. 2022: one step, and the loss at x'"),
    "Free AT": (1, 1, "Shafahi et al. 2019: one pass serves both, for each replay"),
    "EMA": (K + 1, K + 1, "Gowal et al. 2020: AT"),
    "LabelSmoothing": (K + 1, K + 1, "Szegedy et al. 2016: AT"),
    "Sum": (K + 2, K + 2, "AT and Standard"),
    "GradAlign": (4, 4, "Andriushchenko and Flammarion 2020: FGSM-AT, and gradients at two "
                  "points"),
    "Jacobian": (1, 2, "Hoffman et al. 2019: the loss, and one projection"),
    "SPAT": (K + 3, K + 2, "Hou et al. 2023: TRADES with another loss"),
    "HAT": (K + 4, K + 3, "Rade and Moosavi-Dezfooli 2022: TRADES, and the helper image"),
    "MMA": (K + 12, K + 2, "Ding et al. 2020: K steps, 10 bisections, the loss at x "
            "and x*"),
    "HE": (K + 1, K + 1, "Pang et al. 2020: AT on another head"),
    "RAT": (1, 1, "Wang et al. 2021 (our reading): the loss at x + v"),
    "LADDER": (2, 2, "Zhou, Tsang and Yin 2022: the loss at x and its decoded image"),
}  # fmt: skip
"""Forward and backward passes per image and batch of the algorithm as published, K steps of its
attack; second derivatives are not counted.
"""


class Watched(nn.Module):
    """The network, counting rows forward and backward, apart for eval and train mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows = {(way, mode): 0 for way in ("forward", "backward") for mode in (True, False)}

    def forward(self, x: Tensor) -> Any:
        mode = self.training
        self.rows["forward", mode] += len(x)
        out = self.model(x)
        if out.requires_grad:
            out.register_hook(lambda grad: self._returned(mode, len(x)))
        return out

    def _returned(self, mode: bool, count: int) -> None:
        self.rows["backward", mode] += count


def prices(model: nn.Module, x: Tensor, y: Tensor) -> dict[tuple[str, bool], float]:
    """Seconds of a bare forward and a bare backward of one batch, in train and in eval mode: the
    gradient is that of the weights in train mode, of the images in eval mode.
    """
    found: dict[tuple[str, bool], float] = {}
    for mode in (True, False):
        model.train(mode)
        began = process_time()
        at = x.clone().requires_grad_(not mode)
        loss = F.cross_entropy(model(at), y)
        middle = process_time()
        model.zero_grad()
        if mode:
            loss.backward()
        else:
            torch.autograd.grad(loss, at)
        found["forward", mode] = middle - began
        found["backward", mode] = process_time() - middle
    return found


def job_of(name: str, model: Watched, x: Tensor, y: Tensor) -> Job:
    """A run that is about to take its first step, nothing counted."""
    how: Any = LADDER(x)
    if name != "LADDER":
        known = {"standard": copy.deepcopy(model.model)} if name == "HAT" else {}
        how = parsed(METHODS[name], parse("linf:0.1"), **known)
    if name == "MMA":
        with torch.no_grad():  # its margin is the smooth one, which only sure answers pass
            [m for m in model.modules() if isinstance(m, nn.Linear)][-1].weight.mul_(1e3)
            y = model.eval()(x).argmax(1)
    settings = Settings.of(epochs=10**4, batch_size=BATCH, lr=1e-3, held_out=0, schedule="constant")
    job = started(model, lesson_of(x, y, how, settings, None, None), None, None)
    if name in BEGUN:
        how.begin(model, job.lesson.train, 0.0)
    model.rows = dict.fromkeys(model.rows, 0)
    return job


def step(job: Job) -> None:
    chosen = order(job.lesson.real, BATCH, 0, job.state.epoch)[0]
    job.learner.model.train()
    take(job.learner, job.lesson, job.state, chosen)
    job.state.total += 1


def clock(call: Callable[[], object]) -> float:
    began = process_time()
    call()
    return process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape = {"channels": given.channels, "size": given.size, "classes": 10}
    torch.manual_seed(0)
    x, y = torch.rand(BATCH, given.channels, given.size, given.size), torch.randint(10, (BATCH,))
    jobs = {}
    for name in given.methods:
        head = {"head": "cosine", "scale": COSINE[name]} if name in COSINE else {}
        jobs[name] = job_of(name, Watched(build(given.model, seed=0, **shape, **head)), x, y)
    bare = build(given.model, seed=0, **shape)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    cost: dict[tuple[str, bool], list[float]] = {}
    for round_ in range(given.rounds + 1):
        for name, job in jobs.items():
            priced, took = prices(bare, x, y), clock(lambda job=job: step(job))
            if round_ > 0:  # the first round warms up
                times[name].append(took)
                for key, value in priced.items():
                    cost.setdefault(key, []).append(value)
    price = {key: statistics.median(values) / BATCH for key, values in cost.items()}
    rows = [row(name, jobs[name], times[name], price, given.rounds + 1) for name in jobs]
    base = next((r["seconds"] for r in rows if r["method"] == "AT"), rows[0]["seconds"])
    first = next((r for r in rows if r["method"] == "AT"), rows[0])
    passes = first["forward"] + first["backward"]
    head = ["method", "forward", "backward", "implied by the paper", "ms per step", "of AT",
            "passes of AT", "above AT, %", "above bare, %", ""]  # fmt: skip
    shown = []
    for r in rows:
        slower, more = r["seconds"] / base, (r["forward"] + r["backward"]) / passes
        r |= {"of_at": slower, "passes_of_at": more, "above_at": slower / more - 1}
        bare_ = 100 * (r["seconds"] / r["implied"] - 1)
        note = "second derivatives" if r["method"] in TWICE else ""
        paper = IMPLIED[r["method"]]
        r |= {"paper_forward": paper[0], "paper_backward": paper[1], "source": paper[2]}
        own = [r["method"], r["forward"], r["backward"], f"{paper[0]}, {paper[1]}",
               1e3 * r["seconds"]]  # fmt: skip
        shown.append([*own, slower, more, 100 * r["above_at"], bare_, note])
    about = (
        f"# Training methods\n\n{given.model}, {given.channels} x {given.size} x {given.size}, "
        f"batches of {BATCH}, {given.rounds} interleaved rounds, medians. Forward and backward: "
        "per image and step; implied by the paper: the same of the algorithm as published, as "
        "listed below. Above AT: longer than AT's step beyond its passes; above bare: longer than "
        "bare passes.\n\n"
    )
    told = "".join(f"- {n}: {IMPLIED[n][2]}.\n" for n in given.methods)
    name = "training" if given.model == "small-cnn" else f"training_{given.model}"
    store(name, {"facts": facts({}, {}), "rows": rows}, about + markdown(head, shown) + "\n" + told)


def row(
    name: str, job: Job, times: list[float], price: dict[tuple[str, bool], float], steps: int
) -> dict[str, Any]:
    model = job.learner.model
    assert isinstance(model, Watched)
    implied = sum(count / steps * price[key] for key, count in model.rows.items())
    ways = {
        way: sum(n for (w, _), n in model.rows.items() if w == way) / steps / BATCH
        for way in ("forward", "backward")
    }
    return {"method": name, **ways, "seconds": statistics.median(times), "implied": implied}


if __name__ == "__main__":
    main()
