"""What a training method is: it prepares a batch, all randomness included, and then answers with
losses.

The loop descends on the mean of those losses over the global batch; it applies `Batch.shift` and
`Batch.weight` itself, so that no method needs to know about another one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.errors import InputError, ModelError
from torchproof.train import distributed
from torchproof.train.rows import Rows

if TYPE_CHECKING:
    from torchproof.train.average import Average


@dataclass(frozen=True)
class Batch:
    """A mini-batch on its way through a method; a method or wrapper fills its own field and leaves
    the rest.

    x: (B, C, H, W) in [0, 1]; y: (B,) int64; ids: (B,) int64 on the CPU, rows of the data set;
    progress: the share of the training that is over, in [0, 1); seed: of this step, the same in
    every process; smoothing: of the labels, for `cross_entropy`; patience: wrong answers that an
    image may give before an attack on it ends; adv: (B, C, H, W) adversarial inputs; shift:
    parameter name -> perturbation of that weight; weight: (B,) factors of the losses; pairs: (B,)
    for each row the row that it is mixed with; drawn: what else was drawn or worked out beforehand,
    rows (B, ...); parts: the batch as each part of a sum prepared it; noted: figures worth
    watching, (B,) each, whose means go into the epoch's record; taken: (B,) gradients that the
    inner attack took on each image, without those of other parts and wrappers; spent: forward and
    backward samples that `prepare` cost; place: (B,) the rows' places in the global batch, for
    `places`.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    progress: float
    seed: int
    smoothing: float = 0.0
    patience: float = math.inf
    adv: Tensor | None = None
    shift: dict[str, Tensor] | None = None
    weight: Tensor | None = None
    pairs: Tensor | None = None
    drawn: dict[str, Tensor] = field(default_factory=dict)
    parts: tuple[Batch, ...] = ()
    noted: dict[str, Tensor] = field(default_factory=dict)
    taken: Tensor | None = None
    spent: tuple[int, int] = (0, 0)
    place: Tensor | None = None

    @property
    def places(self) -> Tensor:
        """(B,) int64 on the CPU: where the rows stand in the global batch."""
        return torch.arange(len(self.x)) if self.place is None else self.place

    @property
    def entire(self) -> bool:
        """Does it hold what was found on the batch as a whole?"""
        return self.shift is not None or self.pairs is not None or any(p.entire for p in self.parts)

    def with_note(self, **figures: Tensor | float) -> Batch:
        """The batch with more figures, (B,) each or one number for all rows."""
        new = {k: torch.as_tensor(v, device=self.x.device) for k, v in figures.items()}
        rows = {k: v.detach().expand(len(self.x)) for k, v in new.items()}
        return replace(self, noted={**self.noted, **rows})

    def split(self, size: int) -> list[Batch]:
        """The batch in pieces of at most `size` examples; itself where that is enough.

        Raises InputError for mixed rows, which cannot be separated.
        """
        if len(self.x) <= size:
            return [self]
        if self.pairs is not None or any(p.pairs is not None for p in self.parts):
            raise _too_little("mixes the rows of a batch")
        return [self._rows(slice(i, i + size)) for i in range(0, len(self.x), size)]

    def _rows(self, rows: slice) -> Batch:
        own: dict[str, Any] = {n: v[rows] for n in _ROWS if (v := getattr(self, n)) is not None}
        for name in _TABLES:
            own[name] = {k: v[rows] for k, v in getattr(self, name).items()}
        return replace(self, **own, parts=tuple(part._rows(rows) for part in self.parts))


_ROWS, _TABLES = ("x", "y", "ids", "adv", "weight", "place", "taken"), ("drawn", "noted")


def _too_little(what: str) -> InputError:
    return InputError(
        f"too little memory for the batch of a method that {what}",
        "a batch that fits into memory as a whole",
        "train with a smaller batch_size",
    )


def joined(pieces: list[Batch]) -> Batch:
    """The pieces of a batch as one again.

    Raises InputError for what is found on a whole batch: perturbed weights, mixed rows.
    """
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if any(piece.entire for piece in pieces):
        raise _too_little("perturbs weights or mixes the rows of a batch")
    names = [n for n in _ROWS if getattr(first, n) is not None]
    whole: dict[str, Any] = {n: torch.cat([getattr(p, n) for p in pieces]) for n in names}
    for name in _TABLES:
        keys_ = getattr(first, name)
        whole[name] = {k: torch.cat([getattr(p, name)[k] for p in pieces]) for k in keys_}
    if first.adv is not None and first.adv.requires_grad:  # asked for as a leaf
        whole["adv"] = whole["adv"].detach().requires_grad_()
    forward, backward = (sum(p.spent[way] for p in pieces) for way in (0, 1))
    parts = tuple(joined(list(same)) for same in zip(*(p.parts for p in pieces), strict=True))
    return replace(first, **whole, parts=parts, spent=(forward, backward))


