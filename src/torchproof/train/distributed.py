"""Data parallelism by torch.distributed alone, without a wrapper around the model.

Every process holds the whole model and takes its share of each global batch. Sums of gradients are
exchanged, so the result is that of one process, with two exceptions. Batch statistics are those of
a process's own share, and only the running statistics are averaged, after each step. Dropout is
drawn by each process for itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _NormBase


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 when it is alone."""
    return dist.get_rank() if _active() else 0


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _active() else 1


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """A process group for the block, when torchrun started several processes: NCCL on CUDA
    devices, else gloo.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not _active()
    if not wanted:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


@torch.no_grad()
def sum_(tensors: Sequence[Tensor]) -> None:
    """Every tensor becomes its sum over all processes, in place, in one exchange per dtype."""
    if world() == 1:
        return
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        same = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.reshape(-1) for t in same])
        dist.all_reduce(flat)
        for tensor, part in zip(same, torch.split(flat, [t.numel() for t in same]), strict=True):
            tensor.copy_(part.view_as(tensor))


@torch.no_grad()
def merged(table: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """A copy of `table` (N, ...) in which `rows` (R,), different ones in every process, hold
    `values` (R, ...); the same in all processes.
    """
    filled = table.clone() if world() == 1 else torch.zeros_like(table)
    filled.index_copy_(0, rows.to(table.device), values.to(filled))
    if world() == 1:
        return filled
    seen = table.new_zeros(len(table))
    seen[rows.to(table.device)] = 1
    sum_([filled, seen])
    known = seen.reshape(-1, *(1,) * (table.dim() - 1))
    return torch.where(known > 0, filled / known.clamp_min(1), table)


def total(*numbers: int) -> list[int]:
    """Whole numbers summed over all processes."""
    if world() == 1:
        return list(numbers)
    counted = torch.tensor(numbers, dtype=torch.int64, device=_meeting_place())
    dist.all_reduce(counted)
    return [int(n) for n in counted]


def from_first(number: int) -> int:
    """Process 0's number."""
    if world() == 1:
        return number
    told = torch.tensor([number], dtype=torch.int64, device=_meeting_place())
    dist.broadcast(told, 0)
    return int(told)


def _meeting_place() -> torch.device:
    cuda = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


@torch.no_grad()
def share_state(model: nn.Module) -> None:
    """All processes take the parameters and buffers of process 0."""
    if world() > 1:
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor, 0)


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Running means and variances of norm layers become their averages over all processes."""
    if world() == 1:
        return
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.training]
    buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
    if buffers:
        sum_(buffers)
        for buffer in buffers:
            buffer.div_(world())


def wait() -> None:
    """Until all processes are here."""
    if world() > 1:
        dist.barrier()
