"""The diagnostics that `torchproof diagnose` knows: what each measures, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torchproof.backdoor.titrate import Titration, titrate
from torchproof.core.errors import InputError, ModelError
from torchproof.core.threats import Threat
from torchproof.diagnose.flatness import Flatness, Procedure, flatness
from torchproof.diagnose.generalisation import Complexity, complexity
from torchproof.diagnose.landscape import (
    Landscape,
    Landscapes,
    Plane,
    weight_landscape,
    weight_plane,
)
from torchproof.diagnose.lipschitz import (
    Layers,
    LipschitzCurve,
    layer_chain,
    local_lipschitz,
)
from torchproof.diagnose.order import in_order, layers_of, without
from torchproof.diagnose.prunability import RULES, By, Prunability, Prunings, prunability
from torchproof.diagnose.readings import (
    read_baselines,
    read_flatness,
    read_landscapes,
    read_layers,
    read_lipschitz,
    read_plane,
    read_prunability,
    read_prunings,
    read_tails,
    read_titration,
    read_track,
)
from torchproof.diagnose.subject import FEW, Subject
from torchproof.diagnose.tail_index import (
    TailIndex,
    TailTrack,
    tail_index,
    tail_index_over_training,
)
from torchproof.diagnose.weight_balls import chosen

RADII = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0)  # L2, of local Lipschitz robustness
NEAR_DATA = 0.5  # L2, of layers one by one
NEAR_RADII, NEAREST = (0.1, 0.25, 0.5), 8  # of the bound of Jacobians: beyond, it is no closer
LINE, GRID = tuple(i / 5 for i in range(-5, 6)), tuple(i / 4 for i in range(-4, 5))
NEAR = tuple(i / 50 for i in range(-5, 6))  # along the worst direction, which is steep

T = TypeVar("T")


@dataclass(frozen=True)
class Part(Generic[T]):
    """kind: of its result, a dataclass of plain numbers; usual: is it measured unless others are
    named?
    """

    title: str
    measure: Callable[[Subject], T]
    reading: Callable[[T], str]
    kind: type[T]
    usual: bool = True


def _flatness(subject: Subject) -> Flatness:
    how = Procedure(worst_xi=0.003, draws=6, starts=3, seed=subject.seed, slots=subject.slots)
    return flatness(subject.model, *subject.sets.test, subject.threat, how)


def _landscapes(subject: Subject) -> Landscapes:
    model, (x, y), seed = subject.model, subject.few, subject.seed

    def line(threat: Threat | None, along: str) -> Landscape:
        radii = LINE if along == "random" else NEAR
        return weight_landscape(model, x, y, threat, radii=radii, directions=2, seed=seed,
                                along=along)  # fmt: skip

    threat = subject.threat
    clean, robust = (weight_plane(model, x, y, t, radii=GRID, seed=seed) for t in (None, threat))
    return Landscapes(
        line(None, "random"), line(threat, "random"), line(None, "adversarial"),
        line(threat, "adversarial"), clean, robust, len(x),
        chosen(model).notes,
    )  # fmt: skip


def _batch(subject: Subject) -> int:
    """Of gradients: what was asked for, or so many that there are enough batches."""
    return subject.gradient_batch or min(100, max(1, len(subject.sets.train.x) // 60))


def _tails(subject: Subject) -> TailIndex:
    x, y = subject.sets.train
    return tail_index(subject.model, x, y, _batch(subject), seed=subject.seed, layers=True)


def _track(subject: Subject) -> TailTrack:
    x, y = subject.sets.train
    if not subject.checkpoints:
        remedy = "give a folder of them with --checkpoints"
        raise InputError("no checkpoints", "those of the network's training", remedy)
    size = _batch(subject)
    return tail_index_over_training(subject.checkpoints, x, y, size, seed=subject.seed)


def _pruned(subject: Subject, by: By) -> Prunability:
    train, seed, slots = subject.sets.train, subject.seed, subject.slots
    return prunability(subject.model, *train, by=by, seed=seed, slots=slots)


def _prunability(subject: Subject) -> Prunability:
    return _pruned(subject, "magnitude")


def _prunings(subject: Subject) -> Prunings:
    return Prunings(tuple(_pruned(subject, by) for by in RULES))


def _baselines(subject: Subject) -> Complexity:
    train, seed, slots = subject.sets.train, subject.seed, subject.slots
    return complexity(subject.model, *train, draws=3, seed=seed, slots=slots)


def _lipschitz(subject: Subject) -> LipschitzCurve:
    model, x, seed = subject.model, subject.sets.test.x[: 2 * FEW], subject.seed
    try:
        return local_lipschitz(model, x, RADII, bound="global", seed=seed, draws=30)
    except ModelError:  # an operation without a rule for bounds; from below it can be measured
        return local_lipschitz(model, x, RADII, bound="none", seed=seed, draws=30)


def _layers(subject: Subject) -> Layers:
    model, x = subject.model, subject.few.x
    names = in_order(model, x, subject.layers) if subject.layers else layers_of(model, x)
    chain = layer_chain(model, x, names, NEAR_DATA, seed=subject.seed)
    return Layers(chain, len(x), without(model, names))


def _local(subject: Subject) -> LipschitzCurve:
    model, x = subject.model, subject.sets.test.x[:NEAREST]
    return local_lipschitz(model, x, NEAR_RADII, bound="local", seed=subject.seed, draws=30)


def _worst_plane(subject: Subject) -> Plane:
    model, (x, y), axes = subject.model, subject.few, ("random", "adversarial")
    return weight_plane(model, x, y, subject.threat, radii=NEAR, axes=axes, seed=subject.seed)


def _titration(subject: Subject) -> Titration:
    return titrate(subject.model, subject.sets.test.x, seed=subject.seed, batch_size=subject.slots)


PARTS: dict[str, Part[Any]] = {
    "flatness": Part("flatness of the robust loss", _flatness, read_flatness, Flatness),
    "landscape": Part("the loss around the weights", _landscapes, read_landscapes, Landscapes),
    "worst-plane": Part(
        "the loss around the weights, in the worst direction",
        _worst_plane,
        read_plane,
        Plane,
        False,
    ),
    "tail-index": Part("tail index of gradient noise", _tails, read_tails, TailIndex),
    "tail-track": Part("tail index along the training", _track, read_track, TailTrack, False),
    "prunability": Part("prunability", _prunability, read_prunability, Prunability),
    "prunings": Part("prunability by four rules", _prunings, read_prunings, Prunings, False),
    "baselines": Part(
        "what prunability is compared with", _baselines, read_baselines, Complexity, False
    ),
    "lipschitz": Part("local Lipschitz robustness", _lipschitz, read_lipschitz, LipschitzCurve),
    "local-bound": Part(
        "local Lipschitz robustness, with a local bound",
        _local,
        read_lipschitz,
        LipschitzCurve,
        False,
    ),
    "layers": Part("Lipschitz constants layer by layer", _layers, read_layers, Layers, False),
    "titration": Part("noise response", _titration, read_titration, Titration),
}
USUAL = tuple(name for name, part in PARTS.items() if part.usual)
