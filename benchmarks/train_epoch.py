"""An adversarial-training epoch: `torchproof.train.fit` beside a hand-written loop that does the
same passes.

    python benchmarks/train_epoch.py [--model small-cnn] [--size 28] [--images 1280] [--rounds 7]

One thread. Both train the same network on the same random images with PGD-10 (eval mode, random
start, last iterate) and SGD with momentum; rounds alternate, and medians are compared. The
hand-written loop draws its random numbers with torch's generator and notes nothing but the loss;
`fit` is asked for no held-out measurement and no checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.threats import Threat, parse
from torchproof.nn import build
from torchproof.train import AT, AWP, TRADES, Settings, fit

BATCH, LR, STEPS = 128, 0.01, 10


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


def seconds(job: object, *given: object) -> float:
    started = time.perf_counter()
    job(*given)  # type: ignore[operator]
    return time.perf_counter() - started


def compare(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, rounds: int) -> None:
    """Prints the medians; the rounds alternate, so that a busy machine slows both alike."""
    start = {name: t.clone() for name, t in model.state_dict().items()}
    method, hand, ours = AT(threat, steps=STEPS), [], []
    for round_ in range(rounds + 1):
        for times, job, last in ((hand, by_hand, threat.eps), (ours, by_fit, method)):
            model.load_state_dict(start)
            took = seconds(job, model, x, y, last)
            if round_ > 0:  # the first round warms up
                times.append(took)
    ratio = statistics.median(ours) / statistics.median(hand)
    paired = statistics.median(a / b for a, b in zip(ours, hand, strict=True))
    print(f"by hand        {statistics.median(hand):8.3f} s  (least {min(hand):.3f})")
    print(f"fit            {statistics.median(ours):8.3f} s  (least {min(ours):.3f})")
    print(f"fit / by hand  {ratio:8.3f}    of medians; {paired:.3f} median of rounds")


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
