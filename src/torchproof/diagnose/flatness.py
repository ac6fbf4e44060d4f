"""Average- and worst-case flatness of the robust loss (Stutz, Hein and Schiele 2021).

RLoss(w) is the mean over images of the highest cross-entropy within the threat. With a ball B of
weight perturbations, by default |v_l| <= xi |w_l| for every tensor l (weights and biases apart,
normalisation layers left out),

- average-case flatness is E_{v in B} RLoss(w + v) - RLoss(w),
- worst-case flatness is max_{v in B} RLoss(w + v) - RLoss(w),

in nats; lower is flatter. Both are the same for a ReLU network with one layer multiplied and the
next divided by a number, but not for neurons rescaled one by one.

Deviations: one v is drawn per draw and serves all images (as in the authors' code; the paper draws
anew for every batch); inputs are attacked with equally many restarts at w and at w + v, where the
paper takes ten and one, which understates flatness; the worst v found by the joint ascent is also
judged by the attack that measures RLoss(w), and the larger loss counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD, check_steps
from torchproof.attack.run import Run
from torchproof.attack.untouched import home, untouched
from torchproof.core import keys
from torchproof.core.checks import check, check_logits, check_weights
from torchproof.core.errors import InputError
from torchproof.core.sites import Keep
from torchproof.core.threats import Relative, Threat
from torchproof.diagnose.joint_ascent import HighestLoss, JointAscent, worst_weights
from torchproof.diagnose.landscape import moved
from torchproof.diagnose.weight_balls import Chosen, ball, chosen

HIGH = "the robust loss is above that of a guess, ln K: it says little about the robust error"


@dataclass(frozen=True)
class Procedure:
    """How flatness is measured; the values of the paper for Linf 8/255.

    average_xi, worst_xi: sizes of the balls (0.5; 0.00075 across networks, 0.003 along a training);
    ball: layer, filter or absolute (a name of BALLS); keep: which parameters move, by default all
    but those of normalisation layers; draws: of v, 0 to leave the average out; starts: of the joint
    ascent, 0 to leave the worst case out; steps: of either ascent; length: of a step in eps;
    eta: of a step in the weights, in lengths of each tensor (of 1 for the absolute ball); restarts:
    of the attack on the inputs; batch: images that share one worst v; slots: images per model call.

    Raises InputError for anything that cannot be meant.
    """

    average_xi: float = 0.5
    worst_xi: float = 0.00075
    ball: str = "layer"
    keep: Keep | None = None
    draws: int = 10
    starts: int = 10
    steps: int = 20
    length: float = 0.007 / (8 / 255)
    eta: float = 0.001
    restarts: int = 1
    batch: int = 128
    seed: int = 0
    slots: int = 128

    def __post_init__(self) -> None:
        check_steps(self.steps)
        for name, least in (("draws", 0), ("starts", 0), ("restarts", 1), ("batch", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} = {value!r}", f"a whole number >= {least}", "correct it")
        for xi in (self.average_xi, self.worst_xi):
            ball(self.ball, xi, _nothing)
        _ = self.search, self.ascent

    @property
    def search(self) -> PGD:
        """The attack on the inputs, at w and at every w + v."""
        return PGD(self.steps, self.length)

    @property
    def ascent(self) -> JointAscent:
        """The joint ascent; its steps in the weights count in radii, eta in lengths of tensors."""
        return JointAscent(self.steps, self.length, stride_of_weights=self.eta / self.worst_xi)

    def run(self, *purpose: int | str) -> Run:
        """How the attacks of this purpose run: their own seed, to the last step."""
        return Run(keys.seed_of(self.seed, *purpose), slots=self.slots, patience=math.inf)


def _nothing(name: str, parameter: nn.Parameter) -> bool:
    return False


@dataclass(frozen=True)
class Flatness:
    """Flatness of one network in nats, lower is flatter; None for what was not asked for.

    threat: None for the clean loss; reference: RLoss(w); error: the share of the n images that are
    misclassified where their loss is highest; drawn: RLoss(w + v) of every draw; average: their
    mean minus the reference; spread: their standard deviation, which on small networks is nearly
    half of the average; worst: worst-case flatness; moved, zero, left_out: names of tensors that
    were perturbed, that are 0 and so have a ball of radius 0, and that are left out; notes: what
    makes the figures hard to read.
    """

    threat: str | None
    ball: str
    n: int
    reference: float
    error: float
    average_xi: float
    drawn: tuple[float, ...]
    average: float | None
    spread: float | None
    worst_xi: float
    worst: float | None
    moved: tuple[str, ...]
    zero: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def flatness(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, how: Procedure = Procedure()
) -> Flatness:
    """Both kinds of flatness of the robust loss within `threat`, or of the clean loss for None.

    x (N, C, H, W) in [0, 1], y (N,): labelled images, 1,000 of the test set in the paper. The
    network is asked in eval mode, and its weights come back bit for bit. Random numbers depend on
    the seed, the names of the tensors and the image alone, so networks of the same shape are
    compared on the same draws. Raises InputError for a network without weights to perturb or with
    weights in shared memory, and for images and labels that fail `check`; ModelError for weights
    or answers that are not finite.
    """
    check(x, y)
    check_weights(model)
    parts = chosen(model, how.keep)
    device = home(model, x.device)
    x, y = x.to(device), y.to(device)
    losses, wrong, classes = _reference(model, x, y, threat, how)
    reference = float(losses.mean())
    drawn = tuple(_drawn(model, x, y, threat, parts, how))
    worst = _worst(model, x, y, threat, parts, how) - reference if how.starts else None
    high = (HIGH,) if reference > math.log(classes) else ()
    return Flatness(
        threat=None if threat is None else str(threat), ball=how.ball, n=len(x),
        reference=reference, error=float(wrong.double().mean()), average_xi=how.average_xi,
        drawn=drawn, average=statistics.fmean(drawn) - reference if drawn else None,
        spread=statistics.stdev(drawn) if len(drawn) > 1 else None, worst_xi=how.worst_xi,
        worst=worst, moved=parts.moved, zero=parts.zero, left_out=parts.left_out,
        notes=parts.notes + high,
    )  # fmt: skip


def highest_losses(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, search: PGD, run: Run,
    restarts: int = 1,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The highest cross-entropy of every image within the threat, (N,) in float64, and the
    perturbation where it was; for None the loss of the images themselves.
    """
    if threat is None:
        return _clean(model, x, y, run)[0], None
    found = Attack(threat, HighestLoss(), search, restarts)(model, x, y, run=run)
    assert isinstance(found.value, Tensor)  # a Threat perturbs images
    return found.score.double().cpu(), found.value


