"""A limit on the seconds that bounds may take.

`with limit(seconds):` whatever walks a graph in the block raises OutOfTime soon after they are
over: the clock is looked at between its steps, which are made short enough for that. A solver whose
steps are not ours to shorten is `attended`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
GRACE = 0.1  # seconds that a solver with a limit of its own may be late

_END: ContextVar[float] = ContextVar("end of the time limit", default=math.inf)


class OutOfTime(Exception):
    """The seconds of a `limit` are over."""


@contextmanager
def limit(seconds: float | None) -> Iterator[None]:
    """Lets the block take that long, None for as long as the limits around it do; the shortest of
    nested limits counts. For the current thread alone.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    token = _END.set(min(_END.get(), end))
    try:
        yield
    finally:
        _END.reset(token)


def left() -> float:
    """Seconds left of the limit, at least 0; inf without one."""
    end = _END.get()
    return math.inf if end == math.inf else max(0.0, end - time.monotonic())


def look() -> None:
    """Raises OutOfTime where the limit is over."""
    if left() <= 0:
        raise OutOfTime


def attended(call: Callable[[], T], seconds: float, grace: float = GRACE) -> T | None:
    """What `call` returns, or None where it is not back `grace` after its seconds.

    HiGHS looks at its clock between its steps, and a step of the interior points may take seconds:
    it runs in a thread of its own, which ends with that step. Nothing waits for it but the end of
    the process.
    """
    if seconds == math.inf:
        return call()
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(call).result(seconds + grace)
    except TimeoutError:
        return None
    finally:
        pool.shutdown(wait=False)
