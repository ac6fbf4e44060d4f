"""Differentiable abstract interpretation (Mirman, Gehr and Vechev 2018)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from torchproof.core import keys
from torchproof.core.errors import InputError, unknown
from torchproof.core.norms import Linf, name_of
from torchproof.train.certified.ibp import IBP
from torchproof.train.certified.traces import trace_of
from torchproof.train.method import Batch
from torchproof.verify.hybrid import RULES, Sweep
from torchproof.verify.inputs import InputSet, rows_of

CHOSEN = "symbols"


@dataclass(frozen=True)
class DiffAI(IBP):
    """DiffAI: kappa CE(f(x), y) + (1 - kappa) CE(-m, y), m the lower bounds of the margins by
    hybrid zonotopes (Mirman et al. 2018).

    symbols: how many pixels, drawn anew in every step, have a noise symbol that all layers share;
    the others are an interval each. 0 is the box domain, and with it IBP; as many as there are
    pixels is the whole hybrid zonotope. It costs a forward pass per symbol. relu: what a ReLU that
    may change its sign does to the symbols: "box", "diagonal", "switch" and "smooth" of the
    authors, "chord" of DeepZ. kappa: the authors' default, the bounded loss at a tenth of the
    weight of the clean one, is (1, 10/11). Raises InputError for another norm than Linf and
    symbols < 0, UnknownName for `relu`.
    """

    symbols: int = 0
    relu: str = "smooth"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.threat.norm, Linf):
            given = f"a hybrid zonotope in {name_of(self.threat.norm)}"
            raise InputError(given, "linf", "train in other norms with IBP or CROWNIBP")
        if not isinstance(self.symbols, int) or isinstance(self.symbols, bool) or self.symbols < 0:
            given = f"symbols = {self.symbols!r}"
            raise InputError(given, "a whole number >= 0", "0 is the box domain")
        if self.relu not in RULES:
            raise unknown("rule for ReLUs", self.relu, RULES)

    @property
    def passes(self) -> int:
        return super().passes + self.symbols

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        ready = super().prepare(model, batch)
        pixels = batch.x[0].numel() if len(batch.x) else 0
        if not self.symbols:
            return ready
        drawn = keys.uniform(keys.mix(batch.seed, CHOSEN, batch.ids), 0, (pixels,))
        chosen = drawn.argsort(1)[:, : self.symbols].to(batch.x.device)
        return replace(ready, drawn={**ready.drawn, CHOSEN: chosen})

    def lower(self, model: nn.Module, batch: Batch, share: float) -> Tensor:
        graph = trace_of(model, batch.x).now(model, batch, stopping=True)
        chosen = batch.drawn.get(CHOSEN)
        if chosen is None:
            chosen = batch.y.new_zeros(len(batch.y), 0)
        x, threat = self.region(batch, share)
        with torch.autocast(batch.x.device.type, enabled=False), torch.enable_grad():
            swept = Sweep.of(graph, InputSet.of(x.detach(), threat), chosen, self.relu)
            classes = swept.reference[graph.output].shape[-1]
            return swept.lower(rows_of(batch.y, classes).to(x.dtype))
