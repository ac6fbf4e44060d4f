"""Region adversarial training under the common loop, its rounds being shares of one run (Wang et
al. 2021, reconstructed: only the abstract could be had).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import home, precision
from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.sites import Input
from torchproof.core.threats import Threat
from torchproof.train.method import Batch, Method, answers, cross_entropy
from torchproof.train.region import region_perturbations
from torchproof.train.region_round import LABEL
from torchproof.train.rows import Rows


@dataclass(frozen=True)
class RAT(Method):
    """RAT, reconstructed: CE on D + {(clip(x + v_t), y): y != t}, v_t one perturbation per class t
    that turns the other classes into it, made anew for the network in every round (Wang et al.
    2021; our reading).

    Train a network that is trained already, on a few hundred images (D). rounds: equal shares of
    the run, whose v_t are made before their first epoch; steps: of making a v_t, of eps / 30 each;
    batch: images per step. Every image is drawn in one of its T versions, equally likely, in every
    step, so T epochs here are one over the enlarged set. The epoch's figure `pattern_success` is
    the mean share of D that this round's v_t turned when they were made; what making them costs is
    not in the record. Deviation from `region_training`: one optimiser goes through all rounds.
    Raises InputError for numbers < 1 and for anything but a Threat to images.
    """

    threat: Threat
    rounds: int = 4
    steps: int = 200
    batch: int = 64
    patterns: Tensor = field(
        default_factory=lambda: torch.zeros(0), init=False, repr=False, compare=False
    )
    classes: Tensor = field(
        default_factory=lambda: torch.zeros(0), init=False, repr=False, compare=False
    )
    success: float = field(default=0.0, init=False, repr=False, compare=False)
    made: int = field(default=0, init=False, repr=False, compare=False)

    memory: ClassVar[tuple[str, ...]] = ("patterns", "classes", "success", "made")
    label: ClassVar[str] = LABEL

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("rounds", "steps", "batch")}
        wrong = {k: v for k, v in counts.items() if type(v) is not int or v < 1}
        if wrong:
            raise InputError(f"{wrong}", "whole numbers >= 1", "4, 200 and 64 are usual here")
        if not isinstance(self.threat, Threat) or type(self.threat.site) is not Input:
            remedy = "pass parse('linf:0.3'), for example"
            raise InputError(f"RAT with {self.threat!r}", "a Threat to images", remedy)

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        due = min(int(progress * self.rounds), self.rounds - 1) + 1
        if (
            progress > 0 and due <= self.made
        ):  # at 0 it is a new run, perhaps of a method used before
            return
        x, y = data.tensors(home(model), precision(model))
        seed = int(torch.randint(2**31, ()))  # the loop has keyed the generator by run and epoch
        found = region_perturbations(
            model, x, y, self.threat, seed=seed, steps=self.steps, batch=self.batch
        )
        object.__setattr__(self, "patterns", found.values.detach().cpu())
        object.__setattr__(self, "classes", found.classes.cpu())
        object.__setattr__(self, "success", float(found.share.mean()))
        object.__setattr__(self, "made", due)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        if not len(self.patterns):
            return batch
        classes = self.classes.to(batch.x.device)
        lots = keys.uniform(
            keys.mix(batch.seed, batch.ids, "version").to(batch.x.device), 0, (len(classes) + 1,)
        )
        lots[:, 1:][batch.y[:, None] == classes] = -1.0  # no pattern towards the image's own class
        chosen = lots.argmax(1)
        moves = torch.cat([torch.zeros_like(self.patterns[:1]), self.patterns]).to(batch.x)
        moved = (batch.x + moves.index_select(0, chosen)).clamp_(self.threat.low, self.threat.high)
        adv = torch.where((chosen == 0).view(-1, 1, 1, 1), batch.x, moved)
        return replace(batch, adv=adv).with_note(pattern_success=self.success)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(answers(model, batch.x if batch.adv is None else batch.adv), batch)
