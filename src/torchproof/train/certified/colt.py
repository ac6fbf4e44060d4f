"""Convex layer-wise adversarial training (Balunovic and Vechev 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.pgd import check_steps
from torchproof.attack.starts import Start, Uniform
from torchproof.core import keys
from torchproof.core.errors import InputError, unknown
from torchproof.train.at import AT
from torchproof.train.certified.bounding import Bounding
from torchproof.train.certified.latent import Cut, Latent, Relaxed, cuts
from torchproof.train.certified.ramp import Ramp
from torchproof.train.certified.traces import trace_of
from torchproof.train.method import Batch, answers, cross_entropy
from torchproof.verify import bounds
from torchproof.verify.graph import Values
from torchproof.verify.inputs import InputSet

MIDDLES = {"zonotope": bounds.FAST_LIN, "interval": bounds.IBP}
NOW, EARLIER = "latent ", "earlier "


@dataclass(frozen=True)
class COLT(Bounding):
    """COLT: in stage k, kappa CE(h(x'_k), y) + (1 - kappa) CE(h(x'_(k-1)), y), h the layers behind
    the k-th ReLUs and x'_k where PGD ends in the convex relaxation of those before, which are
    frozen (Balunovic and Vechev 2020, sec. 4).

    Stages are equal shares of the training. Stage 0 is adversarial training, with the clean loss in
    the place of the earlier one. mix: the share of a stage over which kappa goes from 0 to 1;
    depth: how many layers of ReLUs are taken in turn, by default all but the last; growth: by what
    the radius of each stage exceeds that of the next; middle: bounds before the ReLUs, those of the
    "zonotope" itself or by "interval", which cost no walks and give wider relaxations; decay: of
    the L1 norm of the weights that are not frozen; steps, length, start: of PGD, length in units of
    eps and of half a noise symbol's range. Epoch figures: `eps`, `stage`.

    Deviations: bounds are exact where the authors estimate them by random projections; one run of
    the optimiser; behind stage 0 the network is trained in eval mode, without dropout and with the
    batch-norm statistics of stage 0; no ReLU stability term. The ramp only softens the beginning.
    Put no other terms beside it: they would move what is frozen. Raises InputError for numbers that
    cannot be meant, UnknownName for `middle`.
    """

    ramp: Ramp = field(default_factory=lambda: Ramp(0.0, 0.01))
    steps: int = 8
    length: float = 0.25
    start: Start = field(default_factory=Uniform)
    mix: float = 0.3
    depth: int | None = None
    growth: float = 1.1
    middle: str = "zonotope"
    decay: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.middle not in MIDDLES:
            raise unknown("bound in the middle", self.middle, MIDDLES)
        if not (0 < self.mix <= 1 and 0 < self.growth < math.inf and 0 <= self.decay < math.inf):
            given = f"mix = {self.mix!r}, growth = {self.growth!r}, decay = {self.decay!r}"
            raise InputError(given, "0 < mix <= 1, growth > 0, decay >= 0", "0.3, 1.1 and 1e-5")
        whole = isinstance(self.depth, int) and not isinstance(self.depth, bool)
        if self.depth is not None and not (whole and self.depth >= 0):
            remedy = "leave it out for all layers of ReLUs but the last"
            raise InputError(f"depth = {self.depth!r}", "a whole number >= 0", remedy)
        check_steps(self.steps)
        _ = AT(self.threat, self.steps, self.length, self.start)

    @property
    def passes(self) -> int:
        return 3

    def stage(self, progress: float, stages: int) -> tuple[int, float]:
        """k and kappa."""
        place = progress * stages
        k = min(int(place), stages - 1)
        return k, min((place - k) / self.mix, 1.0)

    def radius(self, batch: Batch, k: int, stages: int) -> float:
        """In stage k, 0 for the clean loss alone, which nothing but stage 0 may begin with."""
        share = self.share(batch)
        share = max(share, torch.finfo(torch.float32).eps) if k else share
        return self.threat.eps * self.widen * share * self.growth ** (stages - 1 - k)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        ready = super().prepare(model, batch)
        graph = trace_of(model, batch.x).now(model, ready, stopping=False)
        with torch.no_grad():
            plain = {name: value.detach() for name, value in graph.constants.items()}
        made = cuts(replace(graph, constants=plain), self.depth)
        k, kappa = self.stage(batch.progress, len(made))
        eps = self.radius(batch, k, len(made))
        ready = ready.with_note(eps=eps, stage=float(k))
        if eps == 0:
            return ready
        threat = replace(self.threat, eps=eps)
        if k == 0:
            return AT(threat, self.steps, self.length, self.start).craft(model, ready)
        with torch.autocast(batch.x.device.type, enabled=False), torch.no_grad():
            search = _Search(self, InputSet.of(batch.x, threat), ready)
            return search.ready(made[k], made[k - 1] if kappa < 1 else None)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        graph = trace_of(model, batch.x).now(model, batch, stopping=False)
        made = cuts(graph, self.depth)
        k, kappa = self.stage(batch.progress, len(made))
        sums = [w.abs().sum() for w in made[k].weights()]
        penalty = self.decay * torch.stack(sums).sum() if sums else 0.0
        now, earlier = self._pair(model, batch, made, k, kappa < 1)
        found = cross_entropy(now, batch)
        if earlier is not None:
            found = kappa * found + (1 - kappa) * cross_entropy(earlier, batch)
        return found + penalty

    def _pair(
        self, model: nn.Module, batch: Batch, made: list[Cut], k: int, mixed: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of what is attacked in this stage and, where they are mixed, in the one before."""
        if self.radius(batch, k, len(made)) == 0:
            return answers(model, batch.x), None
        if k == 0:
            assert batch.adv is not None, "losses are read from a prepared batch"
            return answers(model, batch.adv), answers(model, batch.x) if mixed else None
        cut = made[k]
        with torch.autocast(batch.x.device.type, enabled=False):
            reference = cut.graph.run(batch.x)
            now = _behind(cut, reference, batch, NOW)
            return now, _behind(cut, reference, batch, EARLIER) if mixed else None


