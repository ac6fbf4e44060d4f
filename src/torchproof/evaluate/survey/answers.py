"""What one method answers about one image."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from torchproof.core.errors import TorchproofError
from torchproof.core.norms import Norm
from torchproof.core.threats import Threat
from torchproof.evaluate.survey.integers import reached
from torchproof.evaluate.survey.subject import Network
from torchproof.verify.clock import OutOfTime
from torchproof.verify.methods import ESTIMATES, METHODS

Status = Literal["answered", "late", "failed"]
BATCHES, SAMPLES = 20, 64  # of what CLEVER draws for an image


@dataclass(frozen=True)
class Question:
    """A method, an image x (1, C, H, W) in float64 with its label y (1,), what may happen to it,
    and the seconds there are.
    """

    method: str
    x: np.ndarray
    y: np.ndarray
    threat: Threat
    seconds: float


class Heard(NamedTuple):
    """seconds: of the clock; lower, upper: (K - 1,) bounds of the margins, and margins attained in
    the set where the method tells them; radius: an estimate; why: what went wrong, for "failed";
    cpu: seconds of computing, 0 where it was stopped.
    """

    status: Status
    seconds: float
    lower: tuple[float, ...] = ()
    upper: tuple[float, ...] = ()
    radius: float | None = None
    why: str = ""
    cpu: float = 0.0


def answered(network: Network, question: Question) -> Heard:
    """The answer, however long it takes; an error that users may meet becomes "failed"."""
    start, begun = time.perf_counter(), time.process_time()
    try:
        told = _told(network, question)
    except OutOfTime:
        return Heard("late", time.perf_counter() - start)
    except (TorchproofError, ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        why = reason(error)
        return Heard("failed", time.perf_counter() - start, why=why)
    cpu = time.process_time() - begun
    return Heard("answered", time.perf_counter() - start, cpu=cpu, **told)


def reason(error: Exception) -> str:
    """In one line."""
    text = error.given if isinstance(error, TorchproofError) else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]


def _told(network: Network, question: Question) -> dict[str, Any]:
    x, y = torch.from_numpy(question.x), torch.from_numpy(question.y)
    name, threat = question.method, question.threat
    if name in ESTIMATES:
        norm: Norm = threat.norm
        radius = ESTIMATES[name](network.model, x, y, norm, 2 * threat.eps,
                                 batches=BATCHES, samples=SAMPLES)  # fmt: skip
        return {"radius": float(radius)}
    if name in INTEGERS:
        found = INTEGERS[name](network.graph, x, y, threat, seconds=question.seconds)
        return {"lower": tuple(found.lower.tolist()), "upper": tuple(found.upper.tolist())}
    lower = METHODS[name](network.graph, x, y, threat, seconds=question.seconds).lower
    return {"lower": tuple(lower[0].tolist())}


INTEGERS: Mapping[str, Callable[..., Any]] = {
    "milp-ibp": partial(reached, middle="ibp"),
    "ai2": partial(reached, middle="crown"),
    "milp-alpha": partial(reached, middle="alpha-crown-full", to_the_end=True),
}
"""Methods whose solver's points are wanted as well; bounds and time are those of METHODS, but that
a search ends with the sign of its margin."""
