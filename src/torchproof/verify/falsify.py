"""A short search for an input that a question asks about: signed gradients from a few starts.

What it finds is an answer, checked by the network itself; that it finds nothing says nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.verify.clock import look
from torchproof.verify.graph import Graph
from torchproof.verify.question import Question, nearest

STARTS, STEPS = 16, 40


def falsify(
    graph: Graph, question: Question, seed: int = 0, starts: int = STARTS, steps: int = STEPS
) -> Tensor | None:
    """An x of the box whose answer is within the limits, or None; the gap that is worst is closed
    by steps that shrink from a quarter of the box. Raises OutOfTime within a limit that is over.
    """
    low, high = question.low[None], question.high[None]
    width = high - low
    place = keys.uniform(torch.arange(starts) + seed * starts, 0, tuple(question.low.shape))
    place = place.to(low)
    place[0] = 0.5
    x = low + place * width
    for step in range(steps + 1):
        look()
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = graph.run(x)[graph.output].flatten(1)
            gap = (y @ question.rows.T - question.limits).amax(1)
            (slope,) = torch.autograd.grad(gap.sum(), x)
        found = nearest(question, x.detach(), y.detach())
        if found is not None or step == steps:
            return found
        length = 0.25 * (1 - step / steps) + 0.001
        x = torch.minimum(torch.maximum(x.detach() - length * width * slope.sign(), low), high)
    return None
