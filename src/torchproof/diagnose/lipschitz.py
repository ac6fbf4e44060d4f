"""Local Lipschitz robustness (Lassance et al. 2019): how far an answer moves per unit of a small
change, over the data rather than over all inputs.

alpha(r) = sup over x in R and 0 < |e| <= r of |f(x + e) - f(x)| / |e|, in Euclidean lengths.
Everything measured here is a ratio of one such e, taken in float64: it never exceeds alpha(r), and
a search says by how much random noise falls short of it.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from torchproof.attack.untouched import untouched
from torchproof.core import keys
from torchproof.core.checks import check_images, check_weights
from torchproof.core.errors import InputError, ModelError, unknown
from torchproof.diagnose.lipschitz_bound import certified
from torchproof.diagnose.lipschitz_search import Pair, Reader

Bound = Literal["none", "global", "local"]


@dataclass(frozen=True)
class LipschitzCurve:
    """Of n points, at each of the radii (R,).

    sampled, attacked: (R,) the largest ratio found for changes of that length (shorter where the
    box leaves no room), by random noise and by gradient ascent; bound: (R,) certified upper bounds
    of alpha(r), empty if none were asked for; examples: (R, n) the attacked ratio of each point;
    output: what f is; box: the range of valid inputs; draws, steps, starts: of noise and ascent.
    """

    output: str
    n: int
    box: tuple[float, float] | None
    radii: tuple[float, ...]
    sampled: tuple[float, ...]
    attacked: tuple[float, ...]
    bound: tuple[float, ...]
    examples: tuple[tuple[float, ...], ...]
    draws: int
    steps: int
    starts: int

    @property
    def sampled_so_far(self) -> tuple[float, ...]:
        """The largest up to each radius: estimates of alpha(r) from below, as the authors draw
        them.
        """
        return tuple(itertools.accumulate(self.sampled, max))

    @property
    def attacked_so_far(self) -> tuple[float, ...]:
        """The largest of `attacked` up to each radius: a larger ball holds the smaller ones."""
        return tuple(itertools.accumulate(self.attacked, max))


def local_lipschitz(
    model: nn.Module, x: Tensor, radii: Sequence[float], *,
    output: str = "softmax", box: tuple[float, float] | None = (0.0, 1.0), draws: int = 100,
    steps: int = 40, starts: int = 3, bound: Bound = "global", seed: int = 0, slots: int = 256,
) -> LipschitzCurve:  # fmt: skip
    """alpha(r) of the model around x (N, ...), from below twice and from above.

    radii: increasing, > 0, input units; output: "softmax" (the authors' choice; it saturates: the
    ratio is at most sqrt(2) / |e|), "logits" (the temperature scales it) or the dotted name of a
    module, whose answer is then f; box: valid inputs, None for all; draws: of noise per point and
    radius, U(-1, 1)^d rescaled to the radius and clipped; steps, starts: of the ascent from random
    directions, which also starts from the best noise and from the best of the radius before; bound:
    "global" (product of certified spectral norms), "local" (the smaller of that and of Jacobians in
    each ball, RecurJac; minutes), or "none". Raises InputError, UnknownName, and ModelError for a
    bound of a network without a rule for it.
    """
    _check(model, x, radii, box, (draws, steps, starts), bound)
    check_weights(model)
    if output not in ("softmax", "logits") and output not in dict(model.named_modules()):
        known = ("softmax", "logits", *(n for n, _ in model.named_modules() if n))
        raise unknown("layer or output", output, known)
    precise, at = Reader(copy.deepcopy(model).double(), output), x.detach().double()
    quick, parts = Reader(model, output), []
    for rows in torch.split(torch.arange(len(x), device=x.device), slots):
        pair = Pair(quick, precise, x[rows].detach(), at[rows], rows, box, seed)
        parts.append(pair.along(radii, draws, steps, starts))
    sampled, attacked = (torch.cat([p[i] for p in parts], 1) for i in (0, 1))
    upper: tuple[float, ...] = ()
    if bound != "none":
        upper = certified(precise.module, at, radii, box, local=bound == "local")
    return LipschitzCurve(
        output, len(x), box, tuple(float(r) for r in radii),
        tuple(sampled.amax(1).tolist()), tuple(attacked.amax(1).tolist()), upper,
        tuple(tuple(row) for row in attacked.tolist()), draws, steps, starts,
    )  # fmt: skip


@dataclass(frozen=True)
class LayerAlpha:
    """One layer as a function of what it reads: the ratios within `radius` of that, and a certified
    bound of them; None for an operation without a rule.
    """

    name: str
    radius: float
    sampled: float
    attacked: float
    bound: float | None


@dataclass(frozen=True)
class Layers:
    """Layers in the order in which they run, near n images; omitted: layers with parameters, and
    parameters outside of layers, that are not among them.
    """

    chain: tuple[LayerAlpha, ...]
    n: int
    omitted: tuple[str, ...] = ()


def layer_chain(
    model: nn.Module, x: Tensor, names: Sequence[str], radius: float, *,
    draws: int = 20, steps: int = 40, starts: int = 3, seed: int = 0, slots: int = 256,
) -> tuple[LayerAlpha, ...]:  # fmt: skip
    """alpha of each named module by itself, in the order in which they follow one another; x as
    they are for the whole network.

    Each is asked about the values that it reads at x, and changes of them up to the radius times
    the attacked alphas of those before: what changes of the input up to `radius` reach. The product
    of the alphas bounds that of the chain, f_L o ... o f_1 (alpha <= prod alpha_l), where they are
    exact; those attacked here are estimates from below. Raises as `local_lipschitz`, and InputError
    for modules that do not run once, on one tensor.
    """
    found: list[LayerAlpha] = []
    for outer, inner in itertools.permutations(names, 2):
        if inner.startswith(f"{outer}."):
            both = f"layers {outer!r} and {inner!r}, one inside the other"
            raise InputError(both, "layers that follow one another", "leave one of them out")
    for name in names:
        module, given = _given(model, name, x, slots)
        measure = partial(
            local_lipschitz, module, given, (radius,), output="logits", box=None, draws=draws,
            steps=steps, starts=starts, seed=keys.seed_of(seed, name), slots=slots,
        )  # fmt: skip
        try:
            curve = measure(bound="global")
        except ModelError:  # perhaps of the bound alone
            curve = measure(bound="none")
        bound = curve.bound[0] if curve.bound else None
        made = LayerAlpha(name, radius, curve.sampled[0], curve.attacked[0], bound)
        found.append(made)
        radius = max(radius * made.attacked, torch.finfo(torch.float32).tiny)
    return tuple(found)


def _given(model: nn.Module, name: str, x: Tensor, slots: int) -> tuple[nn.Module, Tensor]:
    modules, heard = dict(model.named_modules()), list[tuple[object, ...]]()
    if name not in modules:
        raise unknown("layer", name, [n for n in modules if n])
    handle = modules[name].register_forward_pre_hook(lambda m, args: heard.append(args))
    pieces = torch.split(x, slots)
    try:
        with untouched(model), torch.no_grad():
            for piece in pieces:
                model(piece)
    finally:
        handle.remove()
    tensors = [args[0] for args in heard if len(args) == 1 and isinstance(args[0], Tensor)]
    if len(tensors) != len(pieces) or len(heard) != len(pieces):
        given = f"layer {name!r}, which ran {len(heard)} times on {len(pieces)} batches"
        raise InputError(given, "a layer that runs once, on one tensor", "choose another layer")
    return modules[name], torch.cat(tensors)


def _check(
    model: nn.Module, x: Tensor, radii: Sequence[float], box: tuple[float, float] | None,
    counts: tuple[int, int, int], bound: str,
) -> None:  # fmt: skip
    if not isinstance(model, nn.Module):
        given = f"a {type(model).__name__}"
        raise InputError(given, "an nn.Module", "wrap the function in a module")
    rising = all(a < b for a, b in itertools.pairwise(radii))
    if not radii or not rising or not all(0 < r < math.inf for r in radii):
        given, expected = f"radii {tuple(radii)}", "increasing numbers > 0"
        raise InputError(given, expected, "write (0.5, 1.0, 2.0), in input units")
    if min(counts) < 1:
        given = "draws = {}, steps = {}, starts = {}".format(*counts)
        raise InputError(given, "whole numbers >= 1", "100, 40 and 3 are usual")
    if bound not in ("none", "global", "local"):
        raise unknown("bound", bound, ("none", "global", "local"))
    if box == (0.0, 1.0):
        check_images(x)
    elif not x.is_floating_point() or not len(x) or not bool(x.isfinite().all()):
        given = f"points of {x.dtype}, shape {tuple(x.shape)}, or some that are not finite"
        raise InputError(given, "finite floats (N, ...)", "convert them with x.float()")
    elif box is not None and not (box[0] <= float(x.min()) and float(x.max()) <= box[1]):
        given = f"points from {float(x.min()):.4g} to {float(x.max()):.4g} in the box {box}"
        raise InputError(given, "points inside the box", "give their own range, or box=None")
