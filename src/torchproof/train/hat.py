"""Helper-based adversarial training (Rade and Moosavi-Dezfooli 2022)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.untouched import home, precision, untouched
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.train.factor import check_factor
from torchproof.train.folder import digest
from torchproof.train.method import Batch, answers
from torchproof.train.trades import TRADES


@dataclass(frozen=True)
class HAT(TRADES):
    """HAT: TRADES, and gamma times the cross-entropy at helper images x + h (x' - x), beyond x',
    with the answers of a standard network at x' as labels (Rade and Moosavi-Dezfooli 2022).

    standard: a network trained without an attack, on any device, asked in eval mode and left as it
    is; a run is the same run as long as its weights are. helper: h; beta: 2.5 (3.5 with extra
    data); gamma: 0.5; the rest as in TRADES. Helper images may leave [0, 1]. `standard_fooled`
    notes how often the standard network's answer at x' is not the label. Raises InputError without
    a standard network, and for numbers that cannot be meant.
    """

    beta: float = 2.5
    gamma: float = 0.5
    helper: float = 2.0
    standard: nn.Module | None = field(default=None, repr=False)
    weights: str = field(init=False, default="")

    def __post_init__(self) -> None:
        check_factor("gamma", self.gamma, "0.5 is usual")
        check_factor("helper", self.helper, "2 is usual")
        if not self.helper:
            raise InputError("helper = 0", "a number > 0", "2 is usual")
        if not isinstance(self.standard, nn.Module):
            remedy = "train one with the method Standard, and pass it: --teacher RUN, or standard="
            raise InputError("HAT without a standard network", "a torch.nn.Module", remedy)
        object.__setattr__(self, "weights", digest(self.standard.state_dict()))
        super().__post_init__()

    @property
    def passes(self) -> int:
        return 3

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        ready = super().prepare(model, batch)
        assert ready.adv is not None and self.standard is not None
        place = home(self.standard, batch.x.device)
        asked = ready.adv.to(place, precision(self.standard) or ready.adv.dtype)
        with untouched(self.standard, keys.seed_of(batch.seed, "standard"), place), torch.no_grad():
            labels = answers(self.standard, asked).argmax(1).to(batch.x.device)
        spent = (ready.spent[0] + len(batch.x), ready.spent[1])
        ready = replace(ready, drawn={**ready.drawn, "standard": labels}, spent=spent)
        return ready.with_note(standard_fooled=(labels != batch.y).float())

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        beyond = batch.x + self.helper * (batch.adv - batch.x)
        trades = super().losses(model, batch)
        told = F.cross_entropy(answers(model, beyond), batch.drawn["standard"], reduction="none")
        return trades + self.gamma * told
