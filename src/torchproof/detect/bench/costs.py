"""What a step costs: seconds, and how far the memory of the process grew meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")
_PAGE = 4096
_EVERY = 0.01  # seconds between two looks at the memory


@dataclass
class Cost:
    """seconds: of the processor on a CPU (all threads), by the clock on a GPU; megabytes: the most
    that was held above what was held before, None where it cannot be told.
    """

    seconds: float = 0.0
    megabytes: float | None = None


@contextmanager
def costing(device: torch.device) -> Iterator[Cost]:
    """Fills the cost in when the block ends. Memory of a CPU is looked at a hundred times a second,
    so that shorter peaks may be missed; memory kept from before and used again does not count.
    """
    cost = Cost()
    if device.type == "cuda":
        with _on_gpu(device, cost):
            yield cost
        return
    before, peak, done = _resident(), [0], threading.Event()

    def look() -> None:
        while not done.wait(_EVERY):
            peak[0] = max(peak[0], _resident() or 0)

    watcher = threading.Thread(target=look, daemon=True)
    started = time.process_time()
    watcher.start()
    try:
        yield cost
    finally:
        cost.seconds = time.process_time() - started
        done.set()
        watcher.join()
        now = _resident()
        if before is not None and now is not None:
            cost.megabytes = max(peak[0] - before, now - before, 0) / 1e6


@contextmanager
def _on_gpu(device: torch.device, cost: Cost) -> Iterator[None]:
    torch.cuda.reset_peak_memory_stats(device)
    before, started = torch.cuda.memory_allocated(device), time.perf_counter()
    try:
        yield
    finally:
        torch.cuda.synchronize(device)
        cost.seconds = time.perf_counter() - started
        cost.megabytes = (torch.cuda.max_memory_allocated(device) - before) / 1e6


def _resident() -> int | None:
    """Bytes in memory; None where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return None
