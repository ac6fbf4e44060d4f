"""Region adversarial training, RAT (Wang et al. 2021, arXiv 2008.07838): reconstructed, because
only the abstract could be had. What is built and what is claimed of it is our reading.

For every class t one perturbation v_t turns inputs of the other classes into t; the network is then
retrained on D + {(clip(x + v_t), y): x in D, y != t} with D a very small part of the training data.
One round memorises its v_t, so the v_t are made anew for the retrained network, round after round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.attack.universal import Semantic, semantic, taken, universal
from torchproof.attack.untouched import home, precision
from torchproof.core import keys
from torchproof.core.checks import check, check_weights
from torchproof.core.errors import InputError
from torchproof.core.objectives import Targeted
from torchproof.core.threats import Threat
from torchproof.train.folder import Save
from torchproof.train.loop import fit
from torchproof.train.method import Method
from torchproof.train.region_round import LABEL, Round, Shelf, accuracies
from torchproof.train.settings import Settings
from torchproof.train.standard import Standard

Make = Callable[..., Semantic]
"""(model, x, y, threat, targets=, seed=) -> a perturbation per target class."""

SETTINGS = Settings.of(epochs=3, batch_size=64, lr=5e-4, optimiser="adam", schedule="constant",
                       weight_decay=0.0, held_out=0)  # fmt: skip
"""Of each round: a few epochs at a small learning rate, the last weights kept."""


def region_perturbations(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    targets: Sequence[int] | None = None,
    seed: int = 0,
    *,
    steps: int = 200,
    alpha: float | None = None,
    batch: int | None = 64,
    enough: float = 1.0,
    remaining: bool = False,
) -> Semantic:
    """For each target a v_t in the threat's ball that turns the other classes' x into it.

    v <- P(v - alpha * steepest(grad_v mean CE(f(clip(x + v)), t))) over mini-batches from 0.
    targets: by default every class among y; alpha: in input units, by default eps / 30; the rest as
    `universal` has it. `share` of the result is the success on x. Raises InputError.
    """
    length = threat.eps / 30 if alpha is None else alpha
    attack = universal(threat, steps, length, Targeted(), batch, enough, remaining)
    return semantic(attack, model, x, y, _targets(y, targets), seed)


def random_patterns(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    targets: Sequence[int] | None = None,
    seed: int = 0,
) -> Semantic:
    """The control: as many patterns of full length that know nothing of the network, in Linf random
    signs times eps. A drop-in for `region_perturbations`.
    """
    classes = _targets(y, targets)
    number = torch.tensor(classes)
    noise = keys.normal(keys.mix(seed, "random pattern", number), 0, tuple(x.shape[1:]))
    values = threat.eps * threat.norm.steepest(noise).to(x.dtype)
    asked = torch.tensor([[int((y != t).sum()), 0] for t in classes])
    found = Semantic(values, number, torch.zeros(len(number)), asked)
    at = x.to(home(model), precision(model)), y.to(home(model))
    return replace(found, share=taken(model, *at, found, threat))


def _targets(y: Tensor, targets: Sequence[int] | None) -> list[int]:
    return sorted(set(y.tolist())) if targets is None else list(targets)


def _moved(x: Tensor, v: Tensor, threat: Threat) -> Tensor:
    return (x + v.to(x)).clamp_(threat.low, threat.high)


def enlarged(x: Tensor, y: Tensor, found: Semantic, threat: Threat) -> tuple[Tensor, Tensor]:
    """D' = D + {(clip(x + v_t), y): y != t}: the images of D first, then those of each target."""
    parts, labels = [x], [y]
    for t, v in zip(found.classes.tolist(), found.values, strict=True):
        parts.append(_moved(x[y != t], v, threat))
        labels.append(y[y != t])
    return torch.cat(parts), torch.cat(labels)


