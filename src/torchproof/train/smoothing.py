"""Label smoothing around any method that learns from labels (Szegedy et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.train.method import Batch, Method, layers
from torchproof.train.wrapper import Wrapper, require_once


@dataclass(frozen=True)
class LabelSmoothing(Wrapper):
    """Label smoothing: every cross-entropy of the inner method sees (1 - s) y + s / K (Szegedy et
    al. 2016; in adversarial training, Pang et al. 2021).

    amount: s; attacks keep the hard labels. Raises InputError for an amount outside [0, 1), around
    another one, and around methods that look at no labels (denoisers that pixels, logits or
    features guide).
    """

    amount: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_once(self)
        if not 0 <= self.amount < 1:
            raise InputError(f"amount = {self.amount!r}", "a share in [0, 1)", "0.1 is usual")
        if not any(_reads(inner) for _, inner in layers(self.method)):
            given = f"LabelSmoothing around {type(self.method).__name__}"
            remedy = "leave LabelSmoothing out: it would change nothing"
            raise InputError(given, "a method whose loss looks at labels", remedy)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        return self.method.prepare(model, replace(batch, smoothing=self.amount))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.method.losses(model, batch)


def _reads(method: Method) -> bool:
    """Do this method's own losses, not those of the methods within, look at labels?"""
    return method.labelled and not method.regulariser and len(list(layers(method))) == 1
