"""Neural Cleanse: the smallest stamp that turns all images into a class, for every class.

Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao 2019 (IEEE S&P): for each class t,

    A(x, m, p) = (1 - m) x + m p
    min_{m, p} CE(f(A(x, m, p)), t) + weight |m|_1,  m and p in [0, 1]

with a weight that follows the success rate; then a class whose mask is smaller than those of the
others by more than two median absolute deviations is a backdoor's. Schedule and defaults are those
of the authors' published program. It is the slow classic: thousands of gradients per class.
Deviation: all classes are searched side by side, in one batch, which changes nothing but the time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.attack.untouched import home, untouched
from torchproof.core import keys
from torchproof.core.checks import check_images, check_logits
from torchproof.core.errors import InputError

CONSISTENT = 1.4826
"""Times the median absolute deviation: the standard deviation of normal numbers."""
OUTLIER = 2.0

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Search:
    """How a mask is looked for. A round is `batches` mini-batches of Adam at rate lr; the weight is
    changed after `patience` rounds on one side of the success rate `enough`; after five times as
    many rounds without a smaller mask, or after `rounds`, the search ends.
    """

    rounds: int = 1000
    batches: int = 31
    batch_size: int = 32
    lr: float = 0.1
    enough: float = 0.99
    weight: float = 1e-3
    patience: int = 5

    def __post_init__(self) -> None:
        counts = (self.rounds, self.batches, self.batch_size, self.patience)
        if min(counts) < 1 or self.lr <= 0 or self.weight <= 0 or not 0 < self.enough <= 1:
            raise InputError(f"{self}", "counts >= 1, lr and weight > 0, enough in (0, 1]", "see "
                             "the defaults")  # fmt: skip


@dataclass(frozen=True)
class Balance:
    """The weight of the mask's size, 0 until the search has been successful for `patience` rounds.

    above, below: rounds in a row on either side of success; raised, lowered: has it ever been.
    """

    weight: float = 0.0
    above: int = 0
    below: int = 0
    raised: bool = False
    lowered: bool = False

    def after(self, successful: bool, search: Search) -> Balance:
        """After one more round: twice the weight, or divided by 2^1.5, when patience is over."""
        above = self.above + 1 if successful else 0
        below = 0 if successful else self.below + 1
        if self.weight == 0:
            start = above >= search.patience
            return Balance(search.weight) if start else Balance(above=above)
        if above >= search.patience:
            return replace(self, weight=2 * self.weight, above=0, below=0, raised=True)
        if below >= search.patience:
            return replace(self, weight=self.weight / 2**1.5, above=0, below=0, lowered=True)
        return replace(self, above=above, below=below)


@dataclass(frozen=True)
class Reversed:
    """What leads to one class: mask (H, W) and pattern (C, H, W) in [0, 1]. success: of the round
    that they are from; passes: samples that went forward, and backward, through the network.
    """

    target: int
    mask: Tensor
    pattern: Tensor
    success: float
    rounds: int
    passes: int

    @property
    def size(self) -> float:
        """|m|_1, in pixels."""
        return float(self.mask.sum())


@dataclass(frozen=True)
class Cleansed:
    """The verdict on one network. sizes: |m|_1 by class; success: of each mask; index: how many
    deviations the smallest mask lies below the median; flagged: classes with more than two, the
    smallest mask first. passes: samples forward, and as many backward; seconds: of the processor.
    """

    sizes: tuple[float, ...]
    success: tuple[float, ...]
    index: float
    flagged: tuple[int, ...]
    passes: int
    seconds: float

    @property
    def smallest(self) -> int:
        """The class of the smallest mask: what the method suspects first."""
        return self.sizes.index(min(self.sizes))


def neural_cleanse(
    model: Model, x: Tensor, search: Search = Search(), *, seed: int = 0
) -> Cleansed:
    """Looks for a backdoor in `model` with clean images x (N, C, H, W) in [0, 1], without labels.

    Raises InputError for images that cannot be meant and for fewer than three classes, ModelError
    for answers that are no finite logits.
    """
    before = time.process_time()
    found = reverse(model, x, search=search, seed=seed)
    return judged(found, time.process_time() - before)


def judged(found: Sequence[Reversed], seconds: float) -> Cleansed:
    """The verdict from the masks of all classes, in their order; raises InputError as `anomaly`."""
    sizes = tuple(one.size for one in found)
    indices = anomaly(sizes)
    flagged = [k for k, index in enumerate(indices) if index > OUTLIER]
    return Cleansed(
        sizes=sizes,
        success=tuple(one.success for one in found),
        index=max(indices),
        flagged=tuple(sorted(flagged, key=lambda k: sizes[k])),
        passes=sum(one.passes for one in found),
        seconds=seconds,
    )


def anomaly(sizes: Sequence[float]) -> tuple[float, ...]:
    """How many deviations each size lies below the median of all; negative above it.

    Raises InputError for fewer than three: they have no outlier.
    """
    if len(sizes) < 3:
        remedy = "use another detector for networks of two classes"
        raise InputError(f"{len(sizes)} classes", "at least three", remedy)
    middle = statistics.median(sizes)
    spread = CONSISTENT * statistics.median(abs(size - middle) for size in sizes)
    # half of the sizes being equal leaves no scale: a pixel then
    return tuple((middle - size) / (spread or 1.0) for size in sizes)


def reverse(
    model: Model,
    x: Tensor,
    targets: Sequence[int] | None = None,
    search: Search = Search(),
    *,
    seed: int = 0,
) -> tuple[Reversed, ...]:
    """For each target, by default every class, the smallest mask found with which at least the
    share `enough` of images goes there; where none is, the last one. Raises as `neural_cleanse`.
    """
    check_images(x)
    with untouched(model, seed):
        wanted = list(range(_classes(model, x)) if targets is None else targets)
        hidden = _start(x.to(home(model, x.device)), wanted, seed)
        adam = torch.optim.Adam(hidden, search.lr, betas=(0.5, 0.9))
        lines = [_Line(target) for target in wanted]
        for number in range(search.rounds):
            live = [i for i, line in enumerate(lines) if not line.over(search)]
            if not live:
                break
            rows = _rows(len(x), search, seed, number)
            asked = sum(len(r) for r in rows)
            hits = torch.zeros(len(live), dtype=torch.int64)
            for r in rows:
                hits += _step(model, x[r], hidden, adam, [lines[i] for i in live], live)
            for i, share in zip(live, (hits / asked).tolist(), strict=True):
                mask, pattern = (_unit(h.detach()[i]).cpu() for h in hidden)
                lines[i].take(Reversed(lines[i].target, mask, pattern, share, 1, asked), search)
    return tuple(line.result() for line in lines)


@dataclass
class _Line:
    """The search for one target: the weight, the best mask so far, rounds without a better one."""

    target: int
    balance: Balance = Balance()
    best: Reversed | None = None
    last: Reversed | None = None
    idle: int = 0
    rounds: int = 0
    passes: int = 0

    def over(self, search: Search) -> bool:
        tried = self.balance.raised and self.balance.lowered
        return tried and self.idle >= 5 * search.patience

    def take(self, now: Reversed, search: Search) -> None:
        """One more round."""
        successful = now.success >= search.enough
        better = successful and (self.best is None or now.size < self.best.size)
        self.idle = 0 if better or self.best is None else self.idle + 1
        self.best, self.last = now if better else self.best, now
        self.rounds, self.passes = self.rounds + 1, self.passes + now.passes
        self.balance = self.balance.after(successful, search)

    def result(self) -> Reversed:
        found = self.best or self.last
        assert found is not None, "there is at least one round"
        return replace(found, rounds=self.rounds, passes=self.passes)


def _classes(model: Model, x: Tensor) -> int:
    with torch.no_grad():
        logits = model(x[:1].to(home(model, x.device)))
    check_logits(logits, 1)
    return int(logits.shape[1])


def _start(x: Tensor, targets: Sequence[int], seed: int) -> list[Tensor]:
    """What `_unit` makes random masks (T, H, W) and patterns (T, C, H, W) of, uniform in [0, 1]."""
    key = keys.mix(seed, "neural cleanse", torch.tensor(targets, device=x.device))
    shapes = (tuple(x.shape[2:]), tuple(x.shape[1:]))
    drawn = (keys.uniform(key, 0, shape, stream) for stream, shape in enumerate(shapes))
    return [(2 * u - 1).atanh().to(x.dtype).requires_grad_() for u in drawn]


def _unit(hidden: Tensor) -> Tensor:
    """Into [0, 1]."""
    return hidden.tanh() / 2 + 0.5


def _rows(n: int, search: Search, seed: int, number: int) -> list[Tensor]:
    """The rows of each mini-batch of a round, which is over early where images run out."""
    order = keys.permutation(n, seed, "round", number)
    return list(torch.split(order[: search.batches * search.batch_size], search.batch_size))


def _step(
    model: Model, x: Tensor, hidden: list[Tensor], adam: torch.optim.Adam,
    lines: Sequence[_Line], live: Sequence[int],
) -> Tensor:  # fmt: skip
    """One step of all live searches on one mini-batch; of each, how many of its images went to the
    target before it. The others get gradients of zero: what they have found is kept elsewhere.
    """
    at = hidden[0].device
    x, chosen = x.to(at), torch.tensor(live, device=at)
    mask, pattern = (_unit(h[chosen])[:, None] for h in hidden)  # (T, 1, H, W), (T, 1, C, H, W)
    mask = mask[:, :, None]
    stamped = ((1 - mask) * x + mask * pattern).flatten(0, 1)
    logits = model(stamped)
    check_logits(logits.detach(), len(stamped))
    aim = torch.tensor([line.target for line in lines], device=at).repeat_interleave(len(x))
    loss = F.cross_entropy(logits.float(), aim, reduction="sum") / len(x)
    weight = mask.new_tensor([line.balance.weight for line in lines])
    total = loss + (weight * mask.flatten(1).sum(1)).sum()
    for h, gradient in zip(hidden, torch.autograd.grad(total, hidden), strict=True):
        h.grad = gradient
    adam.step()
    return (logits.detach().argmax(1) == aim).reshape(len(lines), -1).sum(1).cpu()
