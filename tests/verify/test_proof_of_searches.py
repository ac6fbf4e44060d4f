"""Proof files of searches: rows in the middle with slopes of their own, and parts of a tree."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.verify import graph_of
from torchproof.verify.graph import Graph
from torchproof.verify.sound import sound_margins
from torchproof.verify.sound.check import check, covers
from torchproof.verify.sound.proof import write_proof

D, ABOUT = torch.float64, Threat(Linf(), 0.3)


@pytest.fixture(scope="module")
def case() -> tuple[Graph, Tensor, Tensor]:
    """A network whose least margin around an image is small: branching alone certifies it."""
    g, layers = torch.Generator().manual_seed(0), list[nn.Module]([nn.Flatten()])
    for n, m in pairwise((4, 14, 14, 2)):
        layer = nn.Linear(n, m).double()
        layer.weight.data = torch.randn(m, n, generator=g, dtype=D) / n**0.5 * 1.5
        layer.bias.data = torch.randn(m, generator=g, dtype=D) * 0.3
        layers += [layer, nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).eval().requires_grad_(False)
    x = torch.full((1, 1, 2, 2), 0.5, dtype=D)
    z = net(x + 0.3 * (2 * torch.rand(20_000, 1, 2, 2, dtype=D, generator=g) - 1))
    last = net[-1]
    assert isinstance(last, nn.Linear)
    last.bias[0] -= (z[:, 0] - z[:, 1]).min() - 0.05
    return graph_of(net, x), x, torch.tensor([0])


@pytest.fixture(scope="module")
def proof(case: tuple[Graph, Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("proof") / "proof.json"
    assert write_proof(path, *case, ABOUT, "bab") == [0]
    return path


def test_parts_that_cover_the_set_are_confirmed(
    case: tuple[Graph, Tensor, Tensor], proof: Path
) -> None:
    (of,) = json.loads(proof.read_text())["examples"]
    (leaves,) = of["leaves"]
    assert len(leaves) >= 6 and any(any(leaf["weights"]) for leaf in leaves)
    root = sound_margins(*case, ABOUT, "alpha-crown-full")
    assert float(root.lower) < 0 < of["margin"][0] - of["error_bound"][0]
    assert check(proof) == [(0, "confirmed")]


def _dropped(of: dict[str, Any]) -> None:
    of["leaves"][0].pop()


def _all_dropped(of: dict[str, Any]) -> None:
    of["leaves"] = None


def _none(of: dict[str, Any]) -> None:
    of["leaves"][0] = []


def _flipped(of: dict[str, Any]) -> None:
    for leaf in of["leaves"][0]:
        leaf["splits"] = [[k, j, -s] for k, j, s in leaf["splits"]]


def _less_split(of: dict[str, Any]) -> None:
    """A part taken for the whole."""
    leaf = max(of["leaves"][0], key=lambda leaf: len(leaf["splits"]))
    leaf["splits"], leaf["weights"] = [], []


def _negative(of: dict[str, Any]) -> None:
    for leaf in of["leaves"][0]:
        leaf["weights"] = [-10 * w - 1 for w in leaf["weights"]]


def _nan(of: dict[str, Any]) -> None:
    for leaf in of["leaves"][0]:
        leaf["weights"] = [float("nan")] * len(leaf["weights"])


def _infinite(of: dict[str, Any]) -> None:
    for leaf in of["leaves"][0]:
        leaf["weights"] = [float("inf")] * len(leaf["weights"])


def _neither(of: dict[str, Any]) -> None:
    """A sign that is none."""
    for leaf in of["leaves"][0]:
        leaf["splits"] = [[k, j, 2 * s] for k, j, s in leaf["splits"]]


def _larger(of: dict[str, Any]) -> None:
    of["margin"] = [m + 0.05 for m in of["margin"]]


def _nonsense(of: dict[str, Any]) -> None:
    of["leaves"] = [[{"splits": 3, "weights": [], "slopes": "AAAA"}]]


def _other_slopes(of: dict[str, Any]) -> None:
    for leaf in of["leaves"][0]:
        leaf["slopes"] = leaf["slopes"][:-8]


def _fewer_rows(of: dict[str, Any]) -> None:
    """Rows that need slopes of their own are left with those of all."""
    for claim in of["bounds"]:
        claim.pop("rows", None)


@pytest.mark.parametrize(
    "change",
    [_dropped, _all_dropped, _none, _flipped, _less_split, _negative, _nan, _infinite, _neither,
     _larger, _nonsense, _other_slopes, _fewer_rows],
)  # fmt: skip
def test_tampered_trees_are_rejected(proof: Path, change: Callable[..., None]) -> None:
    content = json.loads(proof.read_text())
    change(content["examples"][0])
    other = proof.with_name("other.json")
    other.write_text(json.dumps(content))
    assert check(other)[0][1].startswith("rejected")


def test_slopes_of_rows_in_the_middle_are_confirmed(
    case: tuple[Graph, Tensor, Tensor], tmp_path: Path
) -> None:
    graph, x, y = case
    path, small = tmp_path / "proof.json", Threat(Linf(), 0.12)
    assert write_proof(path, graph, x, y, small, "alpha-crown-full") == [0]
    assert check(path) == [(0, "confirmed")]
    content = json.loads(path.read_text())
    (of,) = content["examples"]
    found = sound_margins(graph, x, y, small, "alpha-crown-full")
    assert np.allclose(of["margin"], found.lower[0], rtol=0, atol=1e-3)  # slopes are a byte each
    assert "rows" not in of["bounds"][0] and of["bounds"][1]["rows"]["entries"]
    del of["bounds"][1]["rows"]
    path.write_text(json.dumps(content))
    assert check(path)[0][1].startswith("rejected: bounds before")


def test_what_covers_all_patterns_of_signs() -> None:
    a, b, c = (0, 0), (0, 1), (1, 0)
    tree: list[dict[tuple[int, int], int]] = [
        {a: 1, b: 1}, {a: 1, b: -1, c: 1}, {a: 1, b: -1, c: -1}, {a: -1}
    ]  # fmt: skip
    assert covers(tree) and covers([{}]) and not covers([])
    assert not any(covers(tree[:i] + tree[i + 1 :]) for i in range(4))
    assert covers([{a: 1}, {b: 1}, {a: -1, b: -1}])  # parts may share patterns
    assert not covers([{a: 1}, {b: 1}, {c: -1}])
