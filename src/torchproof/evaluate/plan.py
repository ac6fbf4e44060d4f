"""What an evaluation is going to ask, checked beforehand, and how the record names it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from torchproof.core import keys
from torchproof.core.errors import InputError
from torchproof.core.threats import AnyThreat
from torchproof.evaluate import identity
from torchproof.evaluate.entries import Chosen, Entry
from torchproof.evaluate.ledger import Header
from torchproof.evaluate.member import reads_gradients
from torchproof.evaluate.rejecting import missing
from torchproof.evaluate.subject import Subject
from torchproof.evaluate.suites import SUITES, bounded, confined


@dataclass(frozen=True)
class Plan:
    """What is asked of the model: the threats and the attacks, labelled; `cut`: what was asked of
    attacks at several classes, where the model has fewer.
    """

    threats: tuple[AnyThreat, ...]
    suite: Chosen
    entries: tuple[Entry, ...]
    draws: int = 1
    verifier: str | None = None
    cut: tuple[int, ...] = ()

    def fitted(self, classes: int) -> Plan:
        """The same plan for a model of so many classes: no attack has more targets than it has
        wrong ones.
        """
        entries = tuple(replace(e, member=e.member.fitted(classes)) for e in self.entries)
        asked = {e.member.attack.targets for e in self.entries}
        cut = tuple(sorted(targets for targets in asked if targets > classes - 1))
        return replace(self, entries=entries, cut=cut)

    def rehearse(self, subject: Subject) -> None:
        """Starts every search once, asking nothing: what cannot serve the threat says so now."""
        x, _ = subject.rows([0])
        low, high = (float(v) for v in subject.examples.x.aminmax())
        for ball in map(bounded, self.threats):
            if low < ball.low or high > ball.high:
                raise InputError(
                    f"images with values from {low:.4g} to {high:.4g}",
                    f"values in the threat's box [{ball.low:g}, {ball.high:g}]",
                    "give the threat the range of valid inputs, low= and high=",
                )
        for entry in self.entries:
            attack = entry.member.attack
            key = keys.mix(0, torch.zeros(1, dtype=torch.int64)).to(subject.device)
            attack.search.init(attack.threat.set(subject.model, x), key)

    def header(
        self, subject: Subject, sha256: str | None, name: str | None, command: str | None
    ) -> Header:
        """What identifies this evaluation, and what the record says about it."""
        examples = subject.examples
        settings = {
            "n": examples.total,
            "shard": examples.shard,
            "threats": [identity.exact(threat) for threat in self.threats],
            "suite": self.suite if isinstance(self.suite, str) else "custom",
            "target": examples.aim,
            "rejecting": _judged(subject),
            "draws": self.draws,
            "verifier": self.verifier,
            "attacks": [
                {
                    "name": e.label,
                    "settings": e.member.settings,
                    "reserve": e.reserve,
                    "gradient": reads_gradients(e.member.attack),
                }
                for e in self.entries
            ],
            "quantised": subject.eight_bit,
        }
        about = {
            "threat": identity.threat_entry(self.threats),
            "labels": self._labels(subject),
            "command": command or self._call(identity.called(subject.model, name), subject),
        }
        return identity.header(subject, sha256, name, settings, about)

    def _labels(self, subject: Subject) -> list[str]:
        moved = subject.examples.rounded
        texts = [f"clean images rounded to 8 bits, moved by at most {moved:.2g}"] if moved else []
        if subject.examples.aim is not None:
            left = subject.examples.left_out
            texts += [f"targeted at {subject.examples.aim}: other errors do not count"]
            texts += [f"{left} examples of their target class left out"] if left else []
        if subject.rejecting is not None:
            texts += [
                "broken means misclassified and accepted; rejected clean images are no success"
            ]
            named = (
                [SUITES[self.suite](t) for t in self.threats] if isinstance(self.suite, str) else []
            )
            without = ", ".join(missing(named))
            texts += [f"left out, as they need one decision boundary: {without}"] if without else []
        if self.cut:
            asked, left = " or ".join(map(str, self.cut)), subject.classes - 1
            texts += [
                f"{left + 1} classes: attacks at {asked} wrong classes take the {left} there are"
            ]
        boxes = {(b.low, b.high) for b in map(bounded, self.threats)} - {(0.0, 1.0)}
        texts += [f"inputs confined to [{low:g}, {high:g}]" for low, high in sorted(boxes)]
        regions = [identity.region(threat) for threat in self.threats if confined(threat)]
        texts += [f"changes confined to {region}" for region in dict.fromkeys(regions)]
        return texts + identity.caveats(subject.model)

    def _call(self, model: str, subject: Subject) -> str:
        texts = [str(bounded(threat)) for threat in self.threats]
        threats = repr(texts[0]) if len(texts) == 1 else repr(texts)
        suite = repr(self.suite) if isinstance(self.suite, str) else "[...]"
        rest = f"n={subject.examples.total}, seed={subject.seed}"
        rest += ", quantised=True" if subject.eight_bit else ""
        rest += "" if self.verifier is None else ", verifier=..."
        rest += ", target=..." if subject.examples.aim is not None else ""
        rest += ", rejecting=..." if subject.rejecting is not None else ""
        data = subject.examples.name
        return f"torchproof.evaluate({model}, {data}, {threats}, suite={suite}, {rest})"


def _judged(subject: Subject) -> dict[str, Any] | None:
    """How a model that may reject is judged, and which answer says that it did."""
    rule = subject.rejecting
    return None if rule is None else {"rule": repr(rule), "answer": subject.classes}
