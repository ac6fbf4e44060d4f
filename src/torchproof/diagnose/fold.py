"""Batch normalisation merged into the layers in front of it, for measures that read weights.

The factor of a batch normalisation is a part of the weight that it follows: measured apart, the
same function has another norm, another magnitude of each weight and another flatness.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from torchproof.attack.untouched import untouched
from torchproof.core.errors import ModelError

# Answers of the two networks may differ by rounding only, in units of the largest answer.
TOLERANCE = 1e-3
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTION = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Folded:
    """model: a copy in eval mode; merged, left: dotted names of the batch normalisations that went
    into the layer in front of them, and of those that could not.
    """

    model: nn.Module
    merged: tuple[str, ...]
    left: tuple[str, ...]


@dataclass
class _Heard:
    """Which answer came from which module, while a forward pass runs."""

    makers: dict[int, list[str]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    fed: list[tuple[str, int]] = field(default_factory=list)  # batch normalisation, id of its input
    alive: list[object] = field(default_factory=list)  # so that no id is given twice


def folded(model: nn.Module, x: Tensor) -> Folded:
    """A copy whose batch normalisations with running statistics are merged into the convolution or
    linear layer that feeds them; x (B, ...): inputs to follow, and to compare the answers on.

    Left are those fed by anything else (as in pre-activation networks), by a layer that runs twice
    or whose weight is shared, and those without running statistics. Raises ModelError where the
    answers would change, as in a network that reads the layer's answer elsewhere too.
    """
    made = copy.deepcopy(model).eval()
    with untouched(model), torch.no_grad():
        before = model(x)
    modules, pairs = dict(made.named_modules()), _pairs(made, x)
    left = [n for n, m in modules.items() if isinstance(m, _BATCH_NORM) and n not in pairs]
    for name, feeder in pairs.items():
        norm, layer = modules[name], modules[feeder]
        if isinstance(layer, nn.Linear):
            fused: nn.Module = fuse_linear_bn_eval(layer, norm)
        else:
            fused = fuse_conv_bn_eval(layer, norm)
        _put(made, feeder, fused)
        _put(made, name, nn.Identity())
    with torch.no_grad():
        after = made(x)
    gap, size = float((after - before).abs().max()), float(before.abs().max())
    if not gap <= TOLERANCE * max(size, 1.0):
        given = f"a network whose answers change by {gap:.3g} when batch normalisation is folded"
        remedy = "measure it without folding (in Python, fold=False), and say so"
        raise ModelError(given, "normalisation that alone reads the layer in front of it", remedy)
    return Folded(made, tuple(pairs), tuple(left))


def _pairs(model: nn.Module, x: Tensor) -> dict[str, str]:
    """Batch normalisation -> the layer to merge it into."""
    with _listening(model) as heard, torch.no_grad():
        model(x)
    modules = dict(model.named_modules(remove_duplicate=False))
    holders: dict[int, int] = {}
    for module in modules.values():
        if (weight := module._parameters.get("weight")) is not None:
            holders[id(weight)] = holders.get(id(weight), 0) + 1
    found: dict[str, str] = {}
    for name, source in heard.fed:
        norm = modules[name]
        running = getattr(norm, "running_mean", None) is not None
        feeders = heard.makers.get(source, [])
        once = heard.calls[name] == 1 and len(feeders) == 1 and heard.calls[feeders[0]] == 1
        if running and once and holders[id(modules[feeders[0]].weight)] == 1:
            found[name] = feeders[0]
    return found


@contextmanager
def _listening(model: nn.Module) -> Iterator[_Heard]:
    heard, handles = _Heard(), []

    def after(name: str, out: Tensor) -> None:
        heard.makers.setdefault(id(out), []).append(name)
        heard.calls[name] = heard.calls.get(name, 0) + 1
        heard.alive.append(out)

    def before(name: str, given: Tensor) -> None:
        heard.fed.append((name, id(given)))
        heard.calls[name] = heard.calls.get(name, 0) + 1
        heard.alive.append(given)

    try:
        for name, module in model.named_modules():
            if isinstance(module, (*_CONVOLUTION, nn.Linear)):
                handles.append(
                    module.register_forward_hook(lambda m, args, out, n=name: after(n, out))
                )
            elif isinstance(module, _BATCH_NORM):
                handles.append(
                    module.register_forward_pre_hook(lambda m, args, n=name: before(n, args[0]))
                )
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
