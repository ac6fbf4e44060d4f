"""SHA-256 of what was evaluated: a model's weights, a set of images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_BLOCK = 4096  # rows hashed at a time, so that a large set is never copied whole


def fingerprint(model: nn.Module) -> str:
    """Over all parameters and buffers by name: name, dtype, shape and bytes.

    The digest does not depend on the device, on the order of registration, on memory layout or on
    the train/eval flags, and says nothing about the code of the model.
    """
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def model_sha256(model: Callable[[Tensor], Any]) -> str | None:
    """`fingerprint`, and None for a function, whose inside cannot be seen."""
    return fingerprint(model) if isinstance(model, nn.Module) else None


def data_sha256(x: Tensor, y: Tensor) -> str:
    """Over images x (N, C, H, W) and labels y (N,): the line "float32 N C H W", pixels, labels."""
    kind = str(x.dtype).removeprefix("torch.")
    digest = hashlib.sha256(f"{kind} {' '.join(map(str, x.shape))}\n".encode())
    for start in range(0, len(x), _BLOCK):
        digest.update(_bytes(x[start : start + _BLOCK].detach()))
    digest.update(_bytes(y))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
