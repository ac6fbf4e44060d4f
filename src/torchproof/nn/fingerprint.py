"""One number for the weights of a model: the same weights always have the same fingerprint."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module) -> str:
    """SHA-256 (64 hex digits) over all parameters and buffers: name, dtype, shape and bytes, by
    name.

    It does not depend on the device, on the order of registration, on memory layout or on the
    train/eval flag, and it says nothing about the code of the model.
    """
    digest = hashlib.sha256()
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
