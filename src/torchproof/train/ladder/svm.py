"""LADDER's attention SVM: one linear classifier per pair of classes, on latents that an attention
weighs (Zhou, Tsang and Yin 2022).

    a(z) = tanh(W_a z + b_a),   beta(z) = exp(softmax(a(z))),   score = w . (beta(z) * z) + b
    loss = C mean(max(0, 1 - sign * score)) + mean_j w_j^2

with sign -1 for class s and 1 for class t > s. Gradients are written out: 45 pairs are 120,000
steps on one example each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from torchproof.core import keys
from torchproof.core.errors import InputError, unknown


class Attention(NamedTuple):
    """How beta is made from p = softmax(a), and its derivative, in terms of (p, beta, D)."""

    of: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


ATTENTIONS: dict[str, Attention] = {
    # the paper's: beta is almost 1 everywhere, see `interval`
    "paper": Attention(torch.exp, torch.exp),
    # ours: beta of mean 1, which can do something
    "scaled": Attention(lambda p: p.shape[-1] * p, lambda p: torch.full_like(p, p.shape[-1])),
}


def interval(size: int) -> tuple[float, float]:
    """The least and largest entry that beta = exp(softmax(tanh(.))) can have in `size` dimensions.

    >>> tuple(round(v, 6) for v in interval(500))
    (1.000271, 1.014699)
    """
    low, high = math.exp(-1), math.exp(1)
    rest = size - 1
    return math.exp(low / (low + rest * high)), math.exp(high / (high + rest * low))


@dataclass(frozen=True)
class Recipe:
    """How a pair's SVM is trained: n latents of each class, two thirds of them to train on; SGD on
    one example at a time. Raises InputError, UnknownName.
    """

    n: int = 200
    hinge: float = 0.01
    lr: float = 0.01
    epochs: int = 10
    attention: str = "paper"

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS:
            raise unknown("attention", self.attention, ATTENTIONS)
        if self.n < 3 or self.epochs < 1 or not (self.hinge > 0 and self.lr > 0):
            given = f"n = {self.n}, hinge = {self.hinge}, lr = {self.lr}, epochs = {self.epochs}"
            raise InputError(given, "n >= 3, epochs >= 1, hinge and lr > 0", "correct the value")


@dataclass(frozen=True)
class SVM:
    """One pair's: attention (D, D) and its bias (D,), w (D,), b () and how beta is made."""

    attention: Tensor
    attention_bias: Tensor
    w: Tensor
    b: Tensor
    kind: str = "paper"

    def softmax(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """a(z) and softmax(a(z)), (N, D) each."""
        a = torch.addmm(self.attention_bias, z, self.attention.T).tanh_()
        return a, a.softmax(1)

    def beta(self, z: Tensor) -> Tensor:
        """beta(z): (N, D) for latents z (N, D)."""
        return ATTENTIONS[self.kind].of(self.softmax(z)[1])

    def score(self, z: Tensor) -> Tensor:
        """(N,), above 0 for class t."""
        return (self.beta(z) * z) @ self.w + self.b


def descend(svm: SVM, z: Tensor, sign: Tensor, hinge: float, lr: float) -> None:
    """One step of SGD on the loss of z (N, D) with signs (N,), in place."""
    kind = ATTENTIONS[svm.kind]
    a, p = svm.softmax(z)
    beta = kind.of(p)
    u = beta * z
    score = u @ svm.w + svm.b
    push = torch.where(sign * score < 1, -hinge / len(z) * sign, 0.0)
    if bool(push.any()):
        to_p = push[:, None] * svm.w * z * kind.slope(p)
        to_a = p * (to_p - (p * to_p).sum(1, keepdim=True))
        to_q = to_a * (1 - a * a)
        step = push @ u
        svm.attention.addmm_(to_q.T, z, alpha=-lr)
        svm.attention_bias.sub_(to_q.sum(0), alpha=lr)
        svm.b.sub_(push.sum(), alpha=lr)
        svm.w.mul_(1 - 2 * lr / len(svm.w)).sub_(step, alpha=lr)
    else:
        svm.w.mul_(1 - 2 * lr / len(svm.w))


def fresh(size: int, key: Tensor, kind: str, dtype: torch.dtype) -> SVM:
    """Weights drawn evenly from +-1 / sqrt(D), as torch's layers start."""
    reach = size**-0.5
    draw = keys.uniform(key, 0, (size + 2, size), dtype=dtype)[0].mul_(2 * reach).sub_(reach)
    last = keys.uniform(key, 1, (), dtype=dtype)[0].mul(2 * reach).sub(reach)
    return SVM(draw[:size].clone(), draw[size].clone(), draw[size + 1].clone(), last, kind)


@dataclass(frozen=True)
class Pairs:
    """The SVMs of all pairs s < t: pairs (P, 2), attention (P, D, D), attention_bias (P, D), w
    (P, D), b (P,), accuracy (P,) on held-out latents.
    """

    pairs: Tensor
    attention: Tensor
    attention_bias: Tensor
    w: Tensor
    b: Tensor
    accuracy: Tensor
    kind: str

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def classes(self) -> list[int]:
        return sorted(set(self.pairs.flatten().tolist()))

    def svm(self, row: int) -> SVM:
        """That of one pair."""
        attention, bias = self.attention[row], self.attention_bias[row]
        return SVM(attention, bias, self.w[row], self.b[row], self.kind)


def train_pairs(z: Tensor, y: Tensor, recipe: Recipe = Recipe(), seed: int = 0) -> Pairs:
    """The SVMs of all pairs of the classes among y (N,), on latents z (N, D).

    Of each class the first n are taken, two thirds of them, drawn by `seed`, to train on. A pair's
    result depends on its two classes alone. Raises InputError for fewer than two classes, or a
    class with fewer than three latents.
    """
    classes = sorted(set(y.tolist()))
    if len(classes) < 2:
        remedy = "give latents of several classes"
        raise InputError(f"latents of the classes {classes}", "at least two", remedy)
    halves = {c: _split(z[y == c][: recipe.n], c, seed) for c in classes}
    pairs = list(combinations(classes, 2))
    found = [_pair(halves[s], halves[t], recipe, keys.mix(seed, "svm", s, t)) for s, t in pairs]
    svms = [svm for svm, _ in found]
    return Pairs(
        torch.tensor(pairs),
        torch.stack([svm.attention for svm in svms]),
        torch.stack([svm.attention_bias for svm in svms]),
        torch.stack([svm.w for svm in svms]),
        torch.stack([svm.b for svm in svms]),
        torch.tensor([accuracy for _, accuracy in found]),
        recipe.attention,
    )


def _split(z: Tensor, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Training and held-out latents of a class, 67 to 33."""
    if len(z) < 3:
        given = f"{len(z)} latents of class {number}"
        raise InputError(given, "at least three", "give more examples of every class")
    order = keys.permutation(len(z), seed, "svm split", number)
    cut = round(0.67 * len(z))
    return z[order[:cut]], z[order[cut:]]


Halves = tuple[Tensor, Tensor]


def _pair(first: Halves, second: Halves, recipe: Recipe, key: Tensor) -> tuple[SVM, float]:
    """The SVM between two classes and its accuracy on their held-out latents."""
    z, sign = _joined(first[0], second[0])
    svm = fresh(z.shape[1], key, recipe.attention, z.dtype)
    every = torch.arange(len(z))
    for epoch in range(recipe.epochs):
        for i in keys.mix(key, "order", epoch, every).argsort(stable=True).tolist():
            descend(svm, z[i : i + 1], sign[i : i + 1], recipe.hinge, recipe.lr)
    z, sign = _joined(first[1], second[1])
    return svm, float((svm.score(z).sign() == sign).double().mean())


def _joined(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([s, t]), torch.cat([-s.new_ones(len(s)), t.new_ones(len(t))])
