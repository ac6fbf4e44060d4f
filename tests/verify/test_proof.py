"""Certificates as files, and the checker that confirms or rejects them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, ModelError, UnknownName
from torchproof.core.threats import Both, Relative, parse
from torchproof.verify import graph_of
from torchproof.verify.bounds import CROWN, CROWN_IBP, IBP, Bound
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet
from torchproof.verify.sound import check as module
from torchproof.verify.sound import sound_margins
from torchproof.verify.sound.check import check
from torchproof.verify.sound.proof import METHODS, Member, Replay, write_proof

EPS = {"linf": 0.03, "l2": 0.1, "l1": 0.2, "l0": 1}


class Shifted(nn.Module):
    """Convolutions of every sort, behind a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(4, 4, 2, dilation=2, groups=2, bias=False), nn.ReLU(), nn.Flatten(),
            nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(((x - 0.4) / 0.3) * 1.1)
        return logits


@pytest.fixture(scope="module")
def case() -> tuple[Graph, Tensor, Tensor]:
    """A network, eight images and what it calls them."""
    torch.manual_seed(3)
    net = Shifted().double().eval().requires_grad_(False)
    x = torch.rand(8, 2, 6, 6).double()
    return graph_of(net, x), x, net(x).argmax(1)


@pytest.fixture
def written(case: tuple[Graph, Tensor, Tensor], tmp_path: Path) -> Path:
    graph, x, y = case
    assert len(write_proof(tmp_path / "proof.json", graph, x, y, parse("linf:0.03"))) >= 3
    return tmp_path / "proof.json"


def verdicts(path: Path) -> set[str]:
    return {verdict.split(":")[0] for _, verdict in check(path)}


@pytest.mark.parametrize(
    ("method", "norm"),
    [*((method, "linf") for method in METHODS), ("crown", "l2"), ("crown", "l1"), ("crown", "l0"),
     ("alpha-crown", "l2")],
)  # fmt: skip
def test_what_is_certified_is_confirmed(
    case: tuple[Graph, Tensor, Tensor], tmp_path: Path, method: str, norm: str
) -> None:
    graph, x, y = case
    about = parse(f"{norm}:{EPS[norm]}")
    path = tmp_path / "proof.json"
    sure = write_proof(path, graph, x, y, about, method, range(10, 18))
    found = sound_margins(graph, x, y, about, method)
    close = (found.lower - found.error).amin(1) > 1e-6
    assert sure == [10 + i for i in close.nonzero()[:, 0].tolist()]
    assert method in ("ibp", "crown-ibp") or len(sure) >= 2
    assert [name for name, _ in check(path)] == sure and verdicts(path) <= {"confirmed"}
    for of in json.loads(path.read_text())["examples"]:
        i = of["id"] - 10
        room = 1e-3 if method == "alpha-crown-full" else 1e-6  # slopes in the file are a byte each
        same = np.allclose(of["margin"], found.lower[i], rtol=0, atol=room)
        below = bool((torch.tensor(of["margin"]) <= found.lower[i] + room).all())
        # branch and bound may be done after an earlier pass, the file says what one member does
        assert same or method == "bab" or (method == "best" and below)
        assert all(0 < e < 1e-6 for e in of["error_bound"])


def _slope(of: dict[str, Any]) -> None:
    """The lower lines of open neurons become the other piece."""
    for z in of["bounds"]:
        z["slope"] = [1 - s for s in z["slope"]]


def _tighter(of: dict[str, Any]) -> None:
    for z in of["bounds"][1:]:
        z["upper"] = [u - 0.2 * (u - low) for low, u in zip(z["lower"], z["upper"], strict=True)]


def _tighter_by_a_little(of: dict[str, Any]) -> None:
    low, upper = of["bounds"][0]["lower"], of["bounds"][0]["upper"]
    widest = max(range(len(low)), key=lambda i: upper[i] - low[i])
    low[widest] += 1e-6 * (upper[widest] - low[widest])


def _label(of: dict[str, Any]) -> None:
    of["label"] = (of["label"] + 1) % 3


