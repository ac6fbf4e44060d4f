"""A process of its own for each network, and in it one for each question, which is killed when its
time is over: no method can take longer than it may, whatever it is busy with.

The network is traced once. Where processes cannot be forked (Windows) questions are answered in
this one, and only methods with a clock of their own keep to their time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Protocol

import numpy as np
import torch
from torch import nn

from torchproof.core.errors import MissingExtra, ModelError
from torchproof.evaluate.survey.answers import Heard, Question, answered, reason
from torchproof.evaluate.survey.subject import Network, Subject
from torchproof.verify.methods import METHODS

GRACE = 1.0  # seconds for methods with a clock of their own to come to their end


class Ask(Protocol):
    """The answer to a question, "late" after its seconds."""

    def __call__(self, question: Question, /) -> Heard: ...


@contextmanager
def asking_here(subject: Subject) -> Iterator[Ask]:
    """Asks about a network in this process, where nothing is stopped from outside."""
    network = Network.of(subject.load, subject.two)

    def ask(question: Question) -> Heard:
        return answered(network, question)

    yield ask


@contextmanager
def asking(subject: Subject) -> Iterator[Ask]:
    """Asks about a network, in processes of its own where there can be some.

    Raises ModelError for a network that cannot be traced, or whose process ended.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        with asking_here(subject) as ask_here:
            yield ask_here
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, subject.load, subject.two))
    process.start()
    there.close()

    def ask(question: Question) -> Heard:
        here.send(question)
        return _received(here, subject)

    try:
        ready = _received(here, subject)
        if ready.status == "failed":
            raise ModelError(f"{subject.name} ({ready.why})", "a network with rules for all of "
                             "its operations", "leave it out")  # fmt: skip
        yield ask
    finally:
        here.close()  # which tells the process to end
        process.join()


def _received(line: Connection, subject: Subject) -> Heard:
    try:
        heard: Heard = line.recv()
    except EOFError:
        given = f"{subject.name}, whose process ended by itself"
        remedy = "see what it printed; memory may have run out"
        raise ModelError(given, "answers", remedy) from None
    return heard


def _serve(line: Connection, load: Callable[[], nn.Module], two: np.ndarray) -> None:
    """The network's process: answers until the line is closed. Given arrays, because a tensor that
    is sent moves to shared memory, away from under the arrays that look at it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks ends this one
    torch.set_num_threads(1)  # a fork copies no threads
    with contextlib.suppress(EOFError, OSError):  # nobody waits any more
        try:
            network = Network.of(load, two)
        except Exception as error:  # told to the process that asks, whatever it is
            line.send(Heard("failed", 0.0, why=f"{type(error).__name__}: {error}"))
            return
        line.send(Heard("answered", 0.0))
        while True:
            line.send(_apart(network, line.recv(), line))


def _apart(network: Network, question: Question, line: Connection) -> Heard:
    """The answer of a process that is forked for it. Raises EOFError when nobody waits any more."""
    row = METHODS.get(question.method)
    try:
        if row is not None:
            row.ready()
    except MissingExtra as error:
        return Heard("failed", 0.0, why=reason(error))
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(there, network, question), daemon=True)
    start = time.monotonic()
    child.start()
    there.close()
    grace = GRACE if row is not None and row.timed else 0.0
    try:
        ready = wait([here, line], timeout=question.seconds + grace)
        if line in ready:
            raise EOFError
        if here not in ready:
            return Heard("late", time.monotonic() - start)
        heard: Heard = here.recv()
        return heard
    except EOFError:
        if line.poll():
            raise
        return Heard("failed", time.monotonic() - start, why=_ended(child))
    finally:
        child.kill()
        child.join()
        here.close()


def _ended(child: multiprocessing.process.BaseProcess) -> str:
    child.join(1.0)
    return f"its process ended with code {child.exitcode}"


def _answer(line: Connection, network: Network, question: Question) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        os.dup2(nowhere.fileno(), 1)  # solvers print past Python
        line.send(answered(network, question))
