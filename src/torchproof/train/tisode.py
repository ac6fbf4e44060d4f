"""Training of neural ODEs that come to rest (TisODE; Yan, Du, Tan and Feng 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home, precision, untouched
from torchproof.core import keys
from torchproof.core.asides import Told, listening
from torchproof.core.errors import InputError, ModelError
from torchproof.train.certified.bounding import Bounding
from torchproof.train.denoiser import Guided
from torchproof.train.method import Batch, layers
from torchproof.train.rows import Rows
from torchproof.train.wrapper import Wrapper, require_once

_WATCHED = 16  # images of a batch on which the penalty is measured for the record


@dataclass(frozen=True)
class TisODE(Wrapper):
    """TisODE: the loss of another method plus lam times the integral of the mean |f| over the
    window [T, 2T] behind the answer z(T), which pulls f to rest there (Yan et al. 2020, eq. 6).

    The penalty is that of the ODE blocks in the inner method's own forward passes (at x' for AT),
    their mean over blocks and passes; attacks do not see it. lam: 0.1 in the paper, 0.01 in the
    authors' code; start: share of the training before which the inner method is alone, 5 of 100
    epochs as in the code. The epoch's figure `steady` is the penalty on the first 16 images of each
    batch, before they are perturbed. Raises InputError for settings that cannot be meant,
    around another one, and around methods that train on bounds or in front of a fixed network;
    ModelError before the first epoch for a network without ODE blocks.
    """

    lam: float = 0.1
    start: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require_once(self)
        deaf = [p for _, p in layers(self.method) if isinstance(p, (Bounding, Guided))]
        if deaf:
            raise InputError(
                f"{type(deaf[0]).__name__} in TisODE",
                "a method that trains the network in passes of its own",
                "write TisODE(AT(), lam=0.1)",
            )
        if not (0 <= self.lam < math.inf and 0 <= self.start < 1):
            raise InputError(
                f"lam = {self.lam!r}, start = {self.start!r}",
                "a finite number >= 0 and a share in [0, 1)",
                "the usual values are 0.1 and 0.05",
            )

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        x, _ = data.part(torch.arange(min(2, len(data)))).tensors(home(model), precision(model))
        _measured(model, x, 0)
        self.method.begin(model, data, progress)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        few = batch.x[:_WATCHED]
        figure = _measured(model, few, keys.seed_of(batch.seed, "steady")).mean()
        ready = self.method.prepare(model, batch)
        spent = (ready.spent[0] + len(few), ready.spent[1])
        return replace(ready, spent=spent).with_note(steady=figure)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        if self.lam == 0 or batch.progress < self.start:
            return self.method.losses(model, batch)
        with listening() as told:
            losses = self.method.losses(model, batch)
        return losses + self.lam * _penalty(told, len(batch.x)).to(losses)


def _measured(model: nn.Module, x: Tensor, seed: int) -> Tensor:
    """The penalty (B,) of images, without a graph; the model stays as it is."""
    with untouched(model, seed, x.device), torch.no_grad(), listening() as told:
        model(x)
    return _penalty(told, len(x))


def _penalty(told: Told, rows: int) -> Tensor:
    """(rows,) the mean of what ODE blocks told; a pass on several batches at once counts as one on
    each. Raises ModelError where none told anything.
    """
    heard = [part for value in told.get("steady", []) for part in torch.split(value, rows)]
    if not heard:
        given = "a network without ODE blocks"
        remedy = "choose the model 'tisode', insert={LAYER: 'ODE'}, or train without TisODE"
        raise ModelError(given, "blocks that tell how far they are from rest", remedy)
    return torch.stack(heard).mean(0)
