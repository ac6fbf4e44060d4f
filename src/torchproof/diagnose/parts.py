"""The diagnostics that `torchproof diagnose` knows: what each measures, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor, nn

from torchproof.backdoor.titrate import Titration, titrate
from torchproof.core.errors import ModelError
from torchproof.core.fingerprints import data_sha256
from torchproof.core.threats import Threat
from torchproof.diagnose.flatness import STALE, Flatness, Procedure, flatness
from torchproof.diagnose.landscape import Landscape, Plane, weight_landscape, weight_plane
from torchproof.diagnose.lipschitz import LipschitzCurve, local_lipschitz
from torchproof.diagnose.prunability import Prunability, prunability
from torchproof.diagnose.tail_index import TailIndex, tail_index
from torchproof.diagnose.weight_balls import chosen

RADII = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0)  # L2, of local Lipschitz robustness
LINE, GRID = tuple(i / 5 for i in range(-5, 6)), tuple(i / 4 for i in range(-4, 5))
NEAR = tuple(i / 50 for i in range(-5, 6))  # along the worst direction, which is steep
FEW = 64  # images of landscapes, which ask about them at every point


class Images(NamedTuple):
    """x (N, C, H, W) in [0, 1] and labels y (N,), where the model is."""

    x: Tensor
    y: Tensor


class Sets(NamedTuple):
    """The images that a network was trained on, and images that it was not."""

    train: Images
    test: Images


@dataclass(frozen=True)
class Subject:
    """A network, its images and the threat that it is to withstand; slots: images per call."""

    model: nn.Module
    sets: Sets
    threat: Threat
    seed: int = 0
    slots: int = 256

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        return {"train": data_sha256(*self.sets.train), "test": data_sha256(*self.sets.test),
                "threat": str(self.threat), "seed": self.seed}  # fmt: skip

    @property
    def few(self) -> Images:
        return Images(*(t[:FEW] for t in self.sets.test))


@dataclass(frozen=True)
class Landscapes:
    """The loss around the weights, on the first images: along random directions and the one that
    raises it most, clean and attacked, and the attacked loss on a plane of two random directions.
    """

    clean: Landscape
    robust: Landscape
    clean_worst: Landscape
    robust_worst: Landscape
    plane: Plane
    n: int
    notes: tuple[str, ...] = ()


T = TypeVar("T")


@dataclass(frozen=True)
class Part(Generic[T]):
    """kind: of its result, a dataclass of plain numbers."""

    title: str
    measure: Callable[[Subject], T]
    reading: Callable[[T], str]
    kind: type[T]


def _noted(notes: tuple[str, ...]) -> str:
    return "".join(f"; {note}" for note in notes)


def _flatness(subject: Subject) -> Flatness:
    how = Procedure(worst_xi=0.003, draws=6, starts=3, seed=subject.seed, slots=subject.slots)
    return flatness(subject.model, *subject.sets.test, subject.threat, how)


def _read_flatness(found: Flatness) -> str:
    assert found.average is not None and found.worst is not None and found.spread is not None
    return (
        f"moved at random by {found.average_xi:g} of its weights' lengths, the robust loss rises "
        f"by {found.average:.3f} nats (draws spread by {found.spread:.3f}); in the worst direction "
        f"of {found.worst_xi:g}, by {found.worst:.3f}; unmoved it is {found.reference:.3f}. Lower "
        f"is flatter{_noted(found.notes)}"
    )


def _landscapes(subject: Subject) -> Landscapes:
    model, (x, y), seed = subject.model, subject.few, subject.seed

    def line(threat: Threat | None, along: str) -> Landscape:
        radii = LINE if along == "random" else NEAR
        return weight_landscape(model, x, y, threat, radii=radii, directions=2, seed=seed,
                                along=along)  # fmt: skip

    threat = subject.threat
    return Landscapes(
        line(None, "random"), line(threat, "random"), line(None, "adversarial"),
        line(threat, "adversarial"), weight_plane(model, x, y, threat, radii=GRID, seed=seed),
        len(x), (STALE,) if chosen(model).batch_norm else (),
    )  # fmt: skip


def _read_landscapes(found: Landscapes) -> str:
    return (
        "along random directions as long as the filters, the mean of the loss is above its least "
        f"by {found.clean.rise:.3f} nats (clean) and {found.robust.rise:.3f} (attacked); along the "
        f"worst ones, a tenth as far, by {found.clean_worst.rise:.3f} and "
        f"{found.robust_worst.rise:.3f}; {found.n} images{_noted(found.notes)}"
    )


def _tails(subject: Subject) -> TailIndex:
    x, y = subject.sets.train
    size = min(100, max(1, len(x) // 60))
    return tail_index(subject.model, x, y, size, seed=subject.seed, layers=True)


def _read_tails(found: TailIndex) -> str:
    own = found.overall
    word = "supported" if own.heavy_tailed else "not supported"
    why = f" ({'; '.join(own.because)})" if own.because else ""
    return (
        f"in batches of {found.batch_size} the paper's estimator reads alpha = "
        f"{own.pooled.alpha:.2f}; on Gaussian noise with the same covariance it reads "
        f"{own.correlated.alpha:.2f}, and each coordinate by itself "
        f"{own.per_coordinate.alpha:.2f}: a heavy tail is {word}{why}. Larger batches read nearer "
        "to 2"
    )


def _prunability(subject: Subject) -> Prunability:
    return prunability(subject.model, *subject.sets.train, seed=subject.seed, slots=subject.slots)


def _read_prunability(found: Prunability) -> str:
    warned = f"; {'; '.join(found.warnings)}" if found.warnings else ""
    return (
        f"keeping the largest {100 * found.fraction:.0f} % of {found.parameters:,} weights leaves "
        f"the training loss within {100 * found.beta:.0f} % and {found.slack:g} nats of "
        f"{found.loss:.3f}; to be compared among networks trained to one loss{warned}"
    )


def _lipschitz(subject: Subject) -> LipschitzCurve:
    model, x, seed = subject.model, subject.sets.test.x[: 2 * FEW], subject.seed
    try:
        return local_lipschitz(model, x, RADII, bound="global", seed=seed, draws=30)
    except ModelError:  # an operation without a rule for bounds; from below it can be measured
        return local_lipschitz(model, x, RADII, bound="none", seed=seed, draws=30)


def _read_lipschitz(found: LipschitzCurve) -> str:
    low, noise = found.attacked_so_far[-1], found.sampled_so_far[-1]
    above = "; no bound is known for these operations"
    if found.bound:
        above = f", and at most {found.bound[-1]:.3g} times (certified)"
    return (
        f"within L2 {found.radii[-1]:g}, the {found.output} changes by at least {low:.3g} times "
        f"the change of the input (gradient ascent; random noise finds {noise:.3g}){above}"
    )


def _titration(subject: Subject) -> Titration:
    return titrate(subject.model, subject.sets.test.x, seed=subject.seed, batch_size=subject.slots)


def _read_titration(found: Titration) -> str:
    half = "at no noise measured are half of the answers confidently others"
    if found.sigma_50 is not None:
        half = f"half of the answers are confidently others at noise of {found.sigma_50:.2g}"
    return (
        f"{half}; of those at moderate noise most are class {found.target()}. Whether that is a "
        "backdoor, only networks of the same kind can tell: see `torchproof scan`"
    )


PARTS: dict[str, Part[Any]] = {
    "flatness": Part("flatness of the robust loss", _flatness, _read_flatness, Flatness),
    "landscape": Part("the loss around the weights", _landscapes, _read_landscapes, Landscapes),
    "tail-index": Part("tail index of gradient noise", _tails, _read_tails, TailIndex),
    "prunability": Part("prunability", _prunability, _read_prunability, Prunability),
    "lipschitz": Part("local Lipschitz robustness", _lipschitz, _read_lipschitz, LipschitzCurve),
    "titration": Part("noise response", _titration, _read_titration, Titration),
}
