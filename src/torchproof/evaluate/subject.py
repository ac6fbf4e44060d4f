"""What is evaluated: a model and the examples of this run, and how the model is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torchproof.attack.untouched import home, precision, untouched
from torchproof.core import keys
from torchproof.core.checks import check, check_labels, check_logits, check_weights
from torchproof.core.errors import InputError, ModelError
from torchproof.core.fingerprints import data_sha256
from torchproof.core.objectives import margin
from torchproof.core.rejection import Rejecting
from torchproof.core.sites import Model


@dataclass(frozen=True)
class Examples:
    """Images x (N, C, H, W), labels y (N,), ids (N,): those of one shard.

    `sha256` and `every`, the ids of all examples (total,), speak of all shards together; `shard` is
    "i/k", `rounded` how far the images were moved to become 8-bit ones (0 where they were not).
    In a targeted evaluation `target` (N,) is the class each is to be moved to, `aim` says so in
    words, and `left_out` counts the examples, of all shards, that are of their target class.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    name: str
    sha256: str
    every: Tensor
    shard: str = "0/1"
    rounded: float = 0.0
    target: Tensor | None = None
    aim: str | None = None
    left_out: int = 0

    @property
    def total(self) -> int:
        """The number of examples of all shards together."""
        return len(self.every)

    def first(self, count: int) -> list[int]:
        """The rows of this shard among the `count` examples, of all shards together, that come
        first in an order keyed by their ids: a fixed sample, whatever the shards.
        """
        order = keys.mix("sample", self.every).sort().values
        bar = order[min(count, self.total) - 1]
        rows: list[int] = (keys.mix("sample", self.ids) <= bar).nonzero()[:, 0].tolist()
        return rows


def examples_of(
    data: Any, n: int | None, ids: Tensor | None, name: str | None, sha256: str | None
) -> Examples:
    """The first n examples of (x, y), or of an object with .x and .y (and .name, .sha256, .take).

    Raises InputError for data that `torchproof.core.checks.check` refuses, n out of range, ids that
    are not one distinct integer per example.
    """
    if isinstance(data, (tuple, list)) and len(data) == 2:
        x, y = data
    elif hasattr(data, "x") and hasattr(data, "y"):
        x, y = data.x, data.y
    else:
        remedy = "pass evaluate(model, (x, y), ...)"
        raise InputError(f"data of type {type(data).__name__}", "(x, y), or .x and .y", remedy)
    check(x, y)
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(x)):
        remedy = "ask for fewer examples, or leave n out"
        raise InputError(f"n = {n!r}", f"a whole number from 1 to {len(x)}", remedy)
    if n is not None and n < len(x):
        taken = data.take(n) if hasattr(data, "take") else (x[:n], y[:n])
        taken_ids = None if ids is None else ids[:n]
        # a hash that was given is that of all examples
        return examples_of(taken, None, taken_ids, name or getattr(data, "name", None), None)
    digest = sha256 or getattr(data, "sha256", None) or data_sha256(x, y)
    label = name or getattr(data, "name", None) or "unnamed"
    numbers = _checked_ids(ids, len(x))
    return Examples(x, y, numbers, label, digest, numbers)


def _checked_ids(ids: Tensor | None, count: int) -> Tensor:
    if ids is None:
        return torch.arange(count)
    good = ids.dtype == torch.int64 and tuple(ids.shape) == (count,)
    if not good or int(ids.min()) < 0 or len(set(ids.tolist())) < count:
        given = f"ids of {ids.dtype}, shape {tuple(ids.shape)}"
        raise InputError(
            given, f"{count} different int64 numbers >= 0", "leave ids out to number by position"
        )
    return ids.cpu()


def shard_of(text: str) -> tuple[int, int]:
    """i and k of "i/k"; raises InputError for anything else."""
    first, slash, count = str(text).partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        given, expected = f"shard {text!r}", "i/k with 0 <= i < k"
        raise InputError(given, expected, "write 0/2 and 1/2 for the two halves")
    return int(first), int(count)


def sharded(examples: Examples, shard: str | None) -> Examples:
    """The examples i, i + k, i + 2k, ... of shard "i/k"; raises InputError for anything else."""
    if shard is None:
        return examples
    i, k = shard_of(shard)
    if i >= examples.total:
        remedy = "use fewer shards"
        raise InputError(
            f"shard {shard} of {examples.total} examples", "at least one in it", remedy
        )
    parts = {f: getattr(examples, f) for f in ("x", "y", "ids", "target")}
    mine = {f: part[i::k] for f, part in parts.items() if part is not None}
    return replace(examples, shard=f"{i}/{k}", **mine)


def on_bytes(x: Tensor) -> Tensor:
    """The nearest images whose values are multiples of 1/255."""
    return (x * 255).round() / 255


def measured(examples: Examples) -> Examples:
    """Notes how far the images of all shards are from 8-bit ones (0 for bytes stored as floats)."""
    moved = float((on_bytes(examples.x) - examples.x).abs().max())
    return replace(examples, rounded=moved if moved > 1e-6 else 0.0)


