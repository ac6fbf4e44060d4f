"""Several processes, one run: each takes the next part that nobody works on.

There are more parts than processes, so nobody idles while there is work, and they meet in the
folder only: `parts/<i>` holds the ledger of part i, and is locked by the process that works on it
for as long as that process lives. What a killed one has found stays, and whoever comes next goes on
with it. Processes on several machines need a folder that all of them see, with file locks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from torchproof.core.errors import FileError, InputError
from torchproof.core.files import write, writing
from torchproof.evaluate.merge import asked_of

PARTS, PLAN, DONE, LOCK = "parts", "plan.json", "done", "lock"
EACH = 8  # parts for each process: the last ones to work idle for an eighth of their share at most
REMEDY = "free some space, then run it again with --resume"
P = TypeVar("P")
LEAST = 1e-3  # seconds that are said to be left when none are
SLEEP = 0.2  # seconds between looks at parts that others work on


def begin(out: Path, examples: int, processes: int, resume: bool) -> None:
    """Divides so many examples into parts; to be called by one process, before all others work.

    An interrupted run keeps its parts, whatever the number of processes is now. Raises FileError
    where there is a run already and `resume` is not given, InputError for no example.
    """
    if examples < 1:
        raise InputError(f"{examples} examples", "at least one", "raise n")
    if (out / PARTS / PLAN).exists():
        if not resume:
            remedy = "pass --resume to go on with it, or choose another folder"
            raise FileError(f"{out}, which has {PARTS}", "a new folder", remedy)
        return
    with writing(out, REMEDY):
        (out / PARTS).mkdir(parents=True, exist_ok=True)
    plan = {"parts": min(examples, EACH * processes)}
    write(out / PARTS / PLAN, json.dumps(plan).encode(), REMEDY)


def folders(out: Path) -> tuple[Path, ...]:
    """The folders of all parts, in order; raises FileError where `begin` was not called."""
    try:
        count = int(json.loads((out / PARTS / PLAN).read_bytes())["parts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        given = f"{out / PARTS / PLAN} ({error})"
        raise FileError(given, "the plan of a run", "run into a new folder") from error
    return tuple(out / PARTS / f"{i:0{len(str(count - 1))}d}" for i in range(count))


def work(
    out: Path, one: Callable[[str, Path], bool], over: Callable[[], bool], stage: str = "whole"
) -> bool:
    """Works on one part after the other until all are done or `over()`; says whether they are.

    one(shard, folder): works on part "i/k" in its folder, which may hold what an interrupted
    process or an earlier `stage` left there, and says whether the part is done. It is asked once
    about a part that is done already: a run with other settings is refused there.
    """
    every, done = folders(out), f"{DONE}-{stage}"
    ended = next((i for i, folder in enumerate(every) if (folder / done).exists()), None)
    if ended is not None and not over():
        with held(every[ended]) as mine:  # who holds it asks
            if mine:
                one(f"{ended}/{len(every)}", every[ended])
    while True:
        open_ = [i for i, folder in enumerate(every) if not (folder / done).exists()]
        if not open_ or over():
            return not open_
        free = False
        for i in open_:
            with held(every[i]) as mine:
                if not mine or (every[i] / done).exists():
                    continue
                free = True
                if not one(f"{i}/{len(every)}", every[i]):
                    return False
                write(every[i] / done, b"", REMEDY)
        if not free:
            time.sleep(SLEEP)


@contextmanager
def held(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone works in the folder now; given back at the end of the block, or of
    the process, however it ends. wait: until it does.
    """
    import fcntl

    with writing(folder, REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
        stream: IO[bytes] = (folder / LOCK).open("ab")
    with stream:
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def left(seconds: float | None) -> Callable[[], float | None]:
    """The seconds that are left of so many from now on; None without a limit."""
    if seconds is None:
        return lambda: None
    end = time.monotonic() + seconds
    return lambda: max(end - time.monotonic(), LEAST)


def over(rest: Callable[[], float | None]) -> Callable[[], bool]:
    """Is the time of `left` up?"""
    return lambda: (rest() or 1.0) <= LEAST


def unattended(parts: Iterable[P], place: Callable[[P], Path]) -> Iterator[P]:
    """The parts that no other process is at, each held in its place until the next one is asked
    for.
    """
    for part in parts:
        with held(place(part)) as mine:
            if mine:
                yield part


def evaluation(
    out: Path, one: Callable[[str, Path, bool | None], object], over: Callable[[], bool], full: bool
) -> bool:
    """`work` for `evaluate`: one(shard, folder, full). The reserve of the suite is run on all parts
    or on none: after the other attacks, where all parts together say so.
    """

    def run(shard: str, folder: Path, full: bool | None) -> bool:
        one(shard, folder, full)
        return not over()  # else it may have been stopped short of its end

    if full:
        return work(out, lambda shard, folder: run(shard, folder, True), over, "full")
    if not work(out, lambda shard, folder: run(shard, folder, None), over):
        return False
    if not asked_of(folders(out)):
        return True
    return work(out, lambda shard, folder: run(shard, folder, True), over, "full")


def finish(out: Path, put_together: Callable[[Sequence[Path]], None], result: Path) -> bool:
    """Once all parts are done: one process calls put_together(folders), which writes `result`, the
    others wait for it. Says whether this process was the one.
    """
    while not result.exists():
        with held(out / PARTS) as mine:
            if mine and not result.exists():
                put_together(folders(out))
                return True
        time.sleep(SLEEP)
    return False
