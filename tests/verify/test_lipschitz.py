"""Radii from Lipschitz constants: exact where they can be, never too large, in order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.attack import PGD, Attack
from torchproof.core.errors import InputError, UnknownName
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.objectives import Margin
from torchproof.core.threats import Threat
from torchproof.verify import graph_of
from torchproof.verify.lipschitz import METHODS, certified_at, op_norm, radius
from torchproof.verify.lipschitz.margin import dual, from_joint, margins_at
from torchproof.verify.lipschitz.op_norm import Constants

NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2(), "l1": L1()}
ORDER = {"linf": torch.inf, "l2": 2, "l1": 1}  # as torch.linalg names operator norms


class Block(nn.Module):
    """Normalising, a residual block, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(48, 4)
        self.norm.running_mean = torch.tensor([0.1, -0.2, 0.3])
        self.norm.running_var = torch.tensor([0.5, 2.0, 1.0])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.c1((x - 0.4) / 0.3))
        logits: Tensor = self.head(
            (h + nn.functional.leaky_relu(self.norm(self.c2(h)), 0.3)).flatten(1)
        )
        return logits


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 4)
    )


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, 2), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(4, 4),
    )  # fmt: skip


class Case:
    """A random network in float64, images, and as labels what it answers."""

    def __init__(self, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
        torch.manual_seed(4)
        self.net = make().double().eval().requires_grad_(False)
        self.x = torch.rand(3, *shape, dtype=torch.float64)
        self.y = self.net(self.x).argmax(1)
        self.graph = graph_of(self.net, self.x)
        self._radii: dict[str, dict[str, Tensor]] = {}

    def radii(self, norm: str) -> dict[str, Tensor]:
        """By method, found once."""
        if norm not in self._radii:
            self._radii[norm] = {
                m: radius(self.graph, self.x, self.y, NORMS[norm], m) for m in METHODS
            }
        return self._radii[norm]


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {
        "mlp": Case(mlp, (3, 2, 2)), "conv": Case(conv, (2, 4, 4)), "block": Case(Block, (2, 4, 4))
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(NORMS))
def test_exact_on_affine_networks(name: str) -> None:
    """margin / ||w_y - w_t||_q, over several layers that are one map; wrong labels have 0."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 5)).double().eval()
    x = torch.rand(4, 2, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        logits, zero = net(x), net(torch.zeros_like(x[:1]))
        weights = (net(torch.eye(32, dtype=torch.float64).view(32, 2, 4, 4)) - zero).T
    y = logits.argmax(1)
    q = {"linf": 1, "l2": 2, "l1": torch.inf}[name]
    expected = []
    for row, label in enumerate(y.tolist()):
        ratios = [
            (logits[row, label] - logits[row, t])
            / torch.linalg.vector_norm(weights[label] - weights[t], ord=q)
            for t in range(5)
            if t != label
        ]
        expected.append(min(ratios))
    graph = graph_of(net, x)
    for method in METHODS:
        found = radius(graph, x, y, NORMS[name], method)
        assert torch.allclose(found, torch.stack(expected), rtol=1e-9), method
        assert not bool(radius(graph, x, (y + 1) % 5, NORMS[name], method).any())


@pytest.mark.parametrize("name", sorted(NORMS))
def test_the_product_of_operator_norms(cases: dict[str, Case], name: str) -> None:
    """Against the formula, with singular values for L2; a residual block is 1 + that of its
    branch, and batch norm is merged with the convolution before it.
    """
    case, order = cases["mlp"], ORDER[name]
    first, second, third = (m.weight for m in case.net.modules() if isinstance(m, nn.Linear))
    product = float(torch.linalg.matrix_norm(first, ord=order))
    product *= float(torch.linalg.matrix_norm(second, ord=order))
    logits, expected = case.net(case.x), []
    for row, label in enumerate(case.y.tolist()):
        expected.append(
            min(
                float(logits[row, label] - logits[row, t])
                / (float(dual(NORMS[name]).length((third[label] - third[t])[None])) * product)
                for t in range(4)
                if t != label
            )
        )
    found = radius(case.graph, case.x, case.y, NORMS[name], "op-norm")
    assert found.tolist() == pytest.approx(expected, rel=1e-2 if name == "l2" else 1e-9)
    assert bool((found <= torch.tensor(expected, dtype=torch.float64) * (1 + 1e-12)).all())

    block = cases["block"].net
    assert isinstance(block, Block)
    unit = torch.eye(48, dtype=torch.float64).view(48, 3, 4, 4)
    branch = block.norm(block.c2(unit)) - block.norm(block.c2(torch.zeros_like(unit[:1])))
    before = torch.eye(32, dtype=torch.float64).view(32, 2, 4, 4) / 0.3
    start = block.c1(before) - block.c1(torch.zeros_like(before[:1]))
    one, two = (torch.linalg.matrix_norm(t.flatten(1).T, ord=order) for t in (start, branch))
    graph = cases["block"].graph
    made = Constants.made(graph, NORMS[name], cases["block"].x)
    joined = next(n.name for n in reversed(graph.nodes) if n.kind == "add")
    assert float(made.whole(joined)) == pytest.approx(float(one * (1 + two)), rel=1e-2)


def test_maps_that_are_too_large_for_a_matrix(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Node by node: never less than the map as a whole, and exact for a chain of single ones."""
    for name, norm in NORMS.items():
        for key in ("conv", "block"):
            case = cases[key]
            whole = radius(case.graph, case.x, case.y, norm, "op-norm")
            with monkeypatch.context() as patch:
                patch.setattr(op_norm, "ENTRIES", 0)
                parts = radius(case.graph, case.x, case.y, norm, "op-norm")
                patch.setattr(op_norm, "ENTRIES", 2**24)
                patch.setattr(op_norm, "SIDE", 0)
                side = radius(case.graph, case.x, case.y, norm, "op-norm")
            assert bool(((parts > 0) & (parts <= whole * (1 + 1e-9))).all())
            assert bool(((side >= parts * (1 - 1e-9)) & (side <= whole * (1 + 1e-9))).all())
            if key == "conv" and name != "l2":
                assert torch.allclose(parts, whole)


def test_fast_lip_with_one_hidden_layer() -> None:
    """The bound of Weng et al. 2018 entry by entry, with intervals of the hidden layer, which are
    exact there.
    """
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    x = torch.rand(3, 1, 2, 3, dtype=torch.float64)
    net.requires_grad_(False)
    y = net(x).argmax(1)
    first, last, eps = net[1], net[3], 0.2
    found = METHODS["fast-lip"].lipschitz(  # type: ignore[attr-defined]
        graph_of(net, x), x, y, Linf(), torch.full((3,), eps, dtype=torch.float64)
    )
    for row, label in enumerate(y.tolist()):
        z, reach = first(x[row].flatten()), eps * first.weight.abs().sum(1)
        for column, t in enumerate(t for t in range(3) if t != label):
            low, high = torch.zeros(6).double(), torch.zeros(6).double()
            for i in range(8):
                term = (last.weight[label, i] - last.weight[t, i]) * first.weight[i]
                zero = torch.zeros_like(term)
                if z[i] - reach[i] >= 0:
                    low, high = low + term, high + term
                elif z[i] + reach[i] > 0:
                    low, high = low + torch.minimum(term, zero), high + torch.maximum(term, zero)
            expected = float(torch.maximum(low.abs(), high.abs()).sum())
            assert float(found[row, column]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("key", ["mlp", "conv", "block"])
def test_no_adversarial_example_within_a_radius(cases: dict[str, Case], key: str) -> None:
    """PGD with restarts on the margin, without the pixel box, finds none; within a hundred
    times a radius it finds one, so it can.
    """
    case = cases[key]
    for name, norm in NORMS.items():
        radii = case.radii(name)
        for row in range(2):
            best = max(float(r[row]) for r in radii.values())
            assert best > 0
            assert not attacked(case, row, norm, best * 0.999)
    assert attacked(case, 0, Linf(), 100 * float(case.radii("linf")["recur-jac"][0]))


def attacked(case: Case, row: int, norm: Norm, eps: float) -> bool:
    threat = Threat(norm, eps, low=-np.inf, high=np.inf)
    attack = Attack(threat, Margin(), PGD(steps=15), restarts=2)
    x, y = case.x[row : row + 1], case.y[row : row + 1]
    found = attack(case.net, x, y)
    return bool((case.net(x + found.value).argmax(1) != y).any())


@pytest.mark.parametrize("key", ["mlp", "conv", "block"])
def test_order(cases: dict[str, Case], key: str) -> None:
    """Fast-Lip is never behind the product of norms in Linf and L1 on these networks, where
    |J| <= |w| |W_k| ... |W_1| entry by entry (in L2 the norm of |W| may exceed that of W); linear
    bounds that keep signs are never behind intervals, nor chords behind numbers.
    """
    case = cases[key]
    room = 1 + 2**-9  # of the search
    for name in NORMS:
        radii = list(case.radii(name).values())
        if name != "l2" and key != "block":  # there batch norm is merged into one map
            assert bool((radii[0] <= radii[1] * room).all()), name
        assert bool((radii[1] <= radii[2] * room).all()), name
        assert bool((radii[2] <= radii[3] * room).all()), name
        if key == "mlp":
            assert float(radii[3].mean()) > 1.02 * float(radii[1].mean())


def test_certified_at_agrees_with_the_radius(cases: dict[str, Case]) -> None:
    case = cases["mlp"]
    for method in METHODS:
        found = case.radii("l2")[method]
        for row in range(3):
            x, y = case.x[row : row + 1], case.y[row : row + 1]
            for share, expected in ((0.99, True), (1.01, False)):
                about = Threat(L2(), share * float(found[row]))
                assert bool(certified_at(case.graph, x, y, about, method)) is expected
    alone = radius(case.net, case.x[1:2], case.y[1:2], L2(), "fast-lip")
    assert torch.allclose(alone, case.radii("l2")["fast-lip"][1:2], rtol=1e-9)


def test_one_constant_for_all_logits() -> None:
    """sqrt(2) in L2, 2 in Linf, 1 in L1: attained by an identity, which has the constant 1."""
    x = torch.tensor([[3.0, 1.0, 0.0]]).double()
    gaps = torch.tensor([[2.0, 3.0]]).double()
    net = nn.Sequential(nn.Linear(3, 3, bias=False)).double().eval().requires_grad_(False)
    net[0].weight.copy_(torch.eye(3))
    graph = graph_of(net, x)
    assert torch.equal(margins_at(graph, x, torch.tensor([0])), gaps)
    for norm, factor in ((Linf(), 2.0), (L2(), 2**0.5), (L1(), 1.0)):
        found = from_joint(gaps, 1.0, norm)
        assert float(found) == pytest.approx(2.0 / factor)
        assert torch.allclose(found, radius(graph, x, torch.tensor([0]), norm, "op-norm"))


def test_what_cannot_be_asked(cases: dict[str, Case]) -> None:
    case = cases["mlp"]
    with pytest.raises(InputError, match="l0"):
        radius(case.graph, case.x, case.y, L0())
    with pytest.raises(UnknownName, match="did you mean fast-lip"):
        radius(case.graph, case.x, case.y, L2(), "fastlip")
