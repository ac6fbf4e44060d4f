"""Adversarial weight perturbation around any method (Wu, Xia and Wang 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.attack.ascend import ascend
from torchproof.attack.cases import Cases, Jobs, Point
from torchproof.attack.fgsm import FGSM
from torchproof.attack.pgd import PGD, check_steps
from torchproof.attack.run import Run
from torchproof.attack.search import Search
from torchproof.attack.starts import Zero
from torchproof.attack.untouched import kept_buffers
from torchproof.core import keys
from torchproof.core.errors import InputError, ModelError
from torchproof.core.sites import Weights
from torchproof.core.threats import Relative
from torchproof.train import distributed
from torchproof.train.factor import check_factor
from torchproof.train.method import Batch, Method, drawn, layers, read
from torchproof.train.shift import moved
from torchproof.train.wrapper import Wrapper


@dataclass(frozen=True)
class Reading:
    """An oracle about weights: a method's mean loss over the global batch, one problem with leaves
    (1, *shape).

    The network is asked in its present mode with the dropout of the descent pass; its buffers stay
    as they are, and its weights come back bit for bit. Raises ModelError for gradients that are
    not finite.
    """

    method: Method
    model: nn.Module
    batch: Batch

    def __call__(self, cases: Cases, delta: Any, gradient: bool, progress: Tensor) -> Point:
        with moved(self.model, delta) as chosen, kept_buffers(self.model), drawn(self.batch):
            with torch.set_grad_enabled(gradient):
                losses = read(self.method, self.model, self.batch)
            grads = self._gradients(losses, chosen) if gradient else {}
        count = losses.new_tensor([float(len(losses))])
        total = losses.detach().sum()[None]
        distributed.sum_([*grads.values(), total, count])
        if not all(bool(g.isfinite().all()) for g in [total, *grads.values()]):
            raise ModelError(
                "a loss or a gradient in the weights that is NaN or infinite",
                "finite ones",
                "lower the learning rate, clip gradients, or train in float32",
            )
        loss = total / count
        grad = {name: (g / count)[None] for name, g in grads.items()} if gradient else None
        samples = self.method.passes * len(losses)
        return Point(
            loss,
            loss,
            torch.zeros_like(loss, dtype=torch.bool),
            grad,
            (samples, samples * gradient),
        )

    def _gradients(self, losses: Tensor, chosen: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """The gradient of the summed losses; zero for weights that are frozen or not used."""
        live = {name: p for name, p in chosen.items() if p.requires_grad}
        found = torch.autograd.grad(losses.sum(), list(live.values()), materialize_grads=True)
        grads = dict(zip(live, found, strict=True))
        return {name: grads.get(name, torch.zeros_like(p)) for name, p in chosen.items()}


@dataclass(frozen=True)
class AWP(Wrapper):
    """AWP: min_w max_v of another method's loss at w + v, length(v_l) <= gamma length(w_l) (Wu et
    al. 2020, eq. 8-10).

    The inner method prepares the batch at w; then v_l = gamma |w_l| g_l / |g_l| per weight tensor
    (no biases, no norm layers), or `steps` projected steps; the loop descends at w + v and takes v
    away. gamma: 0.01 for AT, 0.005 for TRADES, 0 for the inner method alone, bit for bit; warmup:
    share of the training without v. Batch-norm statistics change in the descent pass only. Raises
    InputError for settings that cannot be meant, such as gamma >= 1: v could undo w.
    """

    gamma: float = 0.01
    steps: int = 1
    warmup: float = 0.0
    site: Weights = field(default_factory=Weights)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.steps)
        if any(isinstance(inner, AWP) for _, inner in layers(self.method)):
            raise InputError(
                "AWP around AWP", "one weight perturbation", "use steps=2 for a stronger one"
            )
        if not 0 <= self.warmup <= 1:
            raise InputError(
                f"warmup = {self.warmup!r}", "a share in [0, 1]", "write 0.05 for a twentieth"
            )
        usual = "0.01 is usual around AT, 0.005 around TRADES"
        check_factor("gamma", self.gamma, usual)
        if self.gamma >= 1:
            expected = "a share of the weights' length below 1: a longer shift can undo the weights"
            raise InputError(f"gamma = {self.gamma!r}", expected, usual)
        if self.gamma:
            _ = self.within

    @cached_property
    def within(self) -> Relative:
        return Relative(self.gamma, site=self.site)

    @cached_property
    def search(self) -> Search:
        return FGSM() if self.steps == 1 else PGD(self.steps, start=Zero())

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        batch = self.method.prepare(model, batch)
        if batch.progress < self.warmup or self.gamma == 0:
            return batch
        oracle = Reading(self.method, model, batch)
        run = Run(keys.seed_of(batch.seed, "weights"), slots=1, patience=math.inf, last=True)
        found = ascend(
            oracle,
            self.search,
            self.site,
            lambda x: self.within.set(model, x),
            batch.x,
            batch.y,
            Jobs.one_each(1),
            run,
        )
        assert isinstance(found.value, dict)
        forward, backward = (int(n) for n in found.spent.sum(0))
        spent = (batch.spent[0] + forward, batch.spent[1] + backward)
        shift = {name: v[0] for name, v in found.value.items()}
        size = math.sqrt(sum(float(v.double().square().sum()) for v in shift.values()))
        return replace(batch, shift=shift, spent=spent).with_note(weight_shift=size)
