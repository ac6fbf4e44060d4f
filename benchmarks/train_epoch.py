"""An adversarial-training epoch: `torchproof.train.fit` beside a hand-written loop that does the
same passes.

    python benchmarks/train_epoch.py [--networks MODEL:CHANNELSxSIZE:IMAGES ...] [--rounds 7]
                                    [--batch 128]

One thread, process time. All train the same network on the same random images with PGD-10 (random
start, last iterate) and SGD with momentum; loops alternate, each is the first in its turn, and
medians are compared. The hand-written loop draws its random numbers with torch's generator and
notes nothing but the loss; `fit` is asked for no held-out measurement and no checkpoint, and what
a run costs once is in its time, shared by as few steps as IMAGES and `--batch` make. MAIR's AT and
the attacker of MadryLab's robustness join where they work; their batches go through the same loop
of forward, backward and step.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from time import process_time
from typing import NamedTuple

import torch
from tables import facts, markdown, store
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.threats import Threat, parse
from torchproof.nn import build
from torchproof.train import AT, AWP, TRADES, Settings, fit

NETWORKS = ["small-cnn:1x28:1280", "small-cnn:3x32:640", "preact-resnet18:3x32:64"]
LR, STEPS = 0.01, 10
Epoch = Callable[..., None]


class Row(NamedTuple):
    """What an epoch took, in seconds, and that over the hand-written one."""

    network: str
    loop: str
    seconds: float
    least: float
    ratio: float
    ratio_of_rounds: float


def pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Madry's inner loop as one would write it."""
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    adv = torch.min(torch.max(x + torch.empty_like(x).uniform_(-eps, eps), low), high)
    model.eval()
    for _ in range(STEPS):
        adv.requires_grad_(True)
        loss = F.cross_entropy(model(adv), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, adv)
        adv = torch.min(torch.max(adv.detach() + eps / 4 * grad.sign(), low), high)
    model.train()
    return adv.detach()


def by_hand(model: nn.Module, x: Tensor, y: Tensor, eps: float, batch: int) -> None:
    """One epoch."""
    optimiser = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4)
    model.train()
    total = 0.0
    for rows in torch.randperm(len(x)).split(batch):
        images, labels = x[rows], y[rows]
        loss = F.cross_entropy(model(pgd(model, images, labels, eps)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += float(loss.detach())


def by_fit(model: nn.Module, x: Tensor, y: Tensor, method: AT | AWP | TRADES, batch: int) -> None:
    """One epoch."""
    settings = Settings.of(
        epochs=1, batch_size=batch, lr=LR, held_out=0, momentum=0.9, schedule="constant"
    )
    for _ in fit(model, (x, y), method, settings):
        pass


def peers(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, batch: int
) -> tuple[dict[str, Epoch], dict[str, str]]:
    """An epoch by each other library that works here, and why not by the others."""
    found: dict[str, Epoch] = {}
    missing: dict[str, str] = {}
    for name, made in (("MAIR", _mair), ("robustness", _robustness)):
        try:
            epoch = made(model, eps, batch)
            epoch(x[:2], y[:2])
            found[name] = epoch
        except Exception as error:  # whatever an import or a first step may raise
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found, missing


def _mair(model: nn.Module, eps: float, batch: int) -> Epoch:
    import mair

    trainer = mair.AT(mair.RobModel(model, 10), eps, eps / 4, STEPS)

    def epoch(x: Tensor, y: Tensor) -> None:
        optimiser = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4)
        model.train()
        for rows in torch.randperm(len(x)).split(batch):
            cost = trainer.calculate_cost((x[rows], y[rows]))
            optimiser.zero_grad()
            cost.backward()
            optimiser.step()

    return epoch


def _robustness(model: nn.Module, eps: float, batch: int) -> Epoch:
    from types import SimpleNamespace

    from robustness.attacker import AttackerModel

    plain = SimpleNamespace(mean=torch.zeros(1), std=torch.ones(1))
    both = AttackerModel(model, plain)
    options = {"constraint": "inf", "eps": eps, "step_size": eps / 4, "iterations": STEPS,
               "random_start": True, "use_best": False, "make_adv": True}  # fmt: skip

    def epoch(x: Tensor, y: Tensor) -> None:
        optimiser = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4)
        both.train()
        total = 0.0
        for rows in torch.randperm(len(x)).split(batch):
            logits, _ = both(x[rows], y[rows], **options)
            loss = F.cross_entropy(logits, y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach())

    return epoch


def seconds(job: object, *given: object) -> float:
    started = process_time()
    job(*given)  # type: ignore[operator]
    return process_time() - started


def compare(
    network: str, threat: Threat, rounds: int, batch: int
) -> tuple[list[Row], dict[str, str]]:
    """The medians, and which peers are not there; loops alternate within a round and begin it in
    turn, so that a busy machine slows all alike.
    """
    name, shape, images = network.split(":")
    channels, size = (int(n) for n in shape.split("x"))
    torch.manual_seed(0)
    model = build(name, channels=channels, size=size, classes=10)
    x, y = torch.rand(int(images), channels, size, size), torch.randint(10, (int(images),))
    others, missing = peers(model, x[:2], y[:2], threat.eps, batch)
    jobs: dict[str, Epoch] = {
        "by hand": partial(by_hand, eps=threat.eps, batch=batch),
        "fit": partial(by_fit, method=AT(threat, steps=STEPS), batch=batch),
        **{peer: partial(_ignoring_the_model, epoch) for peer, epoch in others.items()},
    }
    start = {key: t.clone() for key, t in model.state_dict().items()}
    times: dict[str, list[float]] = {job: [] for job in jobs}
    order = list(jobs)
    for round_ in range(rounds + 1):
        order = [*order[1:], order[0]]  # what runs behind another finds its memory and its heat
        for job in order:
            model.load_state_dict(start)
            took = seconds(jobs[job], model, x, y)
            if round_ > 0:  # the first round warms up
                times[job].append(took)
    hand = times["by hand"]
    rows = [
        Row(network, job, statistics.median(own), min(own),
            statistics.median(own) / statistics.median(hand),
            statistics.median(a / b for a, b in zip(own, hand, strict=True)))
        for job, own in times.items()
    ]  # fmt: skip
    return rows, missing


def _ignoring_the_model(epoch: Epoch, model: nn.Module, x: Tensor, y: Tensor) -> None:
    epoch(x, y)  # a peer holds the model already


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="MODEL:CxS:IMAGES")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", default="train_epoch")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    missing: dict[str, str] = {}
    for network in given.networks:
        found, absent = compare(network, parse("linf:0.1"), given.rounds, given.batch)
        rows, missing = rows + found, {**missing, **absent}
    head = ["network, shape, images", "loop", "seconds", "least", "of by hand", "of its rounds"]
    text = (
        f"# An adversarial-training epoch\n\nPGD-{STEPS}, linf 0.1, SGD with momentum; process "
        f"time, batches of {given.batch}, medians of {given.rounds} rounds. Of by hand: ratio of "
        "the medians; of its rounds: median of the ratios within a round.\n\n"
        + markdown(head, [list(row) for row in rows])
    )
    about = facts({}, missing)
    store(given.out, {"facts": about, "rows": [row._asdict() for row in rows]}, text)


if __name__ == "__main__":
    main()
