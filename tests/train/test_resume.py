"""A run that is killed, wherever that happens, and resumed equals the run that was left alone, bit
for bit.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import FileError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, AWP, Batch, Method, Settings, checkpoint, fit, folder
from torchproof.train import loop as training_loop
from torchproof.train.rows import Rows

THREAT = Threat(Linf(), 0.1)


@dataclass(frozen=True)
class Remembering(AT):
    """AT whose losses depend on what it saw before: a running mean of the images, and a count of
    batches.
    """

    memory: ClassVar[tuple[str, ...]] = ("mean", "seen", "begun")
    mean: Tensor = field(default_factory=lambda: torch.zeros(1, 3, 3))
    seen: int = 0
    begun: int = 0

    def begin(self, model: nn.Module, data: Rows, progress: float) -> None:
        object.__setattr__(self, "begun", self.begun + 1)

    def prepare(self, model: nn.Module, batch: Batch) -> Batch:
        object.__setattr__(self, "mean", 0.9 * self.mean + 0.1 * batch.x.mean(0))
        object.__setattr__(self, "seen", self.seen + 1)
        return super().prepare(model, batch)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().losses(model, batch) * (1 + self.mean.mean() + 0.1 * self.seen + self.begun)


def data() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (40,), generator=g)
    x = torch.rand(40, 1, 3, 3, generator=g) * 0.5
    x[torch.arange(40), 0, y] += 0.4
    return x, y


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(9, 8),
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Dropout(0.3),
            nn.Linear(8, 3),
        )


def method() -> Method:
    return AWP(Remembering(THREAT, steps=2), gamma=0.01)


def settings(**more: Any) -> Settings:
    given = {
        "epochs": 3,
        "batch_size": 10,
        "lr": 0.2,
        "held_out": 10,
        "held_out_steps": 2,
        "ema": 0.8,
    }
    return Settings.of(given, **{"checkpoint_steps": 2, "schedule": "cyclic"} | more)


def save(model: nn.Module, path: Path, card: dict[str, Any]) -> None:
    torch.save({"state": model.state_dict(), "card": card}, path.with_suffix(".test"))


def train(out: Path, resume: bool = False, **more: Any) -> nn.Module:
    net = network()
    for _ in fit(net, data(), method(), settings(**more), out=out, resume=resume, save=save):
        pass
    return net


def outcome(out: Path, net: nn.Module) -> dict[str, Any]:
    """All that a run leaves, but for seconds."""
    tensors, facts = checkpoint.read(out / "checkpoint.safetensors")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for record in [*facts["records"], *lines, facts["sums"]]:
        record["seconds"] = None
    saved = {p.name: torch.load(p, weights_only=True) for p in sorted(out.glob("*.test"))}
    files = sorted(p.name for p in out.iterdir())
    return {"tensors": tensors, "facts": facts, "lines": lines, "saved": saved, "files": files,
            "model": dict(net.state_dict())}  # fmt: skip


def assert_same(a: Any, b: Any, at: str = "") -> None:
    if isinstance(a, Tensor):
        assert isinstance(b, Tensor) and torch.equal(a, b), at
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), at
        for key in a:
            assert_same(a[key], b[key], f"{at}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), at
        for i, (u, v) in enumerate(zip(a, b, strict=True)):
            assert_same(u, v, f"{at}/{i}")
    else:
        assert a == b, at


class Killed(BaseException):
    """As little of the program runs after it as after a kill that Python can feign."""


class Moments:
    """Counts the moments at which a run or its files change, and kills the run at one of them."""

    def __init__(self, fatal: int) -> None:
        self.fatal, self.passed = fatal, list[str]()

    def at(self, name: str) -> None:
        self.passed.append(name)
        if len(self.passed) == self.fatal:
            raise Killed(name)

    def around(self, name: str, f: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.at(f"before {name}")
            result = f(*args, **kwargs)
            self.at(f"after {name}")
            return result

        return wrapped

    def torn(self, name: str, f: Callable[..., Any], path_of: Callable[..., Path]) -> Any:
        """`f`, which writes a file, with a moment at which half of what it writes is there."""

        def wrapped(*args: Any) -> None:
            path = path_of(*args)
            before = path.read_bytes() if name == "line" else b""
            f(*args)
            content = path.read_bytes()
            path.write_bytes(content[: (len(before) + len(content)) // 2])
            self.at(f"half a {name}")
            path.write_bytes(content)

        return wrapped


@contextmanager
def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The run ends at the moment of this number (0: never); yields the names of the moments
    passed.
    """
    moments, Folder, loop = Moments(number), folder.Folder, training_loop
    save_file = moments.torn("file", checkpoint.save_file, lambda tensors, path, header: path)
    append = moments.torn("line", Folder.append, lambda self, record: self.metrics)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", moments.around("write", save_file))
        patch.setattr(os, "replace", moments.around("replace", os.replace))
        patch.setattr(Folder, "append", append)
        patch.setattr(loop, "take", moments.around("step", loop.take))
        patch.setattr(loop, "measure", moments.around("measure", loop.measure))
        patch.setattr(Remembering, "losses", moments.around("losses", Remembering.losses))
        patch.setattr(Folder, "store", moments.around("store", Folder.store))
        yield moments.passed


