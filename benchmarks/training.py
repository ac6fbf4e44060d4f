"""What each training method costs: seconds per step beside the passes it makes.

    python benchmarks/training.py [--model small-cnn] [--size 28] [--batch 128] [--methods AT ...]

One thread, batches of random images, rounds interleaved, medians of process time; bare passes
are timed before and after each pair of steps, and the median is that of the ratio. The passes are
counted at the model: rows forward, rows whose gradient came back. Beside them stands what the
algorithm as published needs for a batch (IMPLIED, with its source). How much longer a step took:

- `above AT`: than AT's step, beyond what the number of its passes explains. All passes count alike,
  whatever they are for, and what is done once a step is shared by AT's eleven: a step of few
  passes, or of one for weights and images at once, is measured against a price that it cannot
  have.
- `above bare`: than the same passes at the price of a bare one: of train mode for weights, of eval
  mode for images.
- `above its passes`: than the same passes, each at the price of a bare pass of its kind (`passes`),
  and one update of the weights by the run's own optimiser. A step that descends on the weights and
  ascends on the images at once (free AT) is priced so, and so are second derivatives, whose pass
  through the backward pass no count at the model sees (column `double`).

All is measured in the same run on the same network; a timed step comes after one that is not, as
bare passes come one after the other. Reading the batch, the steps and projections of
attacks, random numbers, checks and notes are what no price covers: all of that is overhead. The
order of an epoch, and what RAT and LADDER make before one (patterns, images), is made before a step
is timed; HAT's standard network is not counted, MMA's images are all classified correctly at first.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from time import process_time
from typing import Any

import torch
from passes import UPDATE, Kind, Watched, prices
from tables import facts, markdown, store
from torch import Tensor, nn

from torchproof.core.threats import parse
from torchproof.nn import build
from torchproof.train import Settings
from torchproof.train import method as parsed
from torchproof.train.job import Job, lesson_of, started
from torchproof.train.ladder.method import LADDER
from torchproof.train.optimisers import optimiser
from torchproof.train.rows import order
from torchproof.train.step import take

STEPS = 10
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
# free AT asks for both gradients at once; the Jacobian's are of a projection of the logits
WATCHED: dict[str, tuple[Any, ...]] = {"Free AT": ("both",), "Jacobian": ("images", True)}
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
    job = started(model, lesson_of(x, y, how, settings(len(x)), None, None), None, None)
    if name in BEGUN:
        how.begin(model, job.lesson.train, 0.0)
    model.rows.clear()
    return job


def settings(batch: int) -> Settings:
    return Settings.of(epochs=10**4, batch_size=batch, lr=1e-3, held_out=0, schedule="constant")


def step(job: Job, chosen: Tensor) -> None:
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
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    shape = {"channels": given.channels, "size": given.size, "classes": 10}
    torch.manual_seed(0)
    batch = given.batch
    x, y = torch.rand(batch, given.channels, given.size, given.size), torch.randint(10, (batch,))
    jobs = {}
    for name in given.methods:
        head = {"head": "cosine", "scale": COSINE[name]} if name in COSINE else {}
        network = build(given.model, seed=0, **shape, **head)
        jobs[name] = job_of(name, Watched(network, *WATCHED.get(name, ())), x, y)
    bare = Watched(build(given.model, seed=0, **shape))
    updates = optimiser(bare.parameters(), settings(batch))
    times: dict[str, list[float]] = {name: [] for name in jobs}
    costs: dict[str, list[dict[Kind, float]]] = {name: [] for name in jobs}
    for round_ in range(given.rounds + 1):
        for name, job in jobs.items():
            chosen = order(job.lesson.real, batch, 0, job.state.epoch)[0]
            before = list(prices(bare, x, y, updates))
            step(job, chosen)  # a step of a run comes after one of its own
            took = clock(lambda j=job, c=chosen: step(j, c))
            if round_ > 0:  # the first round warms up
                times[name].append(took)
                costs[name].append(mean(before, list(prices(bare, x, y, updates))))
    images = 2 * (given.rounds + 1) * batch
    rows = [row(name, jobs[name], times[name], costs[name], images) for name in jobs]
    every_cost = [cost for of_method in costs.values() for cost in of_method]
    price = {kind: statistics.median(cost[kind] for cost in every_cost) for kind in every_cost[0]}
    base = next((r["seconds"] for r in rows if r["method"] == "AT"), rows[0]["seconds"])
    first = next((r for r in rows if r["method"] == "AT"), rows[0])
    passes = first["forward"] + first["backward"]
    head = ["method", "forward", "backward", "double", "implied by the paper", "ms per step",
            "of AT", "passes of AT", "above AT, %", "above bare, %",
            "above its passes, %"]  # fmt: skip
    shown = []
    for r in rows:
        slower, more = r["seconds"] / base, (r["forward"] + r["backward"]) / passes
        r |= {"of_at": slower, "passes_of_at": more, "above_at": slower / more - 1}
        above = [100 * r[name] for name in ("above_bare", "above_passes")]
        paper = IMPLIED[r["method"]]
        r |= {"paper_forward": paper[0], "paper_backward": paper[1], "source": paper[2]}
        own = [r["method"], r["forward"], r["backward"], r["double"], f"{paper[0]}, {paper[1]}",
               1e3 * r["seconds"]]  # fmt: skip
        shown.append([*own, slower, more, 100 * r["above_at"], *above])
    about = (
        f"# Training methods\n\n{given.model}, {given.channels} x {given.size} x {given.size}, "
        f"batches of {batch}, {given.rounds} interleaved rounds, medians; a step beside the bare "
        "passes before and after it. Forward and backward: "
        "per image and step; implied by the paper: the same of the algorithm as published, as "
        "listed below. Double: passes through a backward pass (second derivatives). Above AT: "
        "longer than AT's step beyond the number of passes; above bare: longer than bare passes, "
        "of train mode for weights, of eval mode for images; above its passes: longer than a bare "
        "pass of each kind and one update of the weights.\n\n"
    )
    every = sorted((1e3 * seconds, " ".join(told_of(kind))) for kind, seconds in price.items())
    bare_ = markdown(["bare, of a batch", "ms"], [[kind, ms] for ms, kind in every])
    told = "".join(f"- {n}: {IMPLIED[n][2]}.\n" for n in given.methods)
    name = "training" if given.model == "small-cnn" else f"training_{given.model}"
    text = about + markdown(head, shown) + "\n" + bare_ + "\n" + told
    store(name, {"facts": facts({}, {}), "rows": rows}, text)


def told_of(kind: Kind) -> list[str]:
    way, mode, of = kind
    return [way] if kind == UPDATE else [way, "in train mode:" if mode else "in eval mode:", of]


def mean(before: list[tuple[Kind, float]], after: list[tuple[Kind, float]]) -> dict[Kind, float]:
    """Of each kind, which may come more than once."""
    kinds = {kind for kind, _ in before}
    return {k: statistics.fmean(s for kind, s in before + after if kind == k) for k in kinds}


def row(
    name: str, job: Job, times: list[float], costs: list[dict[Kind, float]], images: int
) -> dict[str, Any]:
    """above_passes: than bare passes of the same kinds, and an update; above_bare: than bare
    passes, all of train mode for weights, of eval mode for images. Each the median of the rounds.
    """
    model = job.learner.model
    assert isinstance(model, Watched)
    rows = {kind: n / images for kind, n in model.rows.items() if kind[0] != "through"}
    found: dict[str, Any] = {"method": name, "forward": 0.0, "backward": 0.0}
    usual: Counter[Kind] = Counter()
    for way, mode in ((way, mode) for way in ("forward", "backward") for mode in (True, False)):
        seen = model.seen(way, mode) / images
        of = "graph" if way == "forward" else "weights" if mode else "images"
        found[way] += seen
        usual[way, mode, of] += seen
    above = {
        "above_bare": [t / total(usual, cost) for t, cost in zip(times, costs, strict=True)],
        "above_passes": [
            t / (cost[UPDATE] + total(rows, cost)) for t, cost in zip(times, costs, strict=True)
        ],
    }
    double = sum(n for kind, n in rows.items() if kind[2].startswith("double"))
    kinds = {" ".join(told_of(kind)): n for kind, n in sorted(rows.items())}
    shown = {name: statistics.median(ratios) - 1 for name, ratios in above.items()}
    return {**found, "double": double, "seconds": statistics.median(times), "kinds": kinds, **shown}


def total(rows: Mapping[Kind, float], cost: dict[Kind, float]) -> float:
    return sum(n * cost[kind] for kind, n in rows.items())


if __name__ == "__main__":
    main()
