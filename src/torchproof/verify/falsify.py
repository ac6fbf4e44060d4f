"""A short search for an input that a question asks about: signed gradients from a few starts.

What it finds is an answer, checked by the network itself; that it finds nothing says nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.verify.clock import look
from torchproof.verify.graph import Graph
from torchproof.verify.question import Question

STARTS, STEPS = 16, 40
CLEAR = 1e-4  # of the answer's size: an input nearer the edge may not do in another arithmetic


def falsify(
    graph: Graph, question: Question, seed: int = 0, starts: int = STARTS, steps: int = STEPS
) -> Tensor | None:
    """An x of the box whose answer is within the limits, or None. Raises OutOfTime within a limit
    that is over.
    """
    place = keys.uniform(torch.arange(starts) + seed * starts, 0, tuple(question.low.shape))
    place = place.to(question.low)
    place[0] = 0.5
    low, high = question.low[None], question.high[None]
    rows, limits = (t.expand(starts, *t.shape) for t in (question.rows, question.limits))
    found = descended(graph, low + place * (high - low), rows, limits, low, high, steps)
    return None if found is None else found[0]


def descended(
    graph: Graph, x: Tensor, rows: Tensor, limits: Tensor, low: Tensor, high: Tensor,
    steps: int = STEPS,
) -> Tensor | None:  # fmt: skip
    """From x (N, ...), each with a question of its own, rows (N, M, K) @ y <= limits (N, M): an x
    (1, ...) of the box whose answer is within its limits, or None. The gap that is worst is closed
    by steps that shrink from a quarter of the box, until an answer is clear of its limits; else the
    one that is farthest within them counts.
    """
    found, best = None, 0.0
    for step in range(steps + 1):
        look()
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = graph.run(x)[graph.output].flatten(1)
            gap = ((rows @ y[:, :, None])[..., 0] - limits).amax(1)
            (slope,) = torch.autograd.grad(gap.sum(), x)
        least, at = (t.item() for t in gap.detach().min(0))
        if least <= 0 and (found is None or least < best):
            found, best = x.detach()[int(at) : int(at) + 1].clone(), least
            if least <= -CLEAR * (1 + float(y.detach()[int(at)].abs().max())):
                break
        length = 0.25 * (1 - step / steps) + 0.001
        x = x.detach() - length * (high - low) * slope.sign()
        x = torch.minimum(torch.maximum(x, low), high)
    return found
