"""The watch against catastrophic overfitting: the network withstands single steps only, because
the loss has become crooked between x and the end of the step (Wong, Rice and Kolter 2020).
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.starts import Uniform
from torchproof.attack.untouched import home, precision, untouched
from torchproof.core import keys
from torchproof.core.sites import Input
from torchproof.core.threats import AnyThreat
from torchproof.train import distributed
from torchproof.train.first_layer import first_weight
from torchproof.train.held_out import Measured, measure
from torchproof.train.job import Job
from torchproof.train.method import answers
from torchproof.train.record import Check
from torchproof.train.rows import Rows

GAP, FALL = 0.25, 0.20  # points between FGSM and PGD, and lost by PGD since the last look
_ROWS = 256  # held-out images of a look between epochs

_log = logging.getLogger(__name__)


def catastrophic(found: Measured, before: float | None) -> bool:
    """Is FGSM accuracy more than GAP above PGD accuracy, or has PGD accuracy lost more than FALL
    since `before`?
    """
    if found.robust is None or found.fgsm is None:
        return False
    fell = before is not None and before - found.robust > FALL
    return found.fgsm - found.robust > GAP or fell


def look(job: Job) -> Check | None:
    """A look between epochs, on the first held-out images; None where nothing is held out or no
    threat is known.
    """
    lesson, state, model = job.lesson, job.state, job.learner.model
    rows, settings = lesson.held.part(slice(_ROWS)), lesson.settings
    training = model.training
    found = measure(model, rows, lesson.threat, settings.held_out_steps, settings.seed)
    model.train(training)
    if found.robust is None or found.fgsm is None or lesson.threat is None:
        return None
    before = state.checks[-1].robust if state.checks else _last(job)
    return Check(
        step=state.total,
        n=found.n,
        fgsm=found.fgsm,
        robust=found.robust,
        linearity=linearity(model, rows, lesson.threat, settings.seed),
        first_layer=first_layer(model),
        catastrophic=catastrophic(found, before),
    )


def _last(job: Job) -> float | None:
    """Robust accuracy after the last epoch, of the weights that are trained: an average lags."""
    records = job.state.records
    return records[-1].robust if records and job.learner.average is None else None


def linearity(model: nn.Module, rows: Rows, threat: AnyThreat, seed: int) -> float | None:
    """The mean cosine between the gradients of the loss at x and at a uniformly drawn point of the
    threat around it (Andriushchenko and Flammarion 2020, eq. 3); rows without a gradient are left
    out. None for threats to anything but the image itself.
    """
    if type(threat.site) is not Input:
        return None
    mine = rows.part(slice(distributed.rank(), None, distributed.world()))
    x, y = mine.tensors(home(model), precision(model))
    key = keys.mix(keys.seed_of(seed, "linearity"), mine.index).to(x.device)
    moved = x + Uniform()(threat.set(model, x), key)
    with untouched(model, keys.seed_of(seed, "linearity"), x.device):
        at, there = (_gradient(model, point, y) for point in (x, moved))
    cosine = F.cosine_similarity(at, there, dim=1, eps=0.0).double()
    known = cosine.isfinite()
    sums = [cosine[known].sum().reshape(1), known.double().sum().reshape(1)]
    distributed.sum_(sums)
    total, count = (float(s) for s in sums)
    return total / count if count else None


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(N, D) gradients of the cross-entropy."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        loss = F.cross_entropy(answers(model, point), y, reduction="sum")
        return torch.autograd.grad(loss, point)[0].flatten(1)


def first_layer(model: nn.Module) -> float | None:
    """The Frobenius norm of the weight of the first convolution or linear layer."""
    weight = first_weight(model)
    return None if weight is None else float(weight.detach().double().norm())


def respond(job: Job, where: str) -> None:
    """Does what the settings ask for when overfitting is catastrophic: nothing, the end of the run,
    or the best weights again (without momentum): those before training until an epoch is kept.
    """
    wanted, state = job.lesson.settings.catastrophic, job.state
    _log.warning("%s: catastrophic overfitting (%s)", where, wanted)
    if wanted == "stop":
        state.ended = True
    elif wanted == "roll-back":
        state.rolled_back += 1
        job.learner.model.load_state_dict(state.best)
        job.learner.optimiser.state.clear()
        if job.learner.average is not None:
            job.learner.average.load_state_dict(state.best)