def _clean(model: nn.Module, x: Tensor, y: Tensor, run: Run) -> tuple[Tensor, Tensor, int]:
    """(N,) cross-entropies in float64, (N,) whether the answer is wrong, and K."""
    losses, wrong, classes = [], [], 0
    with torch.no_grad(), untouched(model, run.seed, x.device):
        for rows in torch.split(torch.arange(len(x)), run.slots):
            logits, labels = model(x[rows]), y[rows]
            check_logits(logits, len(rows))
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            losses.append(F.cross_entropy(logits, labels, reduction="none").double().cpu())
            wrong.append((logits.argmax(1) != labels).cpu())
            classes = logits.shape[1]
    return torch.cat(losses), torch.cat(wrong), classes


def _reference(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, how: Procedure
) -> tuple[Tensor, Tensor, int]:
    run = how.run("inputs")
    if threat is None:
        return _clean(model, x, y, run)
    losses, value = highest_losses(model, x, y, threat, how.search, run, how.restarts)
    assert value is not None  # there is a threat
    _, wrong, classes = _clean(model, x + value.to(x), y, run)
    return losses, wrong, classes


def _drawn(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, parts: Chosen, how: Procedure
) -> Iterator[float]:
    """RLoss(w + v) for every draw of v, uniform on the sphere of every tensor's ball; inputs start
    from the same points each time, and are attacked anew on every network.
    """
    if not how.draws:
        return
    within: Relative = ball(how.ball, how.average_xi, parts)
    allowed, run = within.set(model, x), how.run("inputs")
    for number in range(how.draws):
        shift = allowed.sphere(keys.mix(how.seed, "draw", number).to(x.device))
        with moved(model, {name: v[0] for name, v in shift.items()}, 1.0):
            losses, _ = highest_losses(model, x, y, threat, how.search, run, how.restarts)
        yield float(losses.mean())


def _worst(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat | None, parts: Chosen, how: Procedure
) -> float:
    """The mean over batches of the highest mean loss that either attack found."""
    within, run, total = ball(how.ball, how.worst_xi, parts), how.run("inputs"), 0.0
    for first in range(0, len(x), how.batch):
        ids = torch.arange(first, min(first + how.batch, len(x)))
        own, labels, there = x[ids], y[ids], Run(run.seed, ids, run.slots, math.inf)
        start = how.run("worst", first)
        shift, loss = worst_weights(
            model, own, labels, threat, within, how.ascent, how.starts, start
        )
        with moved(model, shift, 1.0):
            again, _ = highest_losses(model, own, labels, threat, how.search, there, how.restarts)
        total += max(loss, float(again.mean())) * len(ids)
    return total / len(x)
