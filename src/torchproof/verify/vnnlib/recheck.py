"""A witness asked again of the network itself, as the competition does."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from torchproof.core.errors import FileError, InputError, MissingExtra
from torchproof.verify.vnnlib.case import Property, Vector, flat, violated
from torchproof.verify.vnnlib.witness import Witness

SPEC_ATOL = 1e-4
"""VNN-COMP: by how much a witness may be outside the box, and until 2025 above a limit."""

OUTPUT_RTOL = 1e-3
"""VNN-COMP until 2025: how far the stated outputs may be from those of the network, both in the
largest entry.
"""

Network = Callable[[Vector], Any]
"""Flat inputs (n,) in float64 to outputs of K elements, in any shape."""

_KINDS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


@dataclass(frozen=True, eq=False)
class Recheck:
    """What a network says of a witness.

    exact: the point as written is in the box, and the outputs of the network violate the property,
    without any tolerance. near: the same with the box SPEC_ATOL larger (the rule of 2026). stated:
    the outputs that the witness states match those of the network up to OUTPUT_RTOL, and violate
    the property up to SPEC_ATOL (the rule until 2025). gap: the relative difference of the outputs.
    y (K,): those of the network. seen: as `exact`, at the point as the network's own precision
    rounds it. by: who ran the network.
    """

    exact: bool
    near: bool
    stated: bool
    seen: bool
    gap: float
    y: Vector
    by: str


def recheck(
    onnx: str | os.PathLike[str],
    property: Property,
    witness: Witness,
    network: Network | None = None,
) -> Recheck:
    """Runs the network of an .onnx or .onnx.gz file on a witness, with onnxruntime.

    Without onnxruntime `network` is asked, another reader of the same file. Raises MissingExtra
    where there is neither, FileError for a network that does not load or run, InputError for one of
    other sizes than the property.
    """
    try:
        runtime = _runtime()
    except MissingExtra:
        if network is None:
            raise
        point = seen = witness.x
        y, by = flat(network(point), property.outputs, "outputs"), "the network given"
    else:
        y, seen = _run(runtime, Path(onnx), property, witness.x)
        by = f"onnxruntime {runtime.__version__}"
    return judged(property, witness, y, seen, by)


def judged(property: Property, witness: Witness, y: Vector, seen: Vector, by: str) -> Recheck:
    """The verdicts on a witness, where the network answers y (K,) and saw the point `seen` (n,)."""
    gap, size = _largest(y - witness.y), _largest(witness.y)
    gap = gap / size if size >= 1e-6 else 0.0  # as the competition, which divides by no zero
    stated = gap <= OUTPUT_RTOL and violated(
        property, witness.x, witness.y, input_atol=SPEC_ATOL, output_atol=SPEC_ATOL
    )
    return Recheck(
        exact=violated(property, witness.x, y),
        near=violated(property, witness.x, y, input_atol=SPEC_ATOL),
        stated=stated,
        seen=violated(property, seen, y),
        gap=gap,
        y=y,
        by=by,
    )


def _largest(values: Vector) -> float:
    top = float(np.abs(values).max())
    return math.inf if math.isnan(top) else top


def _runtime() -> ModuleType:
    try:
        import onnxruntime
    except Exception as error:  # a broken installation raises more than ImportError
        reason = f"{type(error).__name__}: {error}"
        remedy = "pip install 'torchproof[onnx]', or give a network to ask"
        given = f"a witness to run again ({reason})"
        raise MissingExtra(given, "the package onnxruntime", remedy) from error
    package: ModuleType = onnxruntime
    return package


def _run(runtime: ModuleType, path: Path, property: Property, x: Vector) -> tuple[Vector, Vector]:
    """The outputs (K,), and the point (n,) in the precision of the network."""
    session = _session(runtime, path)
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _KINDS:
        given = f"{path} with inputs {', '.join(f'{i.name}: {i.type}' for i in inputs)}"
        raise InputError(given, "one input of real numbers", "use the network of this property")
    shape = [side if isinstance(side, int) and side > 0 else 1 for side in inputs[0].shape]
    if math.prod(shape) != property.inputs:
        given = f"{path} with inputs of shape {inputs[0].shape}"
        remedy = "use the network of this property"
        raise InputError(given, f"{property.inputs} inputs", remedy)
    seen = x.astype(_KINDS[inputs[0].type])
    try:
        answer = session.run(None, {inputs[0].name: seen.reshape(shape)})[0]
    except Exception as error:  # onnxruntime has its own errors
        raise _failed(path, error) from error
    return flat(answer, property.outputs, "outputs"), seen.astype(np.float64)


def _session(runtime: ModuleType, path: Path) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        model = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else str(path)
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own errors
        raise _failed(path, error) from error


def _failed(path: Path, error: Exception) -> FileError:
    given = f"{path} ({type(error).__name__}: {error})"
    return FileError(given, "an ONNX network that onnxruntime runs", "export it again")
