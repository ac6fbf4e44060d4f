"""Certificates that somebody else can check: a JSON file, the weights beside it, and `check.py`.

The file holds what a replay needs: the network, the set, and for each example the intervals before
ReLUs, the slopes of lower lines and the margins. Intervals are rounded outward to nine digits of
the largest, and error bounds widened, so that other arithmetic can confirm them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.core.files import placing, write
from torchproof.core.norms import name_of
from torchproof.core.threats import Threat
from torchproof.verify.bab import ROOT
from torchproof.verify.bounds import BOUNDS, Bound
from torchproof.verify.clock import OutOfTime, limit
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.interval import Interval
from torchproof.verify.sound.branch import bounder_of
from torchproof.verify.sound.chain import Chain, chain_of
from torchproof.verify.sound.margins import ASSUMPTION, in_float64, refuse
from torchproof.verify.sound.passes import Pass
from torchproof.verify.sound.search import slopes_of
from torchproof.verify.sound.witness import Kept, Middle

SCHEMA = "torchproof.proof/3"
METHODS = ("ibp", "crown-ibp", "fast-lin", "crown", "alpha-crown", "alpha-crown-full", "best",
           "bab")  # fmt: skip
DIGITS = 9  # of intervals, from the largest of a layer
ROOM = 1e-9  # by which other arithmetic may differ, as a share of a margin
BATCH = 16  # examples at once


@torch.no_grad()
def write_proof(
    path: Path, model: nn.Module | Graph, x: Tensor, y: Tensor, threat: Threat,
    method: str = "crown", ids: Sequence[int] | None = None, seconds: float = 60.0,
) -> list[int]:  # fmt: skip
    """Writes the certificates of those of x (B, C, H, W) that the method certifies to `path`, and
    the weights to a file of the same name that ends in .npz; answers their ids. seconds: for each
    example, of branch and bound.

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
    chain, names = chain_of(graph, x), list(range(len(x))) if ids is None else list(ids)
    branching = method == "bab"
    bounds = ROOT[-1:] if branching else BOUNDS[method]
    examples: list[dict[str, Any]] = []
    for some in torch.split(torch.arange(len(x)), 1 if branching else BATCH):
        replay = Replay(graph, chain, bounds, branching)
        with limit(seconds if branching else None):
            found = replay.told(InputSet.of(x[some], threat), y[some])
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


class Member(NamedTuple):
    """What one way to bound says: lower, error (B, K - 1), and the rest of the file's entry of each
    example.
    """

    lower: Tensor
    error: Tensor
    parts: list[dict[str, Any]]


@dataclass
class Replay:
    """Finds out what the file has to say, by several ways to bound; branching: of trees, too, for
    one example at a time.
    """

    graph: Graph
    chain: Chain
    bounds: tuple[Bound, ...]
    branching: bool
    middle: Middle = field(default_factory=Middle)

    def told(self, inside: InputSet, y: Tensor) -> list[dict[str, Any]]:
        """What the file says of each example, nothing of those that are not certified."""
        try:
            return self._told(inside, y)
        except OutOfTime:
            return [{}] * len(y)

    def _told(self, inside: InputSet, y: Tensor) -> list[dict[str, Any]]:
        members, told = [self._member(inside, y, bound) for bound in self.bounds], []
        for i in range(len(y)):
            lower = torch.stack([m.lower[i] for m in members])
            error = torch.stack([m.error[i] for m in members])
            sure = lower - error
            decides = int(sure.amin(1).argmax())
            best = torch.full_like(sure[0], decides, dtype=torch.long)
            if not bool((sure[decides] > 0).all()):  # several, each for some of the margins
                best = sure.argmax(0)
            parts = [members[m].parts[i] for m in sorted(set(best.tolist()))]
            lower, error, sure = (t.gather(0, best[None])[0] for t in (lower, error, sure))
            about = {"label": int(y[i]), "classes": len(best) + 1,
                     "input": inside.x[i].flatten().tolist(),
                     "margin": lower.tolist(), "error_bound": error.tolist()}  # fmt: skip
            own = parts[0] if len(parts) == 1 else {"parts": parts}
            told.append(about | own if bool((sure > 0).all()) else {})
        return told

    def _member(self, inside: InputSet, y: Tensor, bound: Bound) -> Member:
        middle = self.middle if bound.middle_steps else None
        passed = Pass.of(self.graph, inside, bound, _rounded, middle)
        classes = passed.walk.single[self.graph.output].shape[-1]
        rows, slopes = rows_of(y, classes).to(inside.x.dtype), {}
        if bound.steps:
            found = slopes_of(passed.walk, rows, bound.steps)
            slopes = {name: torch.round(s, decimals=6) for name, s in found.items()}
        lower, error = (part.clone() for part in passed.lower(rows, slopes))
        leaves = self._leaves(passed, rows[0], lower, error) if self.branching else None
        bent, parts = self._bent(passed), []
        for i in range(len(y)):
            own = [slopes[name][i].flatten(1).tolist() for name in bent] if slopes else None
            parts.append({"bounds": self._bounds(passed, i), "slopes": own, "leaves": leaves})
        return Member(lower, 8 * error + ROOM * lower.abs(), parts)

    def _bent(self, passed: Pass) -> list[str]:
        return [node.name for node in self.graph.nodes if node.name in passed.curved]

    def _bounds(self, passed: Pass, i: int) -> list[dict[str, Any]]:
        """Of example i, before each ReLU."""
        bounds = []
        for before, name in zip(self.chain.before, self._bent(passed), strict=True):
            z, slope = passed.intervals[before], passed.walk.lines[name].lines.low[0]
            parts = {"lower": z.lower, "upper": z.upper, "slope": slope}
            own: dict[str, Any] = {key: t[i].flatten().tolist() for key, t in parts.items()}
            rows = self.middle.told(before, i, z.lower.shape[1:])
            bounds.append(own | ({} if rows is None else {"rows": rows}))
        return bounds

    def _leaves(
        self, passed: Pass, rows: Tensor, lower: Tensor, error: Tensor
    ) -> list[list[dict[str, Any]] | None]:
        """Of each margin that the pass leaves open the parts that a tree closes; puts what these
        have in common into `lower` and `error` (1, K - 1).
        """
        open_ = (lower[0] - 8 * error[0] - ROOM * lower[0].abs() <= 0).nonzero()[:, 0]
        leaves: list[list[dict[str, Any]] | None] = [None] * len(rows)
        if len(open_):
            tree = Kept(bounder_of(passed, rows[open_]), falsify=False)
            split = tree.run()
            lower[0, open_], error[0, open_] = split.lower, split.error
            bent = self._bent(passed)
            for question, t in enumerate(open_.tolist()):
                leaves[t] = tree.leaves(question, bent)
        return leaves


def _rounded(z: Interval) -> Interval:
    """Outward, by one or two units of the last digit that is kept."""
    largest = torch.maximum(z.lower.abs(), z.upper.abs()).flatten(1).amax(1).clamp_min(1e-200)
    digits = DIGITS - 1 - largest.log10().floor()
    scale = (10.0**digits).view(-1, *[1] * (z.lower.dim() - 1))
    lower, upper = ((z.lower * scale).floor() - 1) / scale, ((z.upper * scale).ceil() + 1) / scale
    return Interval(lower, upper)
