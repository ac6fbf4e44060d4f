"""What methods that train on bounds have in common: a radius that grows, and differentiable
bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.core.sites import Input
from torchproof.core.threats import Threat
from torchproof.train.certified.ramp import Ramp
from torchproof.train.certified.traces import statistics, trace_of
from torchproof.train.method import Batch, Method
from torchproof.verify.bounds import IBP, Bound, Pass
from torchproof.verify.inputs import InputSet, rows_of


@dataclass(frozen=True)
class Bounding(Method):
    """A method that asks for bounds over the threat around each image.

    threat: a norm ball on the input, cut with the range of images; ramp: the share of the radius
    that is due; widen: the radius in training, in units of the threat's (4/3 trains at 0.4 for
    0.3). Bounds are computed in the model's precision, also under autocast, for the network in eval
    mode: without dropout, and with the batch-norm statistics of the time of `prepare`. Epoch
    figure: `eps`, the mean radius in input units. Raises InputError for another threat or `widen`;
    ModelError, in the first step, for operations without a rule.
    """

    threat: Threat
    ramp: Ramp = field(default_factory=Ramp)
    widen: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.threat, Threat) or not isinstance(self.threat.site, Input):
            given = f"{self.threat} for {type(self).__name__}"
            raise InputError(given, "a threat on the input with one norm", "write linf:8/255")
        if not isinstance(self.ramp, Ramp) or not 0 < self.widen < math.inf:
            raise InputError(
                f"ramp = {self.ramp!r}, widen = {self.widen!r}",
                "a Ramp and a number > 0",
                "write ramp=Ramp(0.05, 0.3), widen=1.1",
            )

    @property
    def passes(self) -> int:
        """Of bounds: the reference, the centre and the radius."""
        return 3

    def share(self, batch: Batch) -> float:
        """Of the radius, in [0, 1]."""
        return self.ramp(batch.progress)

    def due(self, share: float) -> Threat:
        """The threat with this share (> 0) of the radius."""
        return replace(self.threat, eps=self.threat.eps * self.widen * share)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        trace_of(model, batch.x)
        kept = statistics(model, len(batch.x))
        ready = replace(batch, drawn={**batch.drawn, **kept})
        return ready.with_note(eps=self.threat.eps * self.widen * self.share(batch))

    def bounds(
        self, model: nn.Module, batch: Batch, x: Tensor, threat: Threat, bound: Bound = IBP
    ) -> Pass:
        """Bounds over `threat` around x (B, C, H, W), differentiable in the weights."""
        graph = trace_of(model, x).now(model, batch, stopping=bound.last == "interval")
        with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
            return Pass.of(graph, InputSet.of(x.detach(), threat), bound)


def margins(passed: Pass, y: Tensor) -> Tensor:
    """(B, K - 1) lower bounds of z_y - z_t, t != y in order, merged into the last layers."""
    answer = passed.walk.reference[passed.walk.graph.output]
    return below(passed, rows_of(y, answer.shape[-1]).to(answer))


def below(passed: Pass, rows: Tensor) -> Tensor:
    """(B, S) lower bounds of the rows (B, S, K) of the logits."""
    with torch.autocast(rows.device.type, enabled=False), torch.enable_grad():
        return passed.lower(rows)


def worst_logits(lower: Tensor, y: Tensor) -> Tensor:
    """(B, K) the logits that bounds (B, K - 1) of the margins allow: -lower, and 0 for the label
    (Gowal et al. 2019).
    """
    classes = lower.shape[1] + 1
    others = torch.arange(classes, device=y.device) != y[:, None]
    return lower.new_zeros(len(y), classes).masked_scatter(others, -lower)