class Method(ABC):
    """How a network is trained. Concrete methods are frozen dataclasses; variants wrap.

    `memory` names the attributes that live from step to step (tensors, or what JSON can hold):
    they are part of a checkpoint. `outermost` methods concern the whole run and are wrapped by
    nothing but their like. `label`: what the card of every network trained so has to say.
    `regulariser`: is there no loss about labels in it, so that it needs one beside it in a sum?
    `labelled`: do its losses look at the labels of the batch?
    """

    memory: ClassVar[tuple[str, ...]] = ()
    label: ClassVar[str] = ""
    outermost: ClassVar[bool] = False
    regulariser: ClassVar[bool] = False
    labelled: ClassVar[bool] = True

    def accept(self, augmented: bool) -> None:  # noqa: B027
        """Called before a run; raises InputError for images that it cannot go with."""

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:  # noqa: B027
        """Called before every epoch, for methods that look at all the data; leaves the model as it
        was.
        """

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch with whatever the losses need: this may attack, and draws all the randomness.

        Leaves parameters, buffers, .grad, requires_grad, modes and global random state as they
        were. Random numbers are keyed by batch.seed and batch.ids.
        """
        return batch

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(B,) losses to descend, with their graph: a function of (model, batch) alone.

        The network's own randomness (dropout) is that of `drawn(batch)`, in which losses are
        always read.
        """

    def learn(self, batch: Batch) -> None:  # noqa: B027
        """Called with the prepared batch after the gradients of a step, before the weights move;
        `batch.adv.grad` is there where `prepare` asked for it. For methods with a memory.
        """

    @property
    def passes(self) -> int:
        """Forward passes per example in `losses`; there are as many backward passes."""
        return 1

    @property
    def replays(self) -> int:
        """How many steps are taken on each batch."""
        return 1

    @property
    def average(self) -> Average | None:
        """How the weights of the run are averaged, None for not at all."""
        return None


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """(B,) cross-entropy with the batch's labels, smoothed as the batch says."""
    return F.cross_entropy(logits, batch.y, reduction="none", label_smoothing=batch.smoothing)


def answers(model: Any, x: Tensor) -> Tensor:
    """Logits (B, K) in at least float32, whatever autocast makes of the network."""
    out: Tensor = model(x)
    return out.float() if out.dtype in (torch.float16, torch.bfloat16) else out


@contextmanager
def drawn(batch: Batch) -> Iterator[None]:
    """The random state of a step's training pass: every pass on this batch drops out the same
    units.

    Autocast's copies of the weights are dropped on both sides: they may be older than the weights,
    or come from a pass without gradients.
    """
    torch.clear_autocast_cache()
    with forked(keys.seed_of(batch.seed, "model", distributed.rank()), batch.x.device):
        yield
    torch.clear_autocast_cache()


def read(method: Method, model: nn.Module, batch: Batch) -> Tensor:
    """(B,) weighted losses, at least float32; to be called within `drawn(batch)`.

    Raises ModelError for a method that does not answer with one loss per example.
    """
    losses = method.losses(model, batch)
    if losses.shape != batch.y.shape:
        raise ModelError(
            f"losses of shape {tuple(losses.shape)} from {type(method).__name__}",
            f"one loss per example, shape {tuple(batch.y.shape)}",
            "reduce over classes and pixels, but not over the batch",
        )
    losses = losses.float() if losses.dtype in (torch.float16, torch.bfloat16) else losses
    return losses if batch.weight is None else losses * batch.weight


def layers(method: Method, path: str = "") -> Iterator[tuple[str, Method]]:
    """A method and those it wraps, each under its path of attributes."""
    yield path, method
    for name, inner in vars(method).items():
        many = inner if isinstance(inner, tuple) else (inner,)
        for number, part in enumerate(many):
            if isinstance(part, Method):
                place = f"{name}.{number}" if isinstance(inner, tuple) else name
                yield from layers(part, f"{path}{place}.")
