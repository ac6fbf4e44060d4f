"""Flags about the model's answers: probabilities, randomness, saturation, jumps."""

from __future__ import annotations

from torchproof.evaluate.clean import MOVED
from torchproof.evaluate.flags.flag import NOTE, SEVERE, WARNING, Evidence, Verdict

VANISHED = 0.2  # share of examples without a gradient of cross-entropy
ROUGH = 0.4  # of the change that a smooth function would show
_JUMPING = 0.2  # share of examples


def probabilities(evidence: Evidence) -> Verdict:
    """Are all clean answers non-negative, with rows that sum to one?"""
    clean = evidence.clean("simplex")
    if not clean or not all(record["simplex"] for record in clean):
        return None
    return SEVERE, (
        f"the outputs for all {len(clean)} clean images are non-negative and sum to one"
    )


def random(evidence: Evidence) -> Verdict:
    """Do two answers to the same image differ by more than float noise?"""
    asked = evidence.clean("moved")
    moved = [r for r in asked if r["moved"] > MOVED * r["scale"]]
    if not moved:
        return None
    worst = max(record["moved"] for record in moved)
    text = (
        f"two answers to the same image differ for {len(moved)} of {len(asked)} images, "
        f"by up to {worst:.3g}"
    )
    if evidence.averaged:
        return NOTE, f"{text}; all attacks asked for averages"
    return SEVERE, f"{text}; attacks that ask once see one draw only"


def saturated(evidence: Evidence) -> Verdict:
    """Is cross-entropy flat, to the last bit, where the margin is not?"""
    labels = {row.id: row.label for row in evidence.rows}
    # where the label is not the answer, cross-entropy has no reason to be flat
    asked = [r for r in evidence.clean("vanished") if r["prediction"] == labels[r["id"]]]
    flat = [record for record in asked if record["vanished"]]
    if len(flat) < max(2, VANISHED * len(asked)):
        return None
    largest = sorted(record["scale"] for record in asked)[len(asked) // 2]
    text = (
        f"the gradient of cross-entropy is exactly zero at {len(flat)} of {len(asked)} "
        "correctly classified images, that of the margin is not; the median largest logit is "
        f"{largest:.3g}"
    )
    seeing = [a for a in evidence.header.settings["attacks"] if a["gradient"]]
    scaled = [a for a in seeing if "CrossEntropy" in a["settings"]]
    return (SEVERE if len(scaled) == len(seeing) else WARNING), text


def unstable(evidence: Evidence) -> Verdict:
    """Does the margin change under tiny noise nearly as much as under noise 16 times as long?"""
    asked = evidence.probes("rough")
    jumping = [record for record in asked if record["rough"] < ROUGH]
    if len(jumping) < max(3, _JUMPING * len(asked)):
        return None
    return WARNING, (
        f"for {len(jumping)} of {len(asked)} images the margin jumps: noise of 1/32 of the radius "
        "changes it more than 2.5 times as much as noise of half the radius lets a smooth "
        "function expect"
    )
