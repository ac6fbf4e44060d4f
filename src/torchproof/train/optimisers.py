"""The tables of optimisers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import lr_scheduler as torch_schedules
from torch.optim.lr_scheduler import LRScheduler

from torchproof.core.errors import unknown
from torchproof.train.settings import Settings

Parameters = Iterable[nn.Parameter]

OPTIMISERS: dict[str, Callable[[Parameters, Settings], Optimizer]] = {
    "sgd": lambda p, s: SGD(p, s.lr, s.momentum, weight_decay=s.weight_decay),
    "nesterov": lambda p, s: SGD(p, s.lr, s.momentum, weight_decay=s.weight_decay, nesterov=True),
    "adam": lambda p, s: Adam(p, s.lr, (s.momentum, 0.999), weight_decay=s.weight_decay),
    "adamw": lambda p, s: AdamW(p, s.lr, (s.momentum, 0.999), weight_decay=s.weight_decay),
}


def _constant(optimiser: Optimizer, steps: int) -> LRScheduler:
    """The same all the time."""
    return torch_schedules.ConstantLR(optimiser, factor=1.0, total_iters=0)


def _piecewise(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Divided by ten after half and after three quarters (Rice, Wong and Kolter 2020; AWP)."""
    milestones = [max(1, steps // 2), max(1, steps * 3 // 4)]
    return torch_schedules.MultiStepLR(optimiser, milestones, gamma=0.1)


def _late(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Divided by ten after three quarters and after nine tenths (Zhang et al. 2019; SPAT)."""
    milestones = [max(1, steps * 3 // 4), max(1, steps * 9 // 10)]
    return torch_schedules.MultiStepLR(optimiser, milestones, gamma=0.1)


def _thirds(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Divided by ten after each third (Cohen, Rosenfeld and Kolter 2019)."""
    milestones = [max(1, steps // 3), max(1, steps * 2 // 3)]
    return torch_schedules.MultiStepLR(optimiser, milestones, gamma=0.1)


def _elevenths(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Divided by ten at epochs 200 and 400 of 440 (Zhai et al. 2020)."""
    milestones = [max(1, steps * 5 // 11), max(1, steps * 10 // 11)]
    return torch_schedules.MultiStepLR(optimiser, milestones, gamma=0.1)


def _fifths(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Divided by five after three, six and nine tenths (Yan et al. 2020)."""
    milestones = [max(1, steps * tenths // 10) for tenths in (3, 6, 9)]
    return torch_schedules.MultiStepLR(optimiser, milestones, gamma=0.2)


def _proved(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Divided by ten at epochs 130 and 190 of 200 (Zhang et al. 2020, CROWN-IBP on MNIST)."""
    milestones = [max(1, steps * 13 // 20), max(1, steps * 19 // 20)]
    return torch_schedules.MultiStepLR(optimiser, milestones, gamma=0.1)


def _tail(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Divided by ten at epochs 100 and 105 of 110 (Pang et al. 2021; Tao et al. 2022)."""
    milestones = [max(1, steps * 10 // 11), max(1, steps * 21 // 22)]
    return torch_schedules.MultiStepLR(optimiser, milestones, gamma=0.1)


def _final(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Divided by ten at epoch 75 of 76 (Zhang et al. 2019)."""
    return torch_schedules.MultiStepLR(optimiser, [max(1, steps * 75 // 76)], gamma=0.1)


def _cosine(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Half a cosine down to 0."""
    return torch_schedules.CosineAnnealingLR(optimiser, T_max=steps)


def _linear(optimiser: Optimizer, steps: int) -> LRScheduler:
    """A straight line down to 0."""
    return torch_schedules.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)


def _cyclic(optimiser: Optimizer, steps: int) -> LRScheduler:
    """Up in a straight line for two fifths, then down to nearly 0 (Wong, Rice and Kolter 2020)."""
    return torch_schedules.OneCycleLR(
        optimiser,
        max_lr=[group["lr"] for group in optimiser.param_groups],
        total_steps=steps + 1,
        pct_start=0.4,
        anneal_strategy="linear",
        cycle_momentum=False,
    )


SCHEDULES: dict[str, Callable[[Optimizer, int], LRScheduler]] = {
    "constant": _constant,
    "piecewise": _piecewise,
    "late": _late,
    "proved": _proved,
    "tail": _tail,
    "final": _final,
    "thirds": _thirds,
    "elevenths": _elevenths,
    "fifths": _fifths,
    "cosine": _cosine,
    "linear": _linear,
    "cyclic": _cyclic,
}


def require_names(settings: Settings) -> None:
    """Raises UnknownName for an optimiser or a schedule that no table holds."""
    if settings.optimiser not in OPTIMISERS:
        raise unknown("optimiser", settings.optimiser, OPTIMISERS)
    if settings.schedule not in SCHEDULES:
        raise unknown("learning-rate schedule", settings.schedule, SCHEDULES)


def optimiser(parameters: Parameters, settings: Settings) -> Optimizer:
    """The optimiser that the settings name; raises UnknownName."""
    require_names(settings)
    return OPTIMISERS[settings.optimiser](parameters, settings)


def schedule(optimiser: Optimizer, settings: Settings, steps: int) -> LRScheduler:
    """The schedule that the settings name, for `steps` optimiser steps in all; raises
    UnknownName.
    """
    require_names(settings)
    return SCHEDULES[settings.schedule](optimiser, steps)
