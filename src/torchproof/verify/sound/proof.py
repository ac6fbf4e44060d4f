"""Certificates that somebody else can check: a JSON file, the weights beside it, and `check.py`.

The file holds what a replay needs: the network, the set, and for each example the intervals before
ReLUs, the slopes of lower lines and the margins. Intervals are rounded outward to nine digits of
the largest, and error bounds widened, so that other arithmetic can confirm them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.core.files import placing, write
from torchproof.core.norms import name_of
from torchproof.core.threats import Threat
from torchproof.verify.bounds import BOUNDS, Bound
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.interval import Interval
from torchproof.verify.sound.chain import Chain, chain_of
from torchproof.verify.sound.margins import ASSUMPTION, in_float64, refuse, slopes_found
from torchproof.verify.sound.passes import Pass

SCHEMA = "torchproof.proof/2"
METHODS = ("ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown")
DIGITS = 9  # of intervals, from the largest of a layer
ROOM = 1e-9  # by which other arithmetic may differ, as a share of a margin
BATCH = 16  # examples at once


@torch.no_grad()
def write_proof(
    path: Path, model: nn.Module | Graph, x: Tensor, y: Tensor, threat: Threat,
    method: str = "crown", ids: Sequence[int] | None = None,
) -> list[int]:  # fmt: skip
    """Writes the certificates of those of x (B, C, H, W) that the method certifies to `path`, and
    the weights to a file of the same name that ends in .npz; answers their ids.

    Raises UnknownName for a method that is none of METHODS, InputError for a threat that is no
    Threat on inputs, ModelError for a network that is no chain of dense and convolutional layers,
    ReLUs and constants, FileError.
    """
    if method not in METHODS:
        raise unknown("method of a proof", method, METHODS)
    if not isinstance(threat, Threat):
        raise InputError(f"{threat}", "a Threat on the input", "write linf:8/255")
    x, graph = x.double(), in_float64(model, x)
    refuse(graph, x)
    chain, (bound,) = chain_of(graph, x), BOUNDS[method]
    names = list(range(len(x))) if ids is None else list(ids)
    examples: list[dict[str, Any]] = []
    for some in torch.split(torch.arange(len(x)), BATCH):
        found = _replayed(graph, chain, x[some], y[some], threat, bound)
        own = zip(some.tolist(), found, strict=True)
        examples += [{"id": names[i], **of} for i, of in own if of]
    weights = path.with_suffix(".npz")
    with placing(weights) as part:
        np.savez_compressed(part, **chain.arrays)  # type: ignore[arg-type]
    content = {
        "schema": SCHEMA,
        "network": {"sha256": chain.sha256, "weights": weights.name, "input": list(x.shape[1:]),
                    "layers": chain.layers},
        "set": {"norm": name_of(threat.norm), "eps": threat.eps, "low": threat.low,
                "high": threat.high},
        "method": method,
        "assumptions": ASSUMPTION,
        "examples": examples,
    }  # fmt: skip
    write(path, json.dumps(content, allow_nan=False).encode())
    return [of["id"] for of in examples]


def _replayed(
    graph: Graph, chain: Chain, x: Tensor, y: Tensor, threat: Threat, bound: Bound
) -> list[dict[str, Any]]:
    """What the file says of each example, nothing of those that are not certified."""
    inside = InputSet.of(x, threat)
    passed = Pass.of(graph, inside, bound, _rounded)
    classes = passed.walk.single[graph.output].shape[-1]
    rows, slopes = rows_of(y, classes).to(x.dtype), {}
    if bound.steps:
        found_slopes, _ = slopes_found(graph, inside, rows, bound)
        slopes = {name: torch.round(s, decimals=6) for name, s in found_slopes.items()}
    lower, error = passed.lower(rows, slopes)
    error = 8 * error + ROOM * lower.abs()
    bent = [node.name for node in graph.nodes if node.name in passed.curved]
    told: list[dict[str, Any]] = []
    for i in range(len(x)):
        if not bool((lower[i] - error[i] > 0).all()):
            told.append({})
            continue
        bounds = []
        for before, name in zip(chain.before, bent, strict=True):
            z, slope = passed.intervals[before], passed.walk.lines[name].lines.low[0]
            parts = {"lower": z.lower, "upper": z.upper, "slope": slope}
            bounds.append({key: t[i].flatten().tolist() for key, t in parts.items()})
        own = [slopes[name][i].flatten(1).tolist() for name in bent] if slopes else None
        told.append({"label": int(y[i]), "classes": classes, "input": x[i].flatten().tolist(),
                     "margin": lower[i].tolist(), "error_bound": error[i].tolist(),
                     "bounds": bounds, "slopes": own})  # fmt: skip
    return told


def _rounded(z: Interval) -> Interval:
    """Outward, by one or two units of the last digit that is kept."""
    largest = torch.maximum(z.lower.abs(), z.upper.abs()).flatten(1).amax(1).clamp_min(1e-200)
    digits = DIGITS - 1 - largest.log10().floor()
    scale = (10.0**digits).view(-1, *[1] * (z.lower.dim() - 1))
    lower, upper = ((z.lower * scale).floor() - 1) / scale, ((z.upper * scale).ceil() + 1) / scale
    return Interval(lower, upper)
