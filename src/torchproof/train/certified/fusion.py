"""One bound of the loss in the place of one bound per margin: loss fusion (Xu et al. 2020)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torchproof.train.certified.bounding import below, worst_logits
from torchproof.verify import bounds
from torchproof.verify.bounds import Pass
from torchproof.verify.inputs import rows_of

TINY = 1e-37  # so that the logarithm of what rounds to nothing is a number


def fused_loss(passed: Pass, y: Tensor, share: float = 0.0) -> Tensor:
    """(B,) upper bounds of log sum_t exp(z_t - z_y), the cross-entropy, over the inputs of `passed`
    (Xu et al. 2020, sec. 3.3).

    Every exponential lies below its chord between the ends that intervals give z_t - z_y, so that
    one walk back bounds the sum of all chords; the logarithm grows. share: how much of the sum is
    taken from the upper ends themselves; with 1 it is the loss at interval margins. There is no
    order with the loss at margins that are walked back one by one: the sum is walked at once, which
    is tighter, and chords lie above the exponentials, which is not.
    """
    classes = passed.walk.reference[passed.walk.graph.output].shape[-1]
    near = replace(passed, bound=bounds.IBP)
    rows = rows_of(y, classes).to(passed.walk.inside.x)
    high, low = -below(near, rows), below(near, -rows)
    shift = high.amax(1, keepdim=True).clamp_min(0).detach()  # no exponential overflows
    ends, width = (high - shift).exp(), (high - low).clamp_min(torch.finfo(high.dtype).tiny)
    slopes = ends * -torch.expm1(-width) / width
    row = worst_logits(slopes, y).scatter(1, y[:, None], slopes.sum(1, keepdim=True))
    walked = (ends - slopes * high).sum(1) - below(passed, row[:, None])[:, 0]
    total = share * ends.sum(1) + (1 - share) * walked
    least = (low - shift).exp().sum(1)  # what rounding must not go below
    label, shift = (-shift[:, 0]).exp(), shift[:, 0]
    return shift + (label + torch.maximum(total, least)).clamp_min(TINY).log()
