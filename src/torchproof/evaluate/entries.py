"""The attacks of one evaluation: the suite for each threat in turn, labelled and in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torchproof.core.errors import InputError, unknown
from torchproof.core.rejection import Rejecting
from torchproof.core.threats import AnyThreat
from torchproof.evaluate.identity import exact
from torchproof.evaluate.ledger import Record
from torchproof.evaluate.member import CERTIFICATE, CLEAN, PROBES, History, Member, Suite
from torchproof.evaluate.rejecting import aware
from torchproof.evaluate.suites import SUITES, bounded, confined
from torchproof.evaluate.targeted import TARGETED, turned

Chosen = str | Suite | Sequence[Member]


@dataclass(frozen=True)
class Terms:
    """What counts as a win. targeted: only the class that each example is to be moved to;
    rejecting: any wrong class that is accepted, for a model that may reject.
    """

    targeted: bool = False
    rejecting: Rejecting | None = None

    def __post_init__(self) -> None:
        if self.targeted and self.rejecting is not None:
            given = "a target, and a model that may reject"
            raise InputError(given, "one of them", "attack with Rejecting(Targeted()) itself")


@dataclass(frozen=True)
class Entry:
    """A member in an evaluation: `label` is its name there, `threat` the number of the threat it is
    about; a reserve runs only where a red flag asks for it.
    """

    label: str
    member: Member
    threat: int
    reserve: bool = False

    def history(self, before: Sequence[Entry], records: dict[str, Record]) -> History:
        """What is known of an example: its clean record and those of the members before, by name,
        that were run on it about the same threat.
        """
        known = {
            e.member.name: records[e.label]
            for e in before
            if e.threat == self.threat and e.label in records
        }
        passes = {name: records[name] for name in (CLEAN, CERTIFICATE) if name in records}
        return passes | {n: r for n, r in known.items() if "skipped" not in r}


def draws(suite: Chosen, threats: Sequence[AnyThreat], terms: Terms = Terms()) -> int:
    """How many answers of the model are averaged into one."""
    return max(s.draws for s in _suites(suite, threats, terms))


def entries(
    suite: Chosen, threats: Sequence[AnyThreat], terms: Terms = Terms()
) -> tuple[Entry, ...]:
    """All members in order, reserves last, with the objectives that the terms ask for.

    A label is the member's name, followed by the threat where there are several. Raises UnknownName
    for a suite that no table holds, InputError for an empty or ambiguous list of members.
    """
    found = _suites(suite, threats, terms)
    several = len(threats) > 1 and isinstance(suite, str)
    base = [
        Entry(f"{m.name} {bounded(threats[i])}" if several else m.name, m, i, reserve)
        for reserve in (False, True)
        for i, own in enumerate(found)
        for m in (own.reserve if reserve else own.members)
    ]
    if not isinstance(suite, str):
        base = [replace(e, threat=_number(e.member, threats)) for e in base]
    _check(base)
    return tuple(base)


def _suites(suite: Chosen, threats: Sequence[AnyThreat], terms: Terms) -> list[Suite]:
    """The suite for each threat; a caller's own members are one suite about all of them."""
    found = [_own(suite, terms)] if not isinstance(suite, str) else _named(suite, threats, terms)
    if terms.rejecting is None:
        return found
    return [aware(s, terms.rejecting, own=not isinstance(suite, str)) for s in found]


def _own(suite: Suite | Sequence[Member], terms: Terms) -> Suite:
    own = suite if isinstance(suite, Suite) else Suite(tuple(suite))
    if not terms.targeted:
        return own
    return Suite(tuple(map(turned, own.members)), tuple(map(turned, own.reserve)), own.draws)


def _named(suite: str, threats: Sequence[AnyThreat], terms: Terms) -> list[Suite]:
    table = TARGETED if terms.targeted else SUITES
    if suite not in table:
        raise unknown("suite", suite, table)
    return [table[suite](threat) for threat in threats]


def _number(member: Member, threats: Sequence[AnyThreat]) -> int:
    """Which threat of the evaluation a caller's own member is about; raises InputError for none."""
    for i, threat in enumerate(threats):
        own = member.attack.threat
        # masks are tensors, whose == is no bool
        if exact(own) == exact(threat) if confined(own) else own == threat:
            return i
    raise InputError(
        f"the attack {member.name} on {member.attack.threat}",
        f"an attack on {' or '.join(map(str, threats))}",
        "build the attack with the threat that is evaluated",
    )


def _check(base: Sequence[Entry]) -> None:
    """Raises InputError for no member, a name twice or reserved, and aims at nothing."""
    labels = [e.label for e in base]
    if not labels or len(set(labels)) < len(labels):
        raise InputError(f"members named {labels}", "at least one, no name twice", "rename them")
    for position, entry in enumerate(base):
        name, aim = entry.member.name, entry.member.aim
        if ";" in name or name in (CLEAN, CERTIFICATE) or name.startswith((PROBES, "recheck ")):
            raise InputError(f"a member named {name!r}", "a name of its own", "rename it")
        earlier = {e.member.name for e in base[:position] if e.threat == entry.threat}
        if aim and aim not in earlier:
            raise InputError(
                f"the member {name} aimed by {aim}",
                f"the name of a member before it ({', '.join(sorted(earlier)) or 'none'})",
                "put the member that tries all targets first",
            )
