"""Used by test_processes.py: `main(FOLDER)` forks the two processes of each phase.

cut: runs in float64 without batch statistics, a run that nobody disturbs, and one that ends itself
by os._exit in the middle of an epoch; resume: that last run again.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.data.stream import Stream
from torchproof.train import AT, AWP, MMA, TRADES, Batch, FreeAT, Settings, Standard, fit

THREAT = Threat(Linf(), 0.1)


def data(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (45,), generator=g)
    x = torch.rand(45, 1, 3, 3, generator=g, dtype=dtype) * 0.5
    x[torch.arange(45), 0, y] += 0.4
    return x, y


def network(batch_statistics: bool, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _network(batch_statistics)


def _network(batch_statistics: bool) -> nn.Module:
    norm = [nn.BatchNorm1d(8), nn.Dropout(0.3)] if batch_statistics else []
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 8), *norm, nn.Tanh(), nn.Linear(8, 3))


def settings(**more: Any) -> Settings:
    given = {
        "epochs": 3,
        "batch_size": 12,
        "lr": 0.2,
        "held_out": 10,
        "held_out_steps": 2,
        "ema": 0.8,
    }
    return Settings.of(given, **{"checkpoint_steps": 2} | more)


def store(model: nn.Module, path: Path, card: dict[str, Any]) -> None:
    torch.save(model.state_dict(), path.with_suffix(".test"))


class Source:
    """Images and labels in two parts, read by their positions."""

    name, parts = "in memory", 2

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def walk(self, part: int) -> Iterator[int]:
        return iter(range(part, len(self.x), 2))

    def read(self, handles: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.x[list(handles)], self.y[list(handles)]


class Leaving(AT):
    """AT that ends its process, as a kill would, in the ninth step."""

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        if batch.progress >= 8 / 9:
            os._exit(9)
        return super().prepare(model, batch)

    def __repr__(self) -> str:
        return repr(AT(self.threat, self.steps))


def disturbed(folder: Path, method: Any, resume: bool = False) -> None:
    """Batch norm, dropout, weight perturbation and an average, in float32."""
    net = network(batch_statistics=True)
    run = fit(
        net, data(torch.float32), AWP(method), settings(), out=folder, resume=resume, save=store
    )
    list(run)
    torch.save(
        net.state_dict(), folder / f"rank{dist.get_rank() if dist.is_initialized() else 0}.pt"
    )


def exact(folder: Path, name: str) -> None:
    """Float64 without batch statistics; process 1 starts from other weights, which do not count."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    found = {}
    awp = AWP(TRADES(THREAT, steps=3), gamma=0.02)
    for method in (Standard(), AT(THREAT, steps=3), awp, FreeAT(THREAT, m=3), MMA(THREAT)):
        net = network(batch_statistics=False, seed=rank).double()
        records = list(fit(net, data(torch.float64), method, settings(clip=1.0), threat=THREAT))
        table = [[r.loss, r.clean, r.robust, r.forward, r.backward] for r in records]
        found[type(method).__name__] = {**net.state_dict(), "records": torch.tensor(table)}
    net, (x, y) = network(batch_statistics=False, seed=rank).double(), data(torch.float64)
    stream = Stream(Source(x[10:], y[10:]), buffer=7, held=(x[:10], y[:10]))
    records = list(fit(net, stream, AT(THREAT, steps=3), settings(held_out=None)))
    losses = torch.tensor([[r.loss, r.clean, r.robust] for r in records])
    found["Stream"] = {**net.state_dict(), "records": losses}
    torch.save(found, folder / f"{name}{rank}.pt")


def phase(name: str, folder: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    at = f"file://{folder}/meet-{name}"
    dist.init_process_group("gloo", init_method=at, rank=rank, world_size=world)
    if name == "cut":
        exact(folder, f"exact{world}-")
        disturbed(folder / "whole", AT(THREAT, steps=2))
        disturbed(folder / "cut", Leaving(THREAT, steps=2))
    else:
        disturbed(folder / "cut", AT(THREAT, steps=2), resume=True)
    dist.destroy_process_group()


def codes(name: str, folder: Path, world: int = 2) -> list[int]:
    """The exit codes of the processes of a phase, which are copies of this one: it has imported
    all that they need.
    """
    children = []
    for rank in range(world):
        with warnings.catch_warnings():  # of Python 3.12: pytest's own threads are not copied
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            code = 1
            try:
                phase(name, folder, rank, world)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(folder: Path) -> None:
    killed = codes("cut", folder)
    assert killed == [9, 9], killed
    shutil.copy(folder / "cut" / "checkpoint.safetensors", folder / "killed.safetensors")
    resumed = codes("resume", folder)
    assert resumed == [0, 0], resumed


if __name__ == "__main__":
    main(Path(sys.argv[1]))
