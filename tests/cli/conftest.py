"""What the tests of the commands share: `cli` runs one in this process as the shell would, and a
run directory that was trained once.
"""

from __future__ import annotations

import io
import re
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torchproof
from torchproof.cli import options
from torchproof.cli.main import main
from torchproof.evaluate import questions

MODEL = "small-cnn(widths=(8, 16), hidden=32)"
PARTS = ("Given:", "Expected:", "What to do:")


@dataclass(frozen=True)
class Answer:
    """What the shell would have seen."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """Both outputs as one line, whatever the width of the terminal."""
        return " ".join(f"{self.out} {self.err}".split())

    def refused(self, *words: str) -> None:
        """Asserts exit code 2, the three parts on stderr, and these words in them."""
        assert self.code == 2, (self.code, self.out, self.err)
        places = [self.err.find(part) for part in PARTS]
        assert -1 not in places and places == sorted(places), self.err
        assert "Traceback" not in self.err
        said = " ".join(self.err.split())
        for word in words:
            assert word in said, (word, said)


Cli = Callable[..., Answer]


def run(*args: object, width: int = 80) -> Answer:
    """`torchproof ARGS` through `main`, the entry point, in this process."""
    out, err = io.StringIO(), io.StringIO()
    before, wide = sys.argv, options.console.width
    sys.argv, options.console.width = ["torchproof", *map(str, args)], width
    code: Any = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv, options.console.width = before, wide
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue()) for text in (out, err)]
    return Answer(code, *plain)


@pytest.fixture(scope="session")
def cli() -> Cli:
    """`cli("evaluate", ...)` gives the exit code and both outputs."""
    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory: two epochs on the bundled digits."""
    out = tmp_path_factory.mktemp("trained") / "run"
    given = ["--epochs", 2, "--batch-size", 32, "--lr", 0.01, "--method", "AT(steps=1)"]
    answer = run("train", "--model", MODEL, "--threat", "linf:0.1", *given, "--out", out)
    assert answer.code == 0, answer.err
    return out


FORKED = """
import os, sys
os.environ.update(env)
os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
os.dup2(1, 2)
sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
import torch
from importlib import import_module
torch.set_num_threads(1)
sys.argv = ["torchproof", *words]
import_module(program).main()
"""


NEEDED = ("torchproof.cli.train", "torchproof.cli.evaluate", "sklearn.datasets", "torch._dynamo")


@dataclass(frozen=True)
class Forked:
    """A command in another process; `said` is the file of both its outputs."""

    process: Any
    said: Path

    def poll(self) -> int | None:
        code: int | None = self.process.exitcode
        return code

    def kill(self) -> None:
        self.process.kill()

    def end(self, timeout: float = 600) -> str:
        """Waits for it, and gives what it said."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "it does not come to its end"
        return self.said.read_text() if self.said.exists() else ""


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Forked]:
    """`fork("train", ...)`: a command in a process of its own, which need not import everything
    anew: it is the copy of one that has, of this one where that can be.
    """
    if torch.cuda.is_available():  # which no copy of a process that has used it can use
        context: Any = get_context("forkserver")
        context.set_forkserver_preload([*NEEDED])
    else:
        context = get_context("fork")
    folder = tmp_path_factory.mktemp("forked")

    def begun(*args: object, program: str = "torchproof.cli.main", **env: object) -> Forked:
        said = folder / f"said{len(list(folder.iterdir()))}"
        said.touch()
        known = {
            "program": program, "words": [*map(str, args)], "said": str(said),
            "env": {name: str(value) for name, value in env.items()},
        }  # fmt: skip
        process = context.Process(target=exec, args=(FORKED, known))
        with warnings.catch_warnings():  # of Python 3.12: pytest's own threads are not copied
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        return Forked(process, said)

    return begun


@pytest.fixture(scope="session")
def pair(fork: Callable[..., Forked]) -> Callable[..., list[Forked]]:
    """`pair("evaluate", ...)`: two processes, told of each other as torchrun tells them."""

    def begun(*args: object) -> list[Forked]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        place = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [fork(*args, RANK=rank, LOCAL_RANK=rank, **place) for rank in range(2)]

    return begun


@pytest.fixture(scope="session")
def torchrun(fork: Callable[..., Forked]) -> Callable[..., Forked]:
    """`torchrun("train", ...)`: torchrun itself, in a process of its own, starts the command in
    two, which are copies of it.
    """
    how = ("--standalone", "--nproc-per-node", 2, "--start-method", "fork", "--run-path")

    def begun(*args: object) -> Forked:
        script = Path(torchproof.__file__).with_name("__main__.py")
        return fork(*how, script, *args, program="torch.distributed.run", OMP_NUM_THREADS=1)

    return begun


@pytest.fixture
def full_disk() -> Callable[[int], Any]:
    """`with full_disk(4096):` no file grows beyond so many bytes; the system refuses the rest."""
    resource = pytest.importorskip("resource", reason="limits of file sizes need POSIX")

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., str]:
    """`npz(x_test=...)`: the name of a data set of random 8 x 8 images, with these parts replaced.

    20 images to train on, 20 for testing.
    """
    g = np.random.default_rng(0)
    whole = {
        "x_train": g.random((20, 8, 8), dtype=np.float32),
        "y_train": np.arange(20) % 10,
        "x_test": g.random((20, 8, 8), dtype=np.float32),
        "y_test": np.arange(20) % 10,
    }

    def write(**parts: Any) -> str:
        path = tmp_path / "set.npz"
        np.savez(path, **(whole | parts))
        return f"npz:{path}"

    return write


@pytest.fixture(autouse=True)
def threads_kept() -> Iterator[None]:
    """quickstart asks for one thread; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def probes_are_short() -> Iterator[None]:
    """What commands make of an evaluation is tested here, not how long its probes look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questions, "_STEPS", 8)
        patch.setattr(questions, "_MOST", 12)
        yield


@pytest.fixture(autouse=True, scope="module")
def quick_pictures(rendered_once: None) -> None:
    """Most commands draw."""
