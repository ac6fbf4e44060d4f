"""The members of a suite: an attack, the examples it is run on, and the class it aims at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torchproof.attack.combine import Attack
from torchproof.attack.oracle import Quantised
from torchproof.core.errors import InputError
from torchproof.evaluate.ledger import Record

CLEAN, CERTIFICATE, PROBES = "clean", "certificate", "probes"

_LEVEL = 1 / 255  # one grey level of an image of 8 bits

# What is known of one example: the record of the clean pass and those of the members before, by
# name, all about the same threat.
History = Mapping[str, Record]


class Who(Protocol):
    """Which surviving examples a member is run on; asked with the example's own history alone."""

    def __call__(self, history: History) -> bool: ...


@dataclass(frozen=True)
class Everyone:
    """Every survivor."""

    def __call__(self, history: History) -> bool:
        return True


@dataclass(frozen=True)
class Nearest:
    """Examples whose best margin so far is within `ratio` of the clean margin.

    The margin is the largest wrong logit less the right one: negative while an example stands. 0 is
    the decision boundary, 1 no progress at all. The rule reads no other example, so neither order,
    batch size, n nor shards change who is chosen.
    """

    ratio: float

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise InputError(f"ratio = {self.ratio!r}", "a number > 0", "0.5 is half the margin")

    def __call__(self, history: History) -> bool:
        clean = -float(history[CLEAN]["margin"])
        scores = [r["score"] for name, r in history.items() if name not in (CLEAN, CERTIFICATE)]
        best = max((s for s in scores if s is not None), default=-clean)
        return bool(-best <= self.ratio * clean)


@dataclass(frozen=True)
class Member:
    """One attack of a suite.

    `name` identifies it in results, keys its randomness and must not repeat; `settings` is what it
    does, in words; `source` is where it was published; `who`: the survivors it is run on; `aim`:
    the name of an earlier targeted member at whose most successful class each example is attacked.
    """

    name: str
    attack: Attack
    settings: str = ""
    source: str = ""
    who: Who = Everyone()
    aim: str = ""

    def __post_init__(self) -> None:
        if self.aim and not self.attack.objective.targeted:
            raise InputError(
                f"a member aimed by {self.aim} with the objective {self.attack.objective!r}",
                "a targeted objective",
                "use TargetedMargin() or TargetedDLR()",
            )
        if not self.settings:
            texts = [described(self.attack)]
            texts += [f"at the class where {self.aim} came nearest"] if self.aim else []
            texts += [] if self.who == Everyone() else [f"on {self.who!r}"]
            object.__setattr__(self, "settings", ", ".join(texts))

    def fitted(self, classes: int) -> Member:
        """The same with no more targets than a model of so many classes has wrong ones."""
        asked, left = self.attack.targets, classes - 1
        if asked <= left:
            return self
        settings = self.settings.replace(f"{asked} targets", f"{left} of {asked} targets")
        return replace(self, attack=replace(self.attack, targets=left), settings=settings)

    def rounded(self) -> Member:
        """The same attack, asking about 8-bit images only.

        Raises InputError for differences so small that rounding leaves nothing of them.
        """
        for oracle in _oracles(self.attack):
            sigma = getattr(oracle, "sigma", None)
            if getattr(oracle, "estimates", False) and sigma is not None and sigma < _LEVEL:
                raise InputError(
                    f"{self.name}: {type(oracle).__name__} with sigma = {sigma:g}, quantised",
                    "sigma >= 1/255, because smaller differences vanish in the rounding",
                    "write sigma=0.008, two grey levels, or drop quantised",
                )
        wrapped = self.attack.wrap
        attack = replace(self.attack, wrap=lambda oracle: wrapped(Quantised(oracle)))
        return replace(self, attack=attack, settings=f"{self.settings}, on images of 8 bits")


@dataclass(frozen=True)
class Suite:
    """members: run in order, each on what those before left standing; reserve: run after them
    where a red flag says that they are not to be believed; draws: answers of the model that are
    averaged into one, for randomised defences.
    """

    members: Sequence[Member]
    reserve: Sequence[Member] = ()
    draws: int = 1


@dataclass(frozen=True)
class _Model:
    """Stands for the plain oracle where a wrapped one is put into words."""


def described(attack: Attack) -> str:
    """The search, the objective, the repetitions and the wrapper, as constructor expressions."""
    parts = [f"{attack.search!r} on {attack.objective!r}"]
    parts += [f"{attack.targets} targets"] if attack.targets else []
    parts += [f"{attack.restarts} restarts"] if attack.restarts > 1 else []
    plain: Any = _Model()
    wrapped = attack.wrap(plain)
    parts += [] if wrapped is plain else [f"asked through {wrapped!r}".replace("_Model()", "model")]
    # the address of an object without a repr of its own differs from run to run
    return re.sub(r" at 0x[0-9a-f]+", "", ", ".join(parts))


def _oracles(attack: Attack) -> Iterator[Any]:
    """The wrappers around the plain oracle, the outermost first."""
    plain: Any = _Model()
    oracle: Any = attack.wrap(plain)
    while oracle is not plain:
        yield oracle
        oracle = getattr(oracle, "inner", plain)


def reads_gradients(attack: Attack) -> bool:
    """Does the attack use gradients of the model, and not estimates of them from answers?"""
    guesses = any(getattr(oracle, "estimates", False) for oracle in _oracles(attack))
    return bool(attack.search.gradient) and not guesses
