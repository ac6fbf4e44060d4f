"""Several layers of a network read in one forward pass, differentiable in its input."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from torchproof.core.errors import ModelError, unknown


def tapped(model: nn.Module, x: Tensor, layers: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """The answer of the model to x (B, C, H, W), and what each named layer answered on the way, in
    the order of `layers`, with their graphs where gradients are on.

    Layers answer before anything further on changes their answer in place. The mode of the model
    is left as it is: open `attack.untouched.untouched` around it. Raises UnknownName for a layer
    that the model does not have, ModelError for one that does not run exactly once or does not
    answer with one float tensor of as many rows as x.
    """
    known = dict(model.named_modules())
    told: dict[str, list[object]] = {name: [] for name in layers}

    def listener(name: str) -> Callable[..., object]:
        def after(module: nn.Module, args: object, out: object) -> object:
            told[name].append(out)
            return out.clone() if isinstance(out, Tensor) else None

        return after

    hooks = []
    try:
        for name in told:
            if name not in known or not name:
                raise unknown("layer", name, [other for other in known if other])
            hooks.append(known[name].register_forward_hook(listener(name)))
        answer: Tensor = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return answer, [_only(name, told[name], len(x)) for name in layers]


def hidden_layers(model: nn.Module, x: Tensor, count: int | None = None) -> tuple[str, ...]:
    """The dotted names of the last `count` hidden representations (all of them by default), in the
    order in which they answer images x (B, C, H, W): what goes into each convolution and each
    linear layer but the first. The last is what the logits are worked out from.

    The mode of the model is left as it is. Raises ModelError for a model with fewer.
    """
    order: list[tuple[str, bool]] = []
    fit: dict[str, bool] = {}

    def listener(name: str, mixes: bool) -> Callable[..., None]:
        def after(module: nn.Module, args: object, out: object) -> None:
            order.append((name, mixes))
            fit[name] = name not in fit and isinstance(out, Tensor) and _fits(out, len(x))

        return after

    leaves = [(n, m) for n, m in model.named_modules() if n and not any(m.children())]
    hooks = [m.register_forward_hook(listener(n, _mixes(m))) for n, m in leaves]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    first = next((i for i, (_, mixes) in enumerate(order) if mixes), len(order))
    pairs = itertools.pairwise(order[first:])
    found = tuple(dict.fromkeys(n for (n, _), (_, mixes) in pairs if mixes and fit[n]))
    if len(found) < (1 if count is None else count):
        given = f"a model with {len(found)} hidden layers that can be read"
        raise ModelError(given, f"at least {count or 1}", "name the layers yourself")
    return found if count is None else found[len(found) - count :]


def _mixes(module: nn.Module) -> bool:
    """Convolutions and linear layers, not normalisation."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 2


def _fits(out: Tensor, rows: int) -> bool:
    return out.is_floating_point() and out.shape[:1] == (rows,)


def _only(name: str, found: list[object], rows: int) -> Tensor:
    one = found[0] if found else None
    if len(found) == 1 and isinstance(one, Tensor) and _fits(one, rows):
        return one
    shape = f"shape {tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
    how = f"answers {len(found)} times" if len(found) != 1 else f"answers with {shape}"
    remedy = "name another layer: `dict(model.named_modules())` has them all"
    raise ModelError(f"layer {name!r}, which {how}", f"one float tensor of {rows} rows", remedy)
