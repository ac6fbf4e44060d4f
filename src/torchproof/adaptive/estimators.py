"""Where a gradient may come from when autograd misleads: substitutes, surrogates, averages,
differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchproof.adaptive.attached import AsTable
from torchproof.adaptive.attribution import Component
from torchproof.adaptive.choices import Bench, Estimator, Over
from torchproof.adaptive.predictor import COMBINE, REJECT, DefendedPredictor
from torchproof.attack.nes import NES
from torchproof.attack.oracle import Oracle
from torchproof.attack.smoothed import Smoothed
from torchproof.attack.substitutes import learnt
from torchproof.attack.through import Through
from torchproof.attack.untouched import untouched
from torchproof.core.errors import InputError, TorchproofError
from torchproof.core.objectives import Objective
from torchproof.core.sites import Input
from torchproof.core.threats import AnyThreat

AUTOGRAD = Estimator("autograd", "the gradient as autograd finds it")
_PAIRS, _SAMPLES = 25, 8
_PARTS = 2  # so many suspects are worked around
_TRAINING, _STEPS = 256, 150  # images and steps of fitting a substitute


def estimators(
    bench: Bench, components: Sequence[Component], x: Tensor, masked: bool, seed: int
) -> tuple[Estimator, ...]:
    """Autograd first; then ways around the likeliest parts, and all of them; then, where gradients
    are `masked`, averages and differences. x: clean images that substitutes are fitted on.
    """
    found = [AUTOGRAD]
    suspects = [c for c in components if c.score > 0][:_PARTS]
    suspects = suspects or (list(components)[:_PARTS] if masked else [])
    for component in suspects:
        found += _around(bench, component, x, seed)
    found += _everywhere(bench, components) if suspects else []
    if masked:
        found += _averages(bench, x)
    return tuple(found)


def _around(bench: Bench, component: Component, x: Tensor, seed: int) -> list[Estimator]:
    """The ways around one part."""
    part, predictor, found = component.part, bench.predictor, []
    if component.substituted is not None:
        stand = "the mean of the logits" if part == COMBINE else "the identity"
        why = f"BPDA: {part} forwards, {stand} backwards"
        found.append(Estimator(f"BPDA at {part}", why, predictor.substituted(part)))
        made = _learnt(predictor, part, x, seed)
        if made is not None:
            why = f"BPDA: {part} forwards, a network that was fitted to it backwards"
            found.append(Estimator(f"learnt BPDA at {part}", why, made))
    # without its detector a model is attacked by a loss that ignores it, not by other gradients
    if component.without is not None and part != REJECT:
        why = f"gradients of the model without {part}; the defence judges"
        over = _through(predictor.without(part))
        found.append(Estimator(f"way without {part}", why, over=over, inside=True, price=3))
    return found


def _through(bare: DefendedPredictor) -> Over:
    table = AsTable(bare)

    def over(oracle: Oracle, objective: Objective) -> Oracle:
        return Through(oracle, table, Input(), objective)

    return over


def _learnt(
    predictor: DefendedPredictor, part: str, x: Tensor, seed: int
) -> DefendedPredictor | None:
    """The predictor with a fitted substitute for a part of its preprocessing; None for others, and
    where shapes change.
    """
    if part not in predictor.preprocess:
        return None
    seen = x[:_TRAINING]
    with untouched(predictor), torch.no_grad():
        for name, module in predictor.preprocess.items():
            if name == part:
                break
            seen = module(seen)
    try:
        fitted = learnt(predictor.preprocess[part], seen, steps=_STEPS, width=16, seed=seed)
        return predictor.substituted(part, fitted)
    except (InputError, RuntimeError):
        return None


def _everywhere(bench: Bench, components: Sequence[Component]) -> list[Estimator]:
    """BPDA at every part that the identity can stand for, where there are several."""
    names = [c.part for c in components if c.substituted is not None]
    if len(names) < 2:
        return []
    made = bench.predictor
    try:
        for name in names:
            made = made.substituted(name)
    except TorchproofError:
        return []
    why = "BPDA at " + ", ".join(names)
    return [Estimator("BPDA at every part", why, made)]


def _averages(bench: Bench, x: Tensor) -> list[Estimator]:
    """Averages over the surroundings, and differences of answers."""
    sigma = _sigma(bench.threat, x)
    smooth = "the gradient averaged over points around"
    answers = f"differences of answers along {2 * _PAIRS} directions"
    return [
        Estimator("smoothed gradients", smooth, over=lambda o, _: Smoothed(o, _SAMPLES, 0.25),
                  price=2 * _SAMPLES + 1),
        Estimator("ES", answers, over=lambda o, _: NES(o, _PAIRS, sigma, 64),
                  price=2 * _PAIRS + 1),
    ]  # fmt: skip


def _sigma(threat: AnyThreat, x: Tensor) -> float:
    """The deviation at which normal noise is about half a radius long; 1/4 where lengths are
    counts.
    """
    norm: Any = getattr(threat, "norm", None)
    if norm is None or norm.least:
        return 0.25
    signs = torch.ones(1, *x.shape[1:])  # normal noise without its rare long coordinates
    return float(getattr(threat, "eps", 1.0)) / (2 * float(norm.length(signs)))