def _margin(of: dict[str, Any]) -> None:
    of["margin"] = [m + 1e-5 for m in of["margin"]]


def _input(of: dict[str, Any]) -> None:
    of["input"] = [1 - v for v in of["input"]]


def _nothing(of: dict[str, Any]) -> None:
    of["bounds"] = [{k: [float("nan")] * len(v) for k, v in z.items()} for z in of["bounds"]]


def _fewer(of: dict[str, Any]) -> None:
    of["margin"], of["error_bound"] = of["margin"][:1], of["error_bound"][:1]


def _negative(of: dict[str, Any]) -> None:
    of["error_bound"] = [m + 1.0 for m in of["margin"]]


@pytest.mark.parametrize(
    "change",
    [_slope, _tighter, _tighter_by_a_little, _label, _margin, _input, _nothing, _fewer, _negative],
)
def test_tampered_certificates_are_rejected(written: Path, change: Callable[..., None]) -> None:
    proof = json.loads(written.read_text())
    for of in proof["examples"]:
        change(of)
    written.write_text(json.dumps(proof))
    assert "rejected" in verdicts(written)
    if change is not _slope:  # an example without open neurons has no slope to change
        assert verdicts(written) == {"rejected"}


def test_several_members_may_certify_together(
    case: tuple[Graph, Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where none of them certifies every margin: a part of the entry for each that is needed."""
    graph, x, y = case
    monkeypatch.setattr(Replay, "_member", _one_margin_each)
    path = tmp_path / "proof.json"
    (kept,) = write_proof(path, graph, x[:1], y[:1], parse("linf:0.03"), "best", [4])
    (of,) = json.loads(path.read_text())["examples"]
    assert kept == 4 and len(of["parts"]) == 2 and "bounds" not in of
    assert verdicts(path) == {"confirmed"}
    proof = json.loads(path.read_text())
    for change in (
        {"parts": []}, {"parts": [of["parts"][0] | {"bounds": of["parts"][0]["bounds"][1:]}]},
        {"input": [1 - v for v in of["input"]],
         "parts": [part | {"input": of["input"]} for part in of["parts"]]},
    ):  # fmt: skip
        path.write_text(json.dumps(proof | {"examples": [of | change]}))
        assert verdicts(path) == {"rejected"}


def _one_margin_each(self: Replay, inside: InputSet, y: Tensor, bound: Bound) -> Member:
    """Of IBP's place the first margin alone, by CROWN; of CROWN-IBP's place the second."""
    t = (IBP, CROWN_IBP).index(bound) if bound in (IBP, CROWN_IBP) else -1
    lower, error, parts = OWN(self, inside, y, IBP if t < 0 else CROWN)
    nothing = torch.full_like(lower, -1.0)
    if t >= 0:
        nothing[:, t] = lower[:, t]
    return Member(nothing, error, parts)


OWN = Replay._member


def test_another_set_and_other_weights_are_rejected(written: Path) -> None:
    proof = json.loads(written.read_text())
    proof["set"]["eps"] *= 1.5
    other = written.with_name("other.json")
    other.write_text(json.dumps(proof))
    assert verdicts(other) == {"rejected"}
    with np.load(written.with_suffix(".npz")) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["1.weight" if "1.weight" in arrays else next(iter(arrays))] *= 1.0 + 1e-7
    np.savez(written.with_suffix(".npz"), **arrays)
    assert check(written) == [(None, "the weights are not those that it is about")]
    # with the digest made to fit, what the bounds say does not
    layers = proof["network"]["layers"]
    for name in arrays:
        arrays[name] = arrays[name] * 0.5
    np.savez(written.with_suffix(".npz"), **arrays)
    from torchproof.verify.sound.chain import Chain

    proof["network"]["sha256"] = Chain(tuple(layers), arrays, (), (2, 6, 6)).sha256
    proof["set"]["eps"] /= 1.5
    other.write_text(json.dumps(proof))
    assert verdicts(other) == {"rejected"}


@pytest.mark.parametrize("what", ["kernel", "input"])
def test_the_same_numbers_in_other_shapes_are_other_weights(written: Path, what: str) -> None:
    proof = json.loads(written.read_text())
    with np.load(written.with_suffix(".npz")) as file:
        arrays = {name: file[name] for name in file.files}
    if what == "kernel":
        (name,) = [n for n, a in arrays.items() if a.shape == (4, 2, 3, 3)]
        arrays[name] = arrays[name].reshape(4, 2, 9, 1)
        np.savez(written.with_suffix(".npz"), **arrays)
    else:
        proof["network"]["input"] = [2, 4, 9]
        written.write_text(json.dumps(proof))
    ((_, told),) = check(written)
    assert told == "the weights are not those that it is about"


@pytest.mark.parametrize("change", [{"label": 9}, {"label": None}, {"classes": []}, {"slopes": 3}])
def test_nonsense_is_rejected(written: Path, change: dict[str, Any]) -> None:
    proof = json.loads(written.read_text())
    proof["examples"][0] |= change
    written.write_text(json.dumps(proof))
    assert check(written)[0][1].startswith("rejected")


def test_no_sample_of_a_confirmed_set_has_a_smaller_margin(
    case: tuple[Graph, Tensor, Tensor], written: Path
) -> None:
    graph, x, y = case
    proof = json.loads(written.read_text())
    for of in proof["examples"]:
        i = of["id"]
        near = x[i] + 0.03 * (2 * torch.rand(500, 2, 6, 6, dtype=torch.float64) - 1).sign()
        z = graph.run(near.clamp(0, 1))[graph.output]
        others = [t for t in range(3) if t != int(y[i])]
        least = (z[:, int(y[i]), None] - z[:, others]).amin(0)
        assert all(least[k] >= of["margin"][k] - of["error_bound"][k] for k in range(2))


def test_the_checker_stands_alone(written: Path, tmp_path: Path) -> None:
    """It imports NumPy alone, and runs where nothing else of the project is."""
    source = Path(module.__file__)
    names = {
        (n.module if isinstance(n, ast.ImportFrom) else n.names[0].name) or ""
        for n in ast.walk(ast.parse(source.read_text()))
        if isinstance(n, (ast.Import, ast.ImportFrom))
    }
    assert {n.split(".")[0] for n in names} <= {"numpy", *sys.stdlib_module_names}
    copied = tmp_path / "alone" / "check.py"
    copied.parent.mkdir()
    copied.write_bytes(source.read_bytes())
    ran = subprocess.run([sys.executable, "-I", copied, written], capture_output=True, text=True)
    assert ran.returncode == 0 and "confirmed" in ran.stdout, ran.stderr
    proof = json.loads(written.read_text())
    _margin(proof["examples"][0])
    written.write_text(json.dumps(proof))
    ran = subprocess.run([sys.executable, "-I", copied, written], capture_output=True, text=True)
    assert ran.returncode == 1 and "rejected: the margins do not follow" in ran.stdout


def test_what_has_no_proof_is_refused(tmp_path: Path) -> None:
    x, y, path = torch.rand(1, 1, 4, 4), torch.tensor([0]), tmp_path / "p.json"
    pooled = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2)
    ).eval()
    with pytest.raises(ModelError, match="row_max at"):
        write_proof(path, pooled, x, y, parse("linf:0.1"))
    with pytest.raises(UnknownName, match="crown"):
        write_proof(path, pooled, x, y, parse("linf:0.1"), "deepz")
    with pytest.raises(InputError, match="Threat"):
        write_proof(path, pooled, x, y, Both(parse("linf:0.1"), Relative(0.1)))  # type: ignore[arg-type]
    assert not path.exists()


def test_a_trained_network(
    networks: Callable[[str], nn.Module], data_dir: Path, tmp_path: Path
) -> None:
    with np.load(data_dir / "mnist.npz") as stored:
        x = torch.from_numpy(stored["x_test"][:2]).permute(0, 3, 1, 2).float() / 255
        y = torch.from_numpy(stored["y_test"][:2]).long()
    path = tmp_path / "proof.json"
    assert write_proof(path, networks("mnist_mlp_6x100"), x, y, parse("linf:0.02")) == [0, 1]
    assert verdicts(path) == {"confirmed"}
