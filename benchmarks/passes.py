"""Passes through a network: how many a step makes, of which kinds, and what one of each costs bare.

A kind says whether it is a forward or a backward pass, in train or in eval mode, and

- of a forward pass: whether a graph is kept for a backward pass ("graph") or not ("none");
- of a backward pass: whose gradient it brings, that of the "weights", of the "images" or of "both";
  "kept" brings that of the images with a graph of its own, for second derivatives, and "double" is
  the backward pass through that graph, into the weights. The cross-entropy's double pass goes
  through the forward pass as well, that of one projection of the logits ("kept z", "double z")
  only through the network's backward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = tuple[str, bool, str]  # forward or backward, train mode?, what for
UPDATE: Kind = ("update", True, "weights")
EVERY: tuple[tuple[bool, str], ...] = (
    (True, "weights"), (True, "images"), (True, "both"), (True, "kept"), (True, "kept z"),
    (False, "weights"), (False, "images"), (False, "none"), (True, "none"),
)  # fmt: skip


class Watched(nn.Module):
    """The network, counting rows by kind of pass; `of` names the gradients of its next passes in
    train mode whose images ask for one: "images", or "both" where a loss is descended and ascended
    at once.
    """

    def __init__(self, model: nn.Module, of: str = "images", linear: bool = False) -> None:
        super().__init__()
        self.model, self.of, self.linear = model, of, linear
        self.rows: Counter[Kind] = Counter()

    def forward(self, x: Tensor) -> Any:
        mode, count = self.training, len(x)
        out = self.model(x)
        self.rows["forward", mode, "graph" if out.requires_grad else "none"] += count
        if out.requires_grad:
            usual = "weights" if not x.requires_grad else self.of if mode else "images"
            kept = [False]
            out.register_hook(lambda _: self._returned(mode, usual, kept, count))
        return out

    def _returned(self, mode: bool, usual: str, kept: list[bool], count: int) -> None:
        if kept[0]:  # the second time: the rest of a double pass
            self.rows["through", mode, "double"] += count
        elif torch.is_grad_enabled():  # a graph of the backward pass is kept
            kept[0], last = True, " z" if self.linear else ""
            self.rows["backward", mode, "kept" + last] += count
            self.rows["backward", mode, "double" + last] += count
        else:
            self.rows["backward", mode, usual] += count

    def seen(self, way: str, mode: bool) -> int:
        """Rows whose answer or whose gradient passed the model's output, whatever for."""
        names = ("backward", "through") if way == "backward" else (way,)
        return sum(
            n
            for (name, train, of), n in self.rows.items()
            if name in names and train == mode and not (name == way and of.startswith("double"))
        )


def prices(
    model: nn.Module, x: Tensor, y: Tensor, optimiser: torch.optim.Optimizer
) -> Iterator[tuple[Kind, float]]:
    """Seconds of process time of one bare pass of each kind over the batch, and of an update of the
    weights.
    """
    for mode, of in EVERY:
        model.train(mode)
        yield from _priced(model, x, y, mode, of)
        optimiser.zero_grad()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()  # makes its buffers, which is no part of a later step
    began = process_time()
    optimiser.step()
    optimiser.zero_grad()
    yield UPDATE, process_time() - began


def _priced(
    model: nn.Module, x: Tensor, y: Tensor, mode: bool, of: str
) -> Iterator[tuple[Kind, float]]:
    at = x.clone().requires_grad_(of not in ("weights", "none"))
    began = process_time()
    with torch.set_grad_enabled(of != "none"):
        z = model(at)
        loss = z[:, 0].sum() if of == "kept z" else F.cross_entropy(z, y)
    yield ("forward", mode, "none" if of == "none" else "graph"), process_time() - began
    if of == "none":
        return
    began = process_time()
    if of in ("weights", "both"):
        loss.backward()
    else:
        grad = torch.autograd.grad(loss, at, create_graph=of.startswith("kept"))[0]
    yield ("backward", mode, of), process_time() - began
    if of.startswith("kept"):
        began = process_time()
        grad.square().sum().backward()
        yield ("backward", mode, of.replace("kept", "double")), process_time() - began
