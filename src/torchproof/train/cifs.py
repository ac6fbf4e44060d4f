"""Adversarial training of networks with CIFS blocks on the joint loss (Yan et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.joint import JointCrossEntropy, heads, joint, overheard, require_beta
from torchproof.attack.untouched import home, precision, untouched
from torchproof.core import keys
from torchproof.core.asides import labels
from torchproof.core.errors import ModelError, unknown
from torchproof.core.objectives import Objective
from torchproof.train.inner import Adversarial
from torchproof.train.method import Batch, answers, cross_entropy
from torchproof.train.rows import Rows

MASKS = ("label", "predicted")


@dataclass(frozen=True)
class CIFSAT(Adversarial):
    """AT on the joint loss 3 / (beta + 1) [CE(f(x'), y) + beta / P sum_l CE(r_l(x'), y)] of the
    last head and the P probes, x' the last iterate of PGD on the same (Yan et al. 2021, as in the
    authors' code).

    masks: "label" lets the blocks see y while they are trained, as in the paper, but not while x'
    is made; "predicted" does not. A mask made of y carries y into the last head: the epoch's figure
    `label_leak` is the accuracy on x' with masks made of y, less that without, in eval mode (two
    more forward passes). beta: of the probes, 2 as published; the rest as in `Adversarial`. Raises
    InputError and UnknownName, and ModelError before the first epoch of a network without probes.
    """

    beta: float = 2.0
    masks: str = "label"

    def __post_init__(self) -> None:
        require_beta(self.beta)
        if self.masks not in MASKS:
            raise unknown("choice of masks", str(self.masks), MASKS)
        super().__post_init__()

    @property
    def objective(self) -> Objective:
        return JointCrossEntropy(self.beta)

    @cached_property
    def attack(self) -> Attack:
        return Attack(self.threat, self.objective, self.search, wrap=overheard)

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        x, _ = data.part(torch.arange(min(2, len(data)))).tensors(home(model), precision(model))
        with untouched(model, 0, x.device), torch.no_grad():
            count = heads(model, x)[1].shape[1]
        if not count:
            remedy = "insert CIFS blocks: insert={'layer4.1': 'CIFS'}, or train with AT()"
            raise ModelError("a network without probes", "blocks that tell of one", remedy)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        ready = super().prepare(model, batch)
        assert ready.adv is not None
        with untouched(model, keys.seed_of(batch.seed, "leak"), batch.x.device), torch.no_grad():
            own = answers(model, ready.adv).argmax(1)
            with labels(batch.y):
                told = answers(model, ready.adv).argmax(1)
        leak = (told == batch.y).float() - (own == batch.y).float()
        spent = (ready.spent[0] + 2 * len(batch.x), ready.spent[1])
        return replace(ready, spent=spent).with_note(label_leak=leak)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        with labels(batch.y if self.masks == "label" else None):
            z, probes = heads(lambda x: answers(model, x), batch.adv)
        each = [cross_entropy(r.to(z), batch) for r in probes.unbind(1)]
        final = cross_entropy(z, batch)
        return joint(final, torch.stack(each, 1) if each else final[:, None][:, :0], self.beta)