def _behind(cut: Cut, reference: Values, batch: Batch, which: str) -> Tensor:
    """(B, K) logits from the latents that the batch carries."""
    return cut.answer(reference, {name: batch.drawn[which + name] for name in cut.frontier})


@dataclass(frozen=True)
class _Search:
    """The search for latents of a batch."""

    method: COLT
    inside: InputSet
    batch: Batch

    def ready(self, cut: Cut, earlier: Cut | None) -> Batch:
        """The batch with its latents at the cut, and with those of an earlier one, carried on."""
        reference = cut.graph.run(self.batch.x)
        made, walks = self._worst(cut, reference)
        drawn = {NOW + name: value for name, value in made.items()}
        attacks = 1
        if earlier is not None:
            point, more = self._worst(earlier, reference)
            carried = earlier.onward(reference, point, cut)
            drawn |= {EARLIER + name: carried[name] for name in cut.frontier}
            walks, attacks = walks + more, 2
        rows = len(self.batch.x) * attacks * self.method.steps + walks
        forward, backward = self.batch.spent
        return replace(
            self.batch, drawn={**self.batch.drawn, **drawn}, spent=(forward + rows, backward + rows)
        )

    def _worst(self, cut: Cut, reference: Values) -> tuple[Latent, int]:
        relaxed, walks = Relaxed.of(cut, self.inside, reference, MIDDLES[self.method.middle])
        key = keys.mix(self.batch.seed, "latent", self.batch.ids).to(self.batch.x.device)

        def loss(latent: Latent) -> Tensor:
            logits = cut.answer(reference, latent)
            return F.cross_entropy(logits, self.batch.y, reduction="none")

        return relaxed.worst(loss, key, self.method.steps, self.method.length), walks
