"""Leave a model, and the global random state, exactly as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def forked(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators seeded for the block and given back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=True):
        torch.default_generator.manual_seed(seed)
        for d in devices:
            torch.cuda.default_generators[d.index or 0].manual_seed(seed)
        yield


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Buffers (batch-norm statistics and counters) bit-equal afterwards, whatever the block does to
    them: written in place or assigned anew. Untouched ones are not written, so that graphs built
    before stay valid.
    """
    saved = _buffers(model.modules())
    try:
        yield
    finally:
        _bring_back(saved)


Saved = list[tuple[dict[str, Tensor | None], str, Tensor, Tensor]]


def _buffers(modules: Iterable[nn.Module]) -> Saved:
    """Where each buffer is kept, under which name, and its value."""
    stores = [(m._buffers, name, b) for m in modules for name, b in m._buffers.items()]
    return [(s, n, b, b.clone()) for s, n, b in stores if b is not None]


@torch.no_grad()
def _bring_back(saved: Saved) -> None:
    for store, name, buffer, value in saved:
        store[name] = buffer
        if not torch.equal(buffer, value):
            buffer.copy_(value)


@contextmanager
def _widened(model: nn.Module) -> Iterator[None]:
    """A low-precision model takes float32 inputs, in which perturbations are kept."""
    low = precision(model)
    if low not in (torch.float16, torch.bfloat16):
        yield
        return

    def narrow(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(t.to(low) if t.is_floating_point() else t for t in inputs)

    handle = model.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def untouched(
    model: Callable[..., Any], seed: int = 0, device: torch.device | None = None
) -> Iterator[None]:
    """Eval mode and a private random state inside, and float32 inputs welcome to a float16 or
    bfloat16 model; every mode, buffer, hook and generator as before afterwards.

    Parameters and their .grad are safe because nothing inside writes to them: gradients are taken
    with torch.autograd.grad in the perturbation only.
    """
    device = device if device is not None else home(model)
    if not isinstance(model, nn.Module):
        with forked(seed, device):
            yield
        return
    modules = list(model.modules())
    modes, saved = [m.training for m in modules], _buffers(modules)
    with forked(seed, device), _widened(model):
        try:
            model.eval()
            yield
        finally:
            for module, training in zip(modules, modes, strict=True):
                module.training = training
            _bring_back(saved)


def _first(model: Callable[..., Any]) -> Tensor | None:
    if not isinstance(model, nn.Module):
        return None
    tensors = chain(model.parameters(), model.buffers())  # lazily: asked at every step
    floating = (t for t in tensors if t.is_floating_point())
    return next(floating, None)


def place(
    model: Callable[..., Any], default: torch.device
) -> tuple[torch.device, torch.dtype | None]:
    """`home` and `precision` in one look."""
    first = _first(model)
    return (default, None) if first is None else (first.device, first.dtype)


def home(model: Callable[..., Any], default: torch.device | None = None) -> torch.device:
    """The device a model lives on; for a plain function the default, which is the CPU."""
    first = _first(model)
    if first is not None:
        return first.device
    return torch.device("cpu") if default is None else default


def precision(model: Callable[..., Any]) -> torch.dtype | None:
    """The floating type a model computes in; None for a plain function, which may take any."""
    first = _first(model)
    return None if first is None else first.dtype
