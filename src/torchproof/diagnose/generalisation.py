"""The measures of complexity that predictors of generalisation are compared with (the tables of
Jiang et al. 2020, "Fantastic generalization measures and where to find them").
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.checks import check, check_weights
from torchproof.core.errors import InputError
from torchproof.core.sites import Weights
from torchproof.diagnose.fold import folded
from torchproof.diagnose.weight_balls import matrices

DROP = 0.1  # of training accuracy that a noise level may cost on average
BISECTIONS = 15
FLOOR = 1e-3  # the part of the magnitude-aware noise that does not depend on the weight
LARGEST = 64.0  # noise level that is not exceeded in the search
Noise = Callable[[float], dict[str, Tensor]]


@dataclass(frozen=True)
class Complexity:
    """One network on its n training images.

    parameters: weights counted; norm: sum of squared weights; distance: the same of w - w0, None
    without w0; frobenius, spectral: log of the product over layers of squared Frobenius and
    spectral norms, kernels as matrices (out, rest); path_norm: sum of the answers to an image of
    ones with all parameters squared; margin: the 10th percentile of z_y - max_{j != y} z_j;
    sigma, relative_sigma: the largest standard deviation of normal noise, of the same size on all
    weights and in units of each |w|, that costs 10 points of training accuracy on average; loss
    (nats) and accuracy on the training images; left: batch normalisations that could not be folded.
    """

    n: int
    parameters: int
    norm: float
    distance: float | None
    frobenius: float
    spectral: float
    path_norm: float
    margin: float
    sigma: float
    relative_sigma: float
    loss: float
    accuracy: float
    left: tuple[str, ...] = ()

    @property
    def measures(self) -> dict[str, float]:
        """Name -> value, each so turned that more is taken to generalise worse."""
        found = {
            "parameters": float(self.parameters),
            "norm": self.norm,
            "log product of Frobenius norms": self.frobenius,
            "log product of spectral norms": self.spectral,
            "path norm": self.path_norm,
            "inverse margin": -self.margin,  # ranks as 1 / margin^2, and on below 0
            "sharpness": _inverse_square(self.sigma),
            "magnitude-aware sharpness": _inverse_square(self.relative_sigma),
        }
        if self.distance is not None:
            found["distance from initialisation"] = self.distance
        return found


def _inverse_square(sigma: float) -> float:
    return 1 / sigma**2 if sigma else math.inf


def complexity(
    model: nn.Module, x: Tensor, y: Tensor, *,
    initial: nn.Module | Mapping[str, Tensor] | None = None, draws: int = 10,
    weights: Weights | None = None, fold: bool = True, seed: int = 0, slots: int = 512,
) -> Complexity:  # fmt: skip
    """The measures of one trained network.

    x (N, C, H, W) in [0, 1], y (N,): its training images and labels; initial: the network before
    training, or its state; draws: of noise per level; weights: what is counted and perturbed, by
    default tensors of more than one dimension of no normalisation layer (`matrices`); fold: merge
    batch normalisation first, also of `initial`. Noise has the standard deviation that is said
    here; levels are searched by doubling and 15 bisections, with the same draws at all of them.
    The path norm means what it says for piecewise linear networks. Raises InputError,
    ModelError.
    """
    check(x, y)
    check_weights(model)
    if draws < 1:
        raise InputError(f"draws = {draws}", "a whole number >= 1", "10 are usual")
    start = _start(model, initial)
    left: tuple[str, ...] = ()
    if fold:
        merged = folded(model, x[:2])
        model, left = merged.model, merged.left
        start = None if start is None else folded(start, x[:2]).model
    weights = weights or Weights(matrices(model))
    chosen = _chosen(model, weights, x)
    flat = [w.flatten(1).double() for w in chosen.values()]
    distance = None
    if start is not None:
        before = _chosen(start, weights, x)
        distance = sum(float((w - before[n]).double().square().sum()) for n, w in chosen.items())
    judge = _Judge(model, weights, x, y, slots)
    loss, accuracy, margin = judge.whole()
    normals = [_normal(chosen, keys.seed_of(seed, "noise", d)) for d in range(draws)]
    return Complexity(
        n=len(x),
        parameters=sum(w.numel() for w in chosen.values()),
        norm=sum(float(m.square().sum()) for m in flat),
        distance=distance,
        frobenius=sum(2 * _log(torch.linalg.matrix_norm(m)) for m in flat),
        spectral=sum(2 * _log(torch.linalg.matrix_norm(m, 2)) for m in flat),
        path_norm=path_norm(model, x[:1]),
        margin=margin,
        sigma=_level(judge, accuracy, [_even(z) for z in normals]),
        relative_sigma=_level(judge, accuracy, [_aware(z, chosen) for z in normals]),
        loss=loss,
        accuracy=accuracy,
        left=left,
    )


def path_norm(model: nn.Module, like: Tensor) -> float:
    """sum_k f_{w^2}(1)_k: over all paths from the input to an answer, the sum of the products of
    squared weights; biases count as paths of their own. like (1, ...): the shape of an input.
    """
    squared = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for parameter in squared.parameters():
            parameter.square_()
        return float(squared(torch.ones_like(like[:1], dtype=torch.float64)).sum())


def _log(value: Tensor) -> float:
    return math.log(max(float(value), 1e-300))


def _start(model: nn.Module, initial: nn.Module | Mapping[str, Tensor] | None) -> nn.Module | None:
    if initial is None or isinstance(initial, nn.Module):
        return initial
    made = copy.deepcopy(model)
    try:
        made.load_state_dict(dict(initial))
    except RuntimeError as error:
        given = f"an initial state of another network ({' '.join(str(error).split())[:200]})"
        remedy = "copy model.state_dict() before training"
        raise InputError(given, "the state of this network", remedy) from error
    return made


def _chosen(model: nn.Module, weights: Weights, x: Tensor) -> dict[str, Tensor]:
    return {name: leaf[0] for name, leaf in weights.origin(model, x).items()}


def _normal(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    key = keys.mix(seed)
    return {
        name: keys.normal(key, number, tuple(w.shape))[0].to(w)
        for number, (name, w) in enumerate(weights.items())
    }


def _even(normal: Mapping[str, Tensor]) -> Noise:
    """u ~ N(0, sigma^2)."""
    return lambda sigma: {name: sigma * z for name, z in normal.items()}


def _aware(normal: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Noise:
    """u ~ N(0, sigma^2 w^2 + eps^2), eps = 1e-3."""

    def noise(sigma: float) -> dict[str, Tensor]:
        return {
            name: z * (sigma**2 * weights[name].square() + FLOOR**2).sqrt()
            for name, z in normal.items()
        }

    return noise


@dataclass(frozen=True, eq=False)
class _Judge:
    """Reads a network on its training images."""

    model: nn.Module
    weights: Weights
    x: Tensor
    y: Tensor
    slots: int

    @torch.no_grad()
    def logits(self, shift: Mapping[str, Tensor]) -> Tensor:
        delta = {name: d[None] for name, d in shift.items()}
        with untouched(self.model, 0, self.x.device):
            parts = torch.split(self.x, self.slots)
            return torch.cat([self.weights.outputs(self.model, p, delta) for p in parts]).double()

    def accuracy(self, shift: Mapping[str, Tensor]) -> float:
        return float((self.logits(shift).argmax(1) == self.y).double().mean())

    def whole(self) -> tuple[float, float, float]:
        """Loss, accuracy and margin of the network as it is."""
        z = self.logits({})
        own = z.gather(1, self.y[:, None])
        others = z.scatter(1, self.y[:, None], -torch.inf).amax(1, keepdim=True)
        margin = float((own - others).quantile(0.1))
        accuracy = float((z.argmax(1) == self.y).double().mean())
        return float(F.cross_entropy(z, self.y)), accuracy, margin


def _level(judge: _Judge, accuracy: float, noises: list[Noise]) -> float:
    """The largest level at which the mean accuracy is at least that without noise less DROP, as
    far as the search sees; 0 where none is, LARGEST where all are.
    """

    def fits(sigma: float) -> bool:
        each = [judge.accuracy(noise(sigma)) for noise in noises]
        return sum(each) / len(each) >= accuracy - DROP

    high = 2.0**-10
    while high < LARGEST and fits(high):
        high *= 2
    if high >= LARGEST:
        return LARGEST
    low = high / 2 if high > 2.0**-10 else 0.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