def likeness(found: Semantic, x: Tensor, y: Tensor) -> Tensor:
    """(T,) correlation over pixels of each v_t with (mean of class t - mean of the others): above 0
    where the perturbation looks like its class. 0 where there is none: a constant v_t, a class
    without examples.
    """
    rows = []
    for t, v in zip(found.classes.tolist(), found.values, strict=True):
        contrast = (x[y == t].mean(0) - x[y != t].mean(0)).flatten().double()
        rows.append(torch.corrcoef(torch.stack([v.flatten().to(contrast), contrast]))[0, 1])
    return torch.stack(rows).nan_to_num(0.0)


@dataclass(frozen=True)
class _Course:
    """What stays as it is from round to round."""

    x: Tensor
    y: Tensor
    threat: Threat
    settings: Settings
    method: Method
    make: Callable[[nn.Module, int], Semantic]
    test: tuple[Tensor, Tensor]
    shelf: Shelf


def region_training(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    threat: Threat,
    rounds: int = 4,
    settings: Settings = SETTINGS,
    *,
    targets: Sequence[int] | None = None,
    make: Make = region_perturbations,
    method: Method | None = None,
    test: tuple[Tensor, Tensor] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    save: Save | None = None,
) -> Iterator[Round]:
    """Retrains `model` in place; yields a `Round` after every round (Wang et al. 2021,
    reconstructed).

    data: the few images (N, C, H, W) in [0, 1] and labels; make: the patterns, `random_patterns`
    for the control, or a partial with other options; method: trained with on the enlarged set,
    plain training by default; settings: of each round's `fit`, and the seed of everything; test:
    what rounds are measured on, by default the data; out: where patterns and each round's training
    are kept; resume: go on there, with the result of a run left alone (more rounds may be asked
    for). Raises InputError, ModelError, ResumeError and FileError before anything is done.
    """
    x, y = data
    check(x, y)
    check_weights(model)
    if isinstance(rounds, bool) or rounds < 1:
        raise InputError(f"rounds = {rounds!r}", "a whole number >= 1", "four are usual here")
    if test is not None:
        check(*test)
    method, classes = method or Standard(), _targets(y, targets)
    drawn = partial(_made, make, (x, y, threat), classes, settings.seed)
    about = {"threat": threat, "targets": classes, "make": make, "method": method}
    shelf = Shelf.claimed(out, resume, model, data, settings, about, save)
    course = _Course(x, y, threat, settings, method, drawn, test or data, shelf)
    return _rounds(model, course, rounds)


def _made(
    make: Make, about: tuple[Any, ...], targets: list[int], seed: int, model: nn.Module, number: int
) -> Semantic:
    return make(model, *about, targets=targets, seed=keys.seed_of(seed, "region round", number))


def _rounds(model: nn.Module, course: _Course, rounds: int) -> Iterator[Round]:
    used = [course.shelf.kept(1, partial(course.make, model, 1))]
    for number in range(1, rounds + 1):
        x, y = enlarged(course.x, course.y, used[-1], course.threat)
        _retrain(model, x, y, course, number)
        fresh = course.shelf.kept(number + 1, partial(course.make, model, number + 1))
        clean, old, first = accuracies(model, *course.test, used, course.threat)
        yield Round(
            round=number,
            images=len(x),
            targets=tuple(used[-1].classes.tolist()),
            success=tuple(used[-1].share.tolist()),
            fresh=tuple(fresh.share.tolist()),
            clean=clean,
            old=old,
            first=first,
            measured_on=len(course.test[1]),
            forward=int(used[-1].spent[:, 0].sum()),
            backward=int(used[-1].spent[:, 1].sum()),
        )
        used.append(fresh)


def _retrain(model: nn.Module, x: Tensor, y: Tensor, course: _Course, number: int) -> None:
    seed = keys.seed_of(course.settings.seed, "region training", number) >> 1
    settings = course.settings.model_copy(update={"seed": seed})
    shelf, card = course.shelf, {"round": number, "label": LABEL}
    for _ in fit(
        model, (x, y), course.method, settings, out=shelf.training(number), resume=True,
        save=shelf.save_with({"region": card}), info=card,
    ):  # fmt: skip
        pass