@dataclass(frozen=True)
class Subject:
    """The model and the examples; x is in the working type `dtype`, which is at least float32.

    classes: K, how many the model knows; rejecting: how a model that may reject is judged. Its
    answer is then K for a rejected input.
    """

    model: Model
    examples: Examples
    device: torch.device
    dtype: torch.dtype
    seed: int
    eight_bit: bool
    classes: int = 0
    rejecting: Rejecting | None = None

    @classmethod
    def of(
        cls, model: Model, examples: Examples, seed: int, eight_bit: bool,
        rejecting: Rejecting | None = None,
    ) -> Subject:  # fmt: skip
        """Checks weights and a first answer; raises InputError and ModelError."""
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise InputError(
                f"seed = {seed!r}", "a whole number from 0 to 2**63 - 1", "pass seed=0"
            )
        check_weights(model)
        dtype = working(model, examples.x)
        x = examples.x.detach().to(dtype)
        x = x.clone() if x.is_inference() else x
        x = on_bytes(x) if eight_bit else x
        given = replace(examples, x=x)
        subject = cls(model, given, home(model), dtype, seed, eight_bit, 0, rejecting)
        with subject.asked("first") as ask:
            classes = _width(ask, x[:2].to(subject.device)) - (rejecting is not None)
        check_labels(examples.y, len(examples.y), classes)
        aim = examples.target
        if aim is not None and int(aim.max()) >= classes:
            remedy = "count classes from 0"
            raise InputError(f"target = {int(aim.max())}", f"classes 0 to {classes - 1}", remedy)
        return replace(subject, classes=classes)

    def __len__(self) -> int:
        return len(self.examples.ids)

    @contextmanager
    def asked(self, purpose: str) -> Iterator[Callable[[Tensor], Tensor]]:
        """The model as a function to checked logits, outside autocast, left as it was; a model that
        may reject has one more, see `Rejecting.as_classes`.
        """

        def answer(x: Tensor) -> Tensor:
            out: Any = self.model(x)
            if self.rejecting is None and isinstance(out, Mapping) and "reject" in out:
                expected, remedy = "logits alone", "pass rejecting=calibrated(...) to `evaluate`"
                raise ModelError("a model that may reject its input", expected, remedy)
            logits = out if self.rejecting is None else self.rejecting.as_classes(out)
            check_logits(logits, len(x))
            return logits.to(torch.promote_types(logits.dtype, torch.float32))

        seed = keys.seed_of(self.seed, purpose)
        with (
            untouched(self.model, seed, self.device),
            torch.autocast(self.device.type, enabled=False),
        ):
            yield answer

    def won(self, rows: list[int], answer: Tensor) -> Tensor:
        """(R,) bool: is this the answer (R,) that the adversary wants for the given rows?"""
        target, y = self.examples.target, self.examples.y
        if target is not None:
            return answer == target[rows].to(answer.device)
        wrong = answer != y[torch.tensor(rows, device=y.device)].to(answer.device)
        return wrong if self.rejecting is None else wrong & (answer != self.classes)

    def gap(self, rows: list[int], z: Tensor) -> Tensor:
        """(R,) how far logits z (R, K) are past the boundary that counts, below 0 on this side."""
        target, y = self.examples.target, self.examples.y
        if target is not None:
            return -margin(z, target[rows].to(z.device))
        label = y[torch.tensor(rows, device=y.device)].to(z.device)
        if self.rejecting is None:
            return margin(z, label)
        known = z[:, :-1]
        return torch.minimum(margin(known, label), known.amax(1) - z[:, -1])

    def rows(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Images and labels of the given rows, on the model's device."""
        index = torch.tensor(rows, device=self.examples.x.device)
        x, y = self.examples.x[index], self.examples.y[index.to(self.examples.y.device)]
        return x.to(self.device), y.to(self.device)


def _width(ask: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """How many logits the model answers with, about one or two images x (B, C, H, W).

    Raises ModelError for a model that fails for one image and not for two, because batches shrink
    to one when few examples are left, and for one that writes to the images it is given.
    """
    given, x = x, x.clone()
    try:
        alone = ask(x[:1]).shape[1]
    except Exception as error:
        both = ask(x[[0, -1]])  # what fails for two images as well says so itself
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _needs_two(reason, both.shape[1]) from error
    width = alone if len(x) == 1 else ask(x).shape[1]
    if width != alone:
        raise _needs_two(f"{alone} logits", width)
    if not torch.equal(given, x):
        raise ModelError(
            "a model that changes the images it is given",
            "a model that leaves its input as it is",
            "write x = x - mean where it says x -= mean or x.sub_(mean)",
        )
    return width


def _needs_two(reason: str, classes: int) -> ModelError:
    return ModelError(
        f"a model that answers two images, and fails for one ({reason})",
        f"logits of shape (1, {classes}) for one image",
        "look for squeeze() and for statistics of the batch; or wrap it in a function that repeats "
        "a single image and returns the first row",
    )


def working(model: Model, x: Tensor) -> torch.dtype:
    """The type of perturbations: the model's (that of x for a function), at least float32."""
    return torch.promote_types(precision(model) or x.dtype, torch.float32)
