"""Processes that share a run: every part is worked on once, also where a worker dies on it."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchproof.core.errors import FileError, InputError, ResumeError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.evaluate import certify, together
from torchproof.evaluate.ledger import RECORDS, read_records


def never() -> bool:
    return False


def test_threads_share_the_parts_and_nobody_works_twice(tmp_path: Path) -> None:
    together.begin(tmp_path, 100, 2, resume=False)
    done: list[tuple[str, str]] = []
    finished: list[bool] = []

    def one(shard: str, folder: Path) -> bool:
        if (folder / f"{together.DONE}-whole").exists():  # a late worker only asks
            return True
        done.append((shard, threading.current_thread().name))
        time.sleep(0.002)
        return True

    def whole(parts: object) -> None:
        (tmp_path / "result").write_text("all")

    def worker() -> None:
        assert together.work(tmp_path, one, never)
        finished.append(together.finish(tmp_path, whole, tmp_path / "result"))

    threads = [threading.Thread(target=worker, name=f"worker {i}") for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    parts = 2 * together.EACH
    assert sorted(s for s, _ in done) == sorted(f"{i}/{parts}" for i in range(parts))
    assert len({who for _, who in done}) > 1
    assert sorted(finished) == [False, False, True]


def test_what_a_killed_process_held_is_taken_on(tmp_path: Path) -> None:
    together.begin(tmp_path, 3, 1, resume=False)
    program = (
        "import time, pathlib\n"
        "from torchproof.evaluate import together\n"
        "def one(shard, folder):\n"
        "    (folder / 'begun').write_text(shard)\n"
        "    time.sleep(60)\n"
        f"together.work(pathlib.Path({str(tmp_path)!r}), one, lambda: False)\n"
    )
    copied: Any = get_context("spawn" if torch.cuda.is_available() else "fork")  # no new imports
    process = copied.Process(target=exec, args=(program, {}))
    process.start()
    first = together.folders(tmp_path)[0]
    limit = time.monotonic() + 60
    while not (first / "begun").exists():
        assert process.exitcode is None and time.monotonic() < limit
        time.sleep(0.01)
    with together.held(first) as mine:
        assert not mine
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    seen: list[str] = []

    def one(shard: str, folder: Path) -> bool:
        seen.append(shard + (" again" if (folder / "begun").exists() else ""))
        return True

    assert together.work(tmp_path, one, never)
    assert seen == ["0/3 again", "1/3", "2/3"]


def test_time_that_is_up_leaves_parts_open(tmp_path: Path) -> None:
    together.begin(tmp_path, 4, 1, resume=False)
    asked: list[str] = []

    def one(shard: str, folder: Path) -> bool:
        asked.append(shard)
        return len(asked) < 2

    assert not together.work(tmp_path, one, never)
    assert not together.work(tmp_path, one, lambda: True)
    assert asked == ["0/4", "1/4"]
    together.begin(tmp_path, 4, 9, resume=True)  # another number of processes: the same parts
    assert len(together.folders(tmp_path)) == 4


def test_a_run_that_is_there_already_is_not_mixed_with_another(tmp_path: Path) -> None:
    together.begin(tmp_path, 4, 1, resume=False)
    with pytest.raises(FileError, match="--resume"):
        together.begin(tmp_path, 4, 1, resume=False)
    with pytest.raises(FileError, match="plan"):
        together.folders(tmp_path / "other")
    with pytest.raises(InputError, match="at least one"):
        together.begin(tmp_path / "none", 0, 1, resume=False)


def test_certificates_of_shards_are_those_of_one_process(
    net: nn.Module, blobs: Any, tmp_path: Path
) -> None:
    about = Threat(Linf(), 0.02)
    whole = certify(net, blobs, about, "crown")
    for i in range(3):
        certify(net, blobs, about, "crown", shard=f"{i}/3", out=tmp_path / str(i), slots=3 + i)
    parts = [tmp_path / str(i) for i in range(3)]
    joined = certify(net, blobs, about, "crown", out=tmp_path / "all", known=parts)
    assert [r.id for r in joined.examples] == [r.id for r in whole.examples]
    assert joined.certified_accuracy == whole.certified_accuracy
    for ours, theirs in zip(joined.examples, whole.examples, strict=True):
        assert ours.status == theirs.status
        assert ours.margin == pytest.approx(theirs.margin, abs=1e-9)
    stored = [read_records(folder / RECORDS)[0] for folder in parts]
    spent = {r["id"]: r["seconds"] for part in stored for r in part}
    assert {r.id: r.seconds for r in joined.examples} == spent  # nothing was bounded again
    with pytest.raises(ResumeError, match="method"):
        certify(net, blobs, about, "ibp", known=parts)


def test_other_settings_are_refused_also_where_all_parts_are_done(
    net: nn.Module, blobs: Any, tmp_path: Path
) -> None:
    together.begin(tmp_path, 6, 1, resume=False)
    data = blobs.x[:6], blobs.y[:6]

    def one(method: str) -> Any:
        def part(shard: str, folder: Path) -> bool:
            certify(net, data, Threat(Linf(), 0.02), method, shard=shard, out=folder, resume=True)
            return True

        return part

    assert together.work(tmp_path, one("ibp"), never) and together.work(tmp_path, one("ibp"), never)
    with pytest.raises(ResumeError, match="method"):
        together.work(tmp_path, one("crown"), never)


def test_a_kill_before_the_plan_is_no_run_yet(tmp_path: Path) -> None:
    (tmp_path / together.PARTS).mkdir()
    together.begin(tmp_path, 4, 1, resume=True)
    assert len(together.folders(tmp_path)) == 4