def test_killed_at_any_moment_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = outcome(tmp_path / "whole", train(tmp_path / "whole"))
    assert [line["epoch"] for line in whole["lines"]] == [1, 2, 3]
    assert whole["facts"]["memory"] == {"method.seen": 9, "method.begun": 3}
    with killed_at(0, monkeypatch) as moments:
        train(tmp_path / "count")
    assert len(moments) > 70 and {"half a file", "half a line"} <= set(moments)
    every_kind = {moments.index(name) + 1 for name in moments}
    chosen = every_kind | set(random.Random(0).sample(range(1, len(moments) + 1), 6))
    for number in sorted(chosen):
        out = tmp_path / f"at{number}"
        with killed_at(number, monkeypatch), pytest.raises(Killed):
            train(out)
        assert_same(outcome(out, train(out, resume=True)), whole, f"killed {moments[number - 1]}")


def test_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint at every step, and a kill a few moments after each start."""
    whole = outcome(tmp_path / "whole", train(tmp_path / "whole", checkpoint_steps=1))
    out, starts = tmp_path / "often", 0
    while True:
        try:
            with killed_at(17, monkeypatch):
                net = train(out, resume=True, checkpoint_steps=1)
            break
        except Killed:
            starts += 1
            assert starts < 40
    assert starts > 4
    assert_same(outcome(out, net), whole)


@pytest.mark.parametrize(("optimiser", "schedule"), [
    ("adam", "constant"), ("adamw", "piecewise"), ("nesterov", "cosine"), ("adam", "linear"),
])  # fmt: skip
def test_every_optimiser_and_schedule_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimiser: str, schedule: str
) -> None:
    more = {"optimiser": optimiser, "schedule": schedule, "epochs": 2, "lr": 0.05}
    whole = outcome(tmp_path / "whole", train(tmp_path / "whole", **more))
    with killed_at(30, monkeypatch), pytest.raises(Killed):
        train(tmp_path / "cut", **more)
    again = outcome(tmp_path / "cut", train(tmp_path / "cut", resume=True, **more))
    assert_same(again, whole)


def test_a_finished_run_resumes_to_nothing_new(tmp_path: Path) -> None:
    first = outcome(tmp_path, train(tmp_path))
    assert_same(outcome(tmp_path, train(tmp_path, resume=True)), first)


def test_resume_without_a_run_starts_one(tmp_path: Path) -> None:
    whole = outcome(tmp_path / "a", train(tmp_path / "a"))
    assert_same(outcome(tmp_path / "b", train(tmp_path / "b", resume=True)), whole)


def test_checkpoint_frequency_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = outcome(tmp_path / "whole", train(tmp_path / "whole"))
    with killed_at(20, monkeypatch), pytest.raises(Killed):
        train(tmp_path / "cut")
    net = train(tmp_path / "cut", resume=True, checkpoint_steps=1, checkpoint_seconds=1e-6)
    again = outcome(tmp_path / "cut", net)
    for name in ("tensors", "facts", "lines", "model"):
        assert_same(again[name], whole[name])


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = outcome(tmp_path / "whole", train(tmp_path / "whole"))
    writes = iter(range(100))

    def full(*args: Any) -> None:
        if next(writes) == 2:
            raise OSError(28, "No space left on device")
        write(*args)

    write = checkpoint.save_file
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(FileError, match="No space left"):
            train(tmp_path / "full")
    assert_same(outcome(tmp_path / "full", train(tmp_path / "full", resume=True)), whole)
