"""An adversarial-training epoch: `torchproof.train.fit` beside a hand-written loop that does the
same passes.

    python benchmarks/train_epoch.py [--model small-cnn] [--size 28] [--images 1280] [--rounds 7]

One thread. All train the same network on the same random images with PGD-10 (random start, last
iterate) and SGD with momentum; rounds alternate, and medians are compared. The hand-written loop
draws its random numbers with torch's generator and notes nothing but the loss; `fit` is asked for
no held-out measurement and no checkpoint. MAIR's AT and the attacker of MadryLab's robustness join
where they work; their batches go through the same loop of forward, backward and step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.threats import Threat, parse
from torchproof.nn import build
from torchproof.train import AT, AWP, TRADES, Settings, fit

BATCH, LR, STEPS = 128, 0.01, 10
Epoch = Callable[[Tensor, Tensor], None]


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


def by_hand(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> None:
    """One epoch."""
    optimiser = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4)
    model.train()
    total = 0.0
    for rows in torch.randperm(len(x)).split(BATCH):
        images, labels = x[rows], y[rows]
        loss = F.cross_entropy(model(pgd(model, images, labels, eps)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += float(loss.detach())


def by_fit(model: nn.Module, x: Tensor, y: Tensor, method: AT | AWP | TRADES) -> None:
    """One epoch."""
    settings = Settings.of(
        epochs=1, batch_size=BATCH, lr=LR, held_out=0, momentum=0.9, schedule="constant"
    )
    for _ in fit(model, (x, y), method, settings):
        pass


def peers(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> dict[str, Epoch]:
    """An epoch by each other library that works here, and why not by the others."""
    found: dict[str, Epoch] = {}
    for name, made in (("MAIR", _mair), ("robustness", _robustness)):
        try:
            epoch = made(model, eps)
            epoch(x[:2], y[:2])
            found[name] = epoch
        except Exception as error:  # whatever an import or a first step may raise
            print(f"{name} does not work here: {type(error).__name__}: {error}")
    return found


def _mair(model: nn.Module, eps: float) -> Epoch:
    import mair

    trainer = mair.AT(mair.RobModel(model, 10), eps, eps / 4, STEPS)

    def epoch(x: Tensor, y: Tensor) -> None:
        optimiser = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4)
        model.train()
        for rows in torch.randperm(len(x)).split(BATCH):
            cost = trainer.calculate_cost((x[rows], y[rows]))
            optimiser.zero_grad()
            cost.backward()
            optimiser.step()

    return epoch


def _robustness(model: nn.Module, eps: float) -> Epoch:
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
        for rows in torch.randperm(len(x)).split(BATCH):
            logits, _ = both(x[rows], y[rows], **options)
            loss = F.cross_entropy(logits, y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach())

    return epoch


def seconds(job: object, *given: object) -> float:
    started = time.perf_counter()
    job(*given)  # type: ignore[operator]
    return time.perf_counter() - started


def compare(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, rounds: int) -> None:
    """Prints the medians; the rounds alternate, so that a busy machine slows all alike."""
    start = {name: t.clone() for name, t in model.state_dict().items()}
    jobs: dict[str, Epoch] = {
        "by hand": partial(by_hand, model, eps=threat.eps),
        "fit": partial(by_fit, model, method=AT(threat, steps=STEPS)),
        **peers(model, x[:2], y[:2], threat.eps),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for round_ in range(rounds + 1):
        for name, job in jobs.items():
            model.load_state_dict(start)
            took = seconds(job, x, y)
            if round_ > 0:  # the first round warms up
                times[name].append(took)
    hand = times["by hand"]
    for name, own in times.items():
        paired = statistics.median(a / b for a, b in zip(own, hand, strict=True))
        print(f"{name:11} {statistics.median(own):8.3f} s  (least {min(own):.3f})  "
              f"{statistics.median(own) / statistics.median(hand):.3f} of by hand; "
              f"{paired:.3f} median of rounds")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build(given.model, channels=given.channels, size=given.size, classes=10)
    x = torch.rand(given.images, given.channels, given.size, given.size)
    y = torch.randint(10, (given.images,))
    shape = f"{given.channels}x{given.size}x{given.size}"
    print(f"{given.model}, {shape}, {given.images} images, one thread")
    compare(model, x, y, parse("linf:0.1"), given.rounds)


if __name__ == "__main__":
    main()
