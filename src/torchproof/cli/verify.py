"""`torchproof verify`."""

from __future__ import annotations

import gzip
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from torchproof.cli.options import console, tell
from torchproof.core.errors import FileError, InputError, TorchproofError
from torchproof.core.files import write
from torchproof.core.room import exhausted
from torchproof.nn import load_model
from torchproof.nn.traced import Traced
from torchproof.verify import graph_of
from torchproof.verify.clock import OutOfTime, left, limit, look
from torchproof.verify.decide import Decision, decide
from torchproof.verify.memory import memory as limited
from torchproof.verify.vnnlib import Property, Witness, read_property, recheck, write_result

STARTUP = min(time.process_time(), 10.0)
"""Seconds that the process took to come here, nearly all of them imports; not more than 10, for a
process that has done other things before.
"""


def verify(
    onnx: Annotated[Path, typer.Option(help="The network, .onnx or .onnx.gz.")],
    vnnlib: Annotated[Path, typer.Option(help="The property, .vnnlib or .vnnlib.gz.")],
    timeout: Annotated[float, typer.Option(help="Seconds, all included.", min=0.1)] = 60.0,
    results: Annotated[
        Path | None, typer.Option(help="A result file in the form of VNN-COMP.")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(help="GiB that bounds may hold; what does not fit ends as unknown.", min=0.01),
    ] = None,
) -> None:
    """Decide a VNN-LIB property of an ONNX network: unsat (it holds), sat (with a counterexample
    that is run again), unknown or timeout.

    Branch and bound, for up to 64 inputs over the input, else and after that over the signs of
    ReLUs, for which it is complete. Exit code 1 for unknown and timeout. An error leaves the result
    file `error`.
    """
    started = time.monotonic() - STARTUP
    try:
        with limited(None if memory is None else memory * 2**30):
            verdict = _verdict(onnx, vnnlib, started, timeout, results)
    except TorchproofError:
        if results is not None:
            with suppress(FileError):  # the first error is the one to be told
                write(results, b"error\n")
        raise
    raise typer.Exit(0 if verdict in ("sat", "unsat") else 1)


def _verdict(onnx: Path, vnnlib: Path, started: float, timeout: float, results: Path | None) -> str:
    try:
        with limit(timeout - (time.monotonic() - started)):
            network, property_ = _network(onnx), read_property(vnnlib)
    except OutOfTime:
        return _unread(results)
    shape = _shape(network, property_)
    found = _decided(network, shape, property_, timeout - (time.monotonic() - started))
    witness = None if found.x is None else _witness(network, property_, found)
    verdict: str = found.verdict
    if witness is not None:
        checked = recheck(onnx, property_, witness, lambda x: _asked(network, shape, x))
        tell(f"counterexample run again by {checked.by}: {'stands' if checked.near else 'FALLS'}")
        verdict = "sat" if checked.near else "unknown"
    if results is not None:
        write_result(results, property_, verdict, witness if verdict == "sat" else None)
        tell(f"result: {results}")
    console.print(f"[bold]{verdict}[/bold]")
    spent = time.monotonic() - started
    tell(f"{property_}; {found.by}, {found.parts} boxes bounded, {spent:.1f} s in all")
    return verdict


def _unread(results: Path | None) -> str:
    """The verdict where reading the property took all the time there was."""
    if results is not None:
        write(results, b"timeout\n")
        tell(f"result: {results}")
    console.print("[bold]timeout[/bold]")
    tell("the time was over before the property was read")
    return "timeout"


def _decided(
    network: Traced, shape: tuple[int, ...], property_: Property, seconds: float
) -> Decision:
    """The verdict. Tracing is not interrupted: the clock is looked at after it."""
    try:
        with limit(seconds):
            look()
            graph = graph_of(network, _middle(property_, shape))
            look()
            return decide(graph, shape, property_, left())
    except OutOfTime:
        return Decision("timeout", None, "time", 0, seconds)
    except (RuntimeError, MemoryError) as error:
        if not exhausted(error):
            raise
        return Decision("unknown", None, "no memory left", 0, seconds)


def _middle(property_: Property, shape: tuple[int, ...]) -> torch.Tensor:
    """An input (1, *shape) of the property, with which the network is traced; 0 where there is
    none, and where it has no end.
    """
    if property_.trivial:
        return torch.zeros(1, *shape, dtype=torch.float64)
    first = property_.cases[0]
    middle = torch.from_numpy(first.low / 2 + first.high / 2)
    return middle.nan_to_num(0.0, 0.0, 0.0).view(1, *shape)


def _network(path: Path) -> Traced:
    """The network of a file in float64."""
    with tempfile.TemporaryDirectory() as folder:
        plain = path
        if path.suffix == ".gz":
            plain = Path(folder) / path.stem
            try:
                plain.write_bytes(gzip.decompress(path.read_bytes()))
            except (OSError, EOFError, zlib.error) as error:
                remedy = "restore the file"
                raise FileError(f"{path} ({error})", "a gzipped .onnx file", remedy) from error
        model = load_model(str(plain)).model
    if not isinstance(model, Traced):
        raise InputError(f"{path}", "an .onnx file", "name the network's .onnx file")
    return model.double().eval()


def _shape(network: Traced, property_: Property) -> tuple[int, ...]:
    """The shape of one input, as the network declares it."""
    rest = network.shape[1:]
    known = int(np.prod([n for n in rest if n is not None]))
    shape = tuple(n if n is not None else property_.inputs // known for n in rest)
    if int(np.prod(shape)) != property_.inputs:
        given = f"a property of {property_.inputs} inputs for a network of inputs {shape}"
        raise InputError(given, "as many as the network has", "take the property made for it")
    return shape


def _asked(network: Traced, shape: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        answer = network(torch.from_numpy(np.asarray(x)).double().view(1, *shape))
    flat: np.ndarray = answer.flatten().numpy()
    return flat


def _witness(network: Traced, property_: Property, found: Decision) -> Witness:
    assert found.x is not None
    x = found.x.flatten().double().numpy()
    return Witness.of(property_, x, _asked(network, tuple(found.x.shape), x))
