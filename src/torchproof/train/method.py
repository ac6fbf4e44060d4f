"""What a training method is: it prepares a batch, all randomness included, and then answers with
losses.

The loop descends on the mean of those losses over the global batch; it applies `Batch.shift` and
`Batch.weight` itself, so that no method needs to know about another one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import forked
from torchproof.core import keys
from torchproof.core.errors import InputError, ModelError
from torchproof.train import distributed
from torchproof.train.rows import Rows


@dataclass(frozen=True)
class Batch:
    """A mini-batch on its way through a method; a method or wrapper fills its own field and leaves
    the rest.

    x: (B, C, H, W) in [0, 1]; y: (B,) int64; ids: (B,) int64 on the CPU, rows of the data set;
    progress: the share of the training that is over, in [0, 1); seed: of this step, the same in
    every process; adv: (B, C, H, W) adversarial inputs; shift: parameter name -> perturbation of
    that weight; weight: (B,) factors of the losses; spent: forward and backward samples that
    `prepare` cost.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    progress: float
    seed: int
    adv: Tensor | None = None
    shift: dict[str, Tensor] | None = None
    weight: Tensor | None = None
    spent: tuple[int, int] = (0, 0)

    def parts(self, size: int) -> list[Batch]:
        """The batch in parts of at most `size` examples; itself where that is enough."""
        if len(self.x) <= size:
            return [self]
        rows = [slice(i, i + size) for i in range(0, len(self.x), size)]
        names = [n for n in ("x", "y", "ids", "adv", "weight") if getattr(self, n) is not None]
        cut: list[dict[str, Any]] = [{n: getattr(self, n)[r] for n in names} for r in rows]
        return [replace(self, **fields) for fields in cut]


def joined(parts: list[Batch]) -> Batch:
    """The parts of a batch as one again.

    Raises InputError for perturbations of the weights, which are found on a whole batch.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    if any(part.shift is not None for part in parts):
        raise InputError(
            "too little memory for the batch of a method that perturbs weights",
            "a batch that fits into memory as a whole",
            "train with a smaller batch_size",
        )
    names = [n for n in ("x", "y", "ids", "adv", "weight") if getattr(first, n) is not None]
    whole: dict[str, Any] = {n: torch.cat([getattr(part, n) for part in parts]) for n in names}
    forward, backward = (sum(part.spent[way] for part in parts) for way in (0, 1))
    return replace(first, **whole, spent=(forward, backward))


class Method(ABC):
    """How a network is trained. Concrete methods are frozen dataclasses; variants wrap.

    `memory` names the attributes that live from step to step (tensors, or what JSON can hold):
    they are part of a checkpoint.
    """

    memory: ClassVar[tuple[str, ...]] = ()

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

    @property
    def passes(self) -> int:
        """Forward passes per example in `losses`; there are as many backward passes."""
        return 1


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
        if isinstance(inner, Method):
            yield from layers(inner, f"{path}{name}.")
