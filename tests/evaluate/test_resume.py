"""An evaluation that is killed, cut short or damaged goes on to an undisturbed one's result."""

from __future__ import annotations

import errno
import random
import resource
import signal
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.core import journal
from torchproof.core.errors import FileError, ResumeError
from torchproof.evaluate import Report
from torchproof.evaluate.ledger import read_records

Go = Callable[..., Report]


class Counted(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        out: torch.Tensor = self.inner(x)
        return out


@pytest.mark.parametrize("luck", range(2))
def test_killed_in_the_model(
    go: Go, net: nn.Module, undisturbed: Report, same: Any, interrupted: Any, killed: Any,
    tmp_path: Path, luck: int,
) -> None:  # fmt: skip
    counted = Counted(net)
    same(go(counted), undisturbed)
    draw, kills = random.Random(luck), 0
    while kills < 5:
        calls = draw.randint(2, counted.calls // 3)
        try:
            go(interrupted(net, calls), out=tmp_path / "run", resume=True)
            break
        except killed:
            kills += 1
    assert kills >= 2
    same(go(out=tmp_path / "run", resume=True), undisturbed)


@pytest.mark.parametrize("luck", range(4))
def test_killed_while_the_ledger_is_written(
    go: Go, undisturbed: Report, same: Any, killed: Any, tmp_path: Path, luck: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    draw = random.Random(luck)
    left = draw.randint(1, 25)

    def partly(stream: Any, data: bytes) -> None:
        nonlocal left
        left -= 1
        stream.write(data[: draw.randint(0, len(data))] if left == 0 else data)
        if left == 0:
            raise killed

    with monkeypatch.context() as patch:
        patch.setattr(journal, "write_all", partly)
        with pytest.raises(killed):
            go(out=tmp_path / "run")
    same(go(out=tmp_path / "run", resume=True), undisturbed)


def test_a_process_that_is_killed(go: Go, undisturbed: Report, same: Any, tmp_path: Path) -> None:
    """SIGKILL from inside the model, in a process of its own: nothing gets a chance to tidy up."""
    here, run = Path(__file__).parent, tmp_path / "run"
    script = textwrap.dedent(f"""
        import importlib.util, os, signal, sys, torch
        spec = importlib.util.spec_from_file_location("blobs_net", {str(here / "conftest.py")!r})
        made = importlib.util.module_from_spec(spec)
        sys.modules["blobs_net"] = made
        spec.loader.exec_module(made)
        from torchproof.evaluate import evaluate
        torch.set_num_threads(1)

        class Dies(torch.nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner, self.left = inner, 40
            def forward(self, x):
                self.left -= 1
                if self.left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return self.inner(x)

        blobs = made.make_blobs()
        net = made.fitted(blobs)
        evaluate(Dies(net), blobs, made.THREAT, made.short_suite(), slots=16,
                 model_sha256={model_sha256_of(go)!r}, name="net", out={str(run)!r})
    """)
    copied: Any = get_context("spawn" if torch.cuda.is_available() else "fork")  # no new imports
    process = copied.Process(target=exec, args=(script, {}))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    kept = read_records(run / "records.jsonl")[0]
    assert len(kept) > 60 and not (run / "result.json").exists()
    same(go(out=run, resume=True), undisturbed)


def model_sha256_of(go: Go) -> str:
    """The hash that the runs of this file are recorded under."""
    return str(go(n=1).model_sha256)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: writes are cut there, then fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("size", [18_000, 21_011, 30_001])
def test_full_disk_in_the_middle_of_a_ledger_write(
    go: Go, undisturbed: Report, same: Any, tmp_path: Path, size: int
) -> None:
    run = tmp_path / "run"
    assert (tmp_path / "undisturbed" / "records.jsonl").stat().st_size > size
    with file_size_limit(size), pytest.raises(FileError, match=r"records.jsonl.*resume=True"):
        go(out=run)
    records, sound = read_records(run / "records.jsonl")
    assert records and sound == (run / "records.jsonl").stat().st_size <= size
    same(go(out=run, resume=True), undisturbed)


def test_full_disk_that_leaves_half_a_line(
    go: Go, undisturbed: Report, same: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    class Full:
        """A file that takes half of the tenth write, and cannot even be cut back."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def write(self, data: Any) -> int:
            nonlocal calls
            calls += 1
            if calls == 10:
                return int(self.stream.write(bytes(data)[: len(data) // 2]))
            if calls > 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.stream.write(data))

        def truncate(self, size: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

    opened = journal.Journal.open.__func__  # type: ignore[attr-defined]

    def full(cls: type[journal.Journal], path: Path, remedy: str) -> Any:
        made, records = opened(cls, path, remedy)
        made.stream = Full(made.stream)
        return made, records

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "open", classmethod(full))
        with pytest.raises(FileError, match=r"Input/output error|No space left"):
            go(out=tmp_path / "run")
    content = (tmp_path / "run" / "records.jsonl").read_bytes()
    assert not content.endswith(b"\n")
    same(go(out=tmp_path / "run", resume=True), undisturbed)


def test_no_space_for_the_images(go: Go, undisturbed: Report, same: Any, tmp_path: Path) -> None:
    with file_size_limit(9_000), pytest.raises(FileError, match=r"images\.bin.*resume=True"):
        go(out=tmp_path / "run")
    same(go(out=tmp_path / "run", resume=True), undisturbed)


def test_finished_runs_ask_nothing_when_resumed(
    go: Go, net: nn.Module, undisturbed: Report, same: Any, tmp_path: Path
) -> None:
    counted = Counted(net)
    same(go(counted, out=tmp_path / "undisturbed", resume=True), undisturbed)
    # about one image and two (the number of classes), and whether it is the same model
    assert counted.calls == 3


def test_another_model_of_the_same_weights_is_not_resumed(
    go: Go, net: nn.Module, undisturbed: Report, tmp_path: Path
) -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            return self.net((x * 2).round() / 2)

    with pytest.raises(ResumeError, match="answers otherwise"):
        go(Rounded(), out=tmp_path / "undisturbed", resume=True)
