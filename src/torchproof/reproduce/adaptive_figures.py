"""Of `reproduce adaptive`: the table, the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter

from torchproof.reproduce.adaptive_record import FORMS, KINDS, Broken, Control, at_least
from torchproof.reproduce.experiment import Row, Verdict

TUNED = ("k-wta", "odds-are-odd", "ecoc", "empir", "me-net", "asymmetrical")
"""The defences that `adapt` was tuned on; it was judged once on all others."""
FLAGGED, FOUND = 11, 8  # of thirteen: what was aimed at
ENOUGH = 7  # formed defences, most of the thirteen

# Printed in the saved outputs of the notebooks of Tramer et al. 2020.
_CIFAR = "CIFAR-10, linf:8/255, at most 1,000 images"
PUBLISHED: Mapping[str, tuple[float | None, str]] = {
    "odds-are-odd": (0.0, _CIFAR),
    "generative": (None, f"the attack succeeds for 99.5 %, 0.1 % detected; {_CIFAR}"),
    "me-net": (0.26, _CIFAR),
    "asymmetrical": (0.141, f"integrated classifier, 36.0 % for the generative one; {_CIFAR}"),
}


def rows(
    found: Sequence[Broken], missing: Mapping[str, str], known: Sequence[Control]
) -> tuple[Row, ...]:
    """The counts over all defences first, then each defence, then networks without one."""
    table = [*_counts(found)]
    for one in found:
        table += _of(one)
    for name, reason in missing.items():
        table.append(Row(what=f"{name}: built", ours=(0.0,), n=0, unit="", setting=reason))
    for control in known:
        table += _of_control(control)
    return tuple(table)


def groups(found: Sequence[Broken]) -> dict[str, list[Broken]]:
    """The formed defences: all, those that `adapt` was tuned on, the others."""
    formed = [one for one in found if one.formed]
    return {
        "all": formed,
        "tuned on": [one for one in formed if one.name in TUNED],
        "judged once": [one for one in formed if one.name not in TUNED],
    }


def _counts(found: Sequence[Broken]) -> Iterator[Row]:
    if found:
        yield Row.share("defences that formed", [sum(o.formed for o in found)], [len(found)])
    for name, mine in groups(found).items():
        if not mine:
            continue
        of = [len(mine)]
        if name == "all":
            yield Row.share("formed: broken by hand", [sum(o.broken for o in mine)], of)
        yield Row.share(f"formed, {name}: a right flag", [sum(o.flagged for o in mine)], of)
        near = [sum(o.near for o in mine)]
        yield Row.share(f"formed, {name}: adapt within 10 points of hand-made", near, of)


def _of(one: Broken) -> Iterator[Row]:
    told = {
        "naive": one.reading,
        "adapt": _said(one),
        "base": "the naive attacks and stronger ones",
    }
    published, setting = PUBLISHED.get(one.name, (None, ""))
    for kind in (*KINDS, "base, naive"):
        marks = one.marks(kind)
        yield Row.share(
            f"{one.name}: {kind}", [sum(m) for m in marks], [len(m) for m in marks],
            published=published if kind == "hand-made" else None,
            setting=setting if kind == "hand-made" else told.get(kind, ""),
        )  # fmt: skip
    right = f"right: {', '.join(one.right)}"
    yield Row.share(f"{one.name}: a right flag", one.hits, [1] * len(one.hits), setting=right)


def _said(one: Broken) -> str:
    """What adapt raised, or why it could not."""
    refused = next((c.debugged.refused for c in one.cells if c.debugged.refused), "")
    if refused:
        return f"adapt refused: {refused}"
    return f"raised: {', '.join(text for _, text in one.raised) or 'nothing'}"


def _of_control(control: Control) -> Iterator[Row]:
    told, name = control.debugged, f"{control.name}, {control.threat}"
    for kind, marks in (("clean", told.clean), ("adapt", told.robust)):
        yield Row.share(f"{name}: {kind}", [sum(marks)], [len(marks)])
    what = f"{name}: flags raised"
    yield Row(
        what=what, ours=(float(len(told.flags)),), n=1, unit="", setting=", ".join(told.flags)
    )
    if told.problems:
        yield Row.share(f"{name}: active test", [told.found], [told.problems])


def judge(
    found: Sequence[Broken], missing: Mapping[str, str], known: Sequence[Control]
) -> tuple[Verdict, str]:
    """Shows where at least seven defences formed, and the hand-made attacks take every formed one
    to within 5 points of its base, or below 10 %. Contradicts where more than half of at least
    seven stay 20 points above the base under these attacks.
    """
    formed = [one for one in found if one.formed]
    text = _because(found, formed, missing, known)
    left = [o for o in formed if at_least(o.share("hand-made") - o.share("base"), FORMS)]
    if len(formed) >= ENOUGH and all(one.broken for one in formed):
        return "shows", text
    if len(formed) >= ENOUGH and 2 * len(left) > len(formed):
        return "contradicts", text
    return "does not show at this scale", text


def _because(
    found: Sequence[Broken], formed: Sequence[Broken], missing: Mapping[str, str],
    known: Sequence[Control],
) -> str:  # fmt: skip
    flat = [one.name for one in found if not one.formed]
    weak = [one.name for one in formed if not at_least(_same(one), FORMS)]
    short = [f"{o.name} by {100 * o.short:.1f} points" for o in formed if not o.broken]
    parts = [f"{len(formed)} of {len(found) + len(missing)} defences formed"]
    if flat:
        parts[0] += f" (did not: {', '.join(flat)})"
    if missing:
        parts[0] += f"; not built: {', '.join(missing)}"
    if weak:
        said = f"less than {100 * FORMS:.0f} points above it under the same naive attacks"
        parts.append(f"{said}: {', '.join(weak)}")
    broken = sum(one.broken for one in formed)
    parts.append(
        f"hand-made attacks take {broken} of {len(formed)} to within 5 points of the base or below "
        f"10 %" + (f"; they fall short for {', '.join(short)}" if short else "")
    )
    parts.append(_aim("a right flag", found, attrgetter("flagged"), FLAGGED))
    near = "adapt within 10 points of the hand-made attacks"
    parts.append(_aim(near, found, attrgetter("near"), FOUND))
    refused = [o.name for o in found if any(c.debugged.refused for c in o.cells)]
    if refused:
        parts.append(f"adapt refused {', '.join(refused)}")
    if known:
        parts.append("; ".join(map(_silence, known)))
    return "; ".join(parts)


def _aim(what: str, found: Sequence[Broken], met: Callable[[Broken], bool], least: int) -> str:
    """How many of the formed defences meet an aim, and of those it was tuned and judged on."""
    counts = {name: (sum(map(met, mine)), len(mine)) for name, mine in groups(found).items()}
    hits, of = counts.pop("all")
    each = ", ".join(f"{name} {h} of {n}" for name, (h, n) in counts.items())
    reached = "met" if hits >= least else "not met"
    return f"{what} on {hits} of {of} ({each}; aim {least} of 13, {reached})"


def _same(one: Broken) -> float:
    """The gain over the base under the naive attacks alone."""
    return one.share("naive") - one.share("base, naive")


def _silence(control: Control) -> str:
    told = control.debugged
    flags = ", ".join(told.flags) if told.flags else "no flag"
    passed = f"active test {told.found} of {told.problems}"
    passed += "" if told.informative else ", which says nothing"
    return f"{control.name}: {flags}, {passed}"


def compact(found: Sequence[Broken], missing: Mapping[str, str], known: Sequence[Control]) -> str:
    """One line for each defence, as Markdown; shares in per cent."""
    lines = [
        "| defence | adapt was | naive | flags raised (**right**) | adapt | hand-made | base | |",
        "|---|---|---:|---|---:|---:|---:|---|",
    ]
    for one in found:
        cells = {kind: f"{100 * one.share(kind):.1f}" for kind in KINDS}
        flags = ", ".join(f"**{t}**" if name in one.right else t for name, t in one.raised)
        lines.append(
            f"| {one.name} | {'tuned on it' if one.name in TUNED else 'judged once'} "
            f"| {cells['naive']} | {flags or 'none'} | {cells['adapt']} "
            f"| {cells['hand-made']} | {cells['base']} | {one.reading} |"
        )
    lines += [f"| {name} | | | | | | | not built |" for name in missing]
    for control in known:
        told = control.debugged
        share = f"{100 * sum(told.robust) / len(told.robust):.1f}"
        flags = ", ".join(told.flags) or "none"
        lines.append(
            f"| {control.name}, no defence | | | {flags} | {share} | | "
            f"| active test {told.found} of {told.problems} |"
        )
    return "\n".join(lines) + "\n"
