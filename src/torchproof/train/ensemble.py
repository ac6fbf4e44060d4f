"""Ensemble adversarial training (Tramer, Kurakin, Papernot, Goodfellow, Boneh and McDaniel
2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from torchproof.attack.attack_set import AttackSet, Way
from torchproof.core.errors import InputError
from torchproof.core.norms import Linf
from torchproof.core.sites import Input
from torchproof.core.threats import AnyThreat, Threat
from torchproof.train.folder import digest
from torchproof.train.method import Batch, Method, answers, cross_entropy

SELF = "self"


@dataclass(frozen=True)
class EnsembleAT(Method):
    """Ensemble adversarial training: (CE(f(x), y) + CE(f(x*), y)) / 2 with x* made on fixed
    networks, or on the network itself (Tramer et al. 2018).

    threat: an Linf ball around images; sources: the fixed networks by name, in eval mode and left
    as they are; a run is the same run as long as their weights are. attacks: of each, "FGSM" or
    "I-FGSM-4" (4 steps). For every image network and attack are drawn uniformly, the network in
    training being one of them. Attacks start from the network's own answer, not from y. Deviation:
    the authors draw one network per batch. Meant for transferred attacks: against those on itself
    nothing helps but its own share of x*.

    Raises InputError without sources and for other threats, UnknownName for other attacks.
    """

    threat: AnyThreat
    sources: Mapping[str, nn.Module] = field(default_factory=dict, repr=False)
    attacks: tuple[str, ...] = ("FGSM",)
    weights: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        threat = self.threat
        fits = isinstance(threat, Threat) and isinstance(threat.norm, Linf)
        if not fits or type(threat.site) is not Input:
            remedy = "pass parse('linf:8/255'), for example"
            raise InputError(f"EnsembleAT with {threat!r}", "an Linf threat to images", remedy)
        if not self.sources or SELF in self.sources or not self.attacks:
            given = f"EnsembleAT with sources {list(self.sources)} and attacks {self.attacks}"
            remedy = f"pass sources={{'A': network}}, trained before; {SELF!r} is the network's own"
            raise InputError(given, "at least one fixed network and one attack", remedy)
        digests = [f"{n} {digest(m.state_dict())}" for n, m in self.sources.items()]
        object.__setattr__(self, "weights", tuple(digests))
        self._attack_set(nn.Identity())  # an unknown attack is said now

    @property
    def passes(self) -> int:
        return 2

    def _attack_set(self, model: nn.Module) -> AttackSet:
        assert isinstance(self.threat, Threat)
        sources = {**self.sources, SELF: model}
        ways = tuple(Way(attack, name) for name in sources for attack in self.attacks)
        return AttackSet(sources, (self.threat.eps,), ways)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        pairs = self._attack_set(model)(batch.x, batch.ids, batch.seed)
        forward, backward = (a + b for a, b in zip(batch.spent, pairs.spent, strict=True))
        return replace(batch, adv=pairs.adv, spent=(forward, backward))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        clean = cross_entropy(answers(model, batch.x), batch)
        return (clean + cross_entropy(answers(model, batch.adv), batch)) / 2
