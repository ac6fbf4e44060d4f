"""Semidefinite bounds: between linear programmes and the exact margin, whoever found them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, MissingExtra, ModelError
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import Threat
from torchproof.verify import graph_of, margins
from torchproof.verify.bounds import CROWN, Pass
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.lp import lp_margins
from torchproof.verify.milp import milp_margins
from torchproof.verify.sdp import lmi_margins, lmi_verify, sdp_fo_margins, sdp_margins, sdp_verify
from torchproof.verify.sdp.climb import linear_kappa
from torchproof.verify.sdp.eigenvalue import dual_value, lanczos, proved
from torchproof.verify.sdp.lifted import Lifted
from torchproof.verify.sdp.products import ONE_OF, Quadratic, crown
from torchproof.verify.sdp.sdp_fo import certified
from torchproof.verify.sdp.solver import by_matrix, by_multipliers, proven
from torchproof.verify.sdp.starting import starts
from torchproof.verify.sdp.written import Written

DOUBLE = torch.float64
ABOUT = Threat(Linf(), 0.5)
SLACK = 1e-6  # more than interior points leave of a gap on these networks


class Residual(nn.Module):
    """A convolution, a sum with what went into it, a strided view of all that."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 2, 3, 1, 1), nn.Conv2d(2, 2, 3, 1, 1)
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.one(2 * x - 1))
        logits: Tensor = self.last(F.relu(self.two(h) + h).flatten(1))
        return logits


def dense() -> nn.Module:
    hidden = [nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(4, 3))


class Case(NamedTuple):
    """A random network and its graph, an image (1, 1, 2, 3) and its class; lifted: the problems
    about the image with the threat ABOUT; exact: their margins (1, K - 1).
    """

    net: nn.Module
    graph: Graph
    x: Tensor
    y: Tensor
    lifted: Lifted
    exact: Tensor


@cache
def made(build: Callable[[], nn.Module]) -> Case:
    torch.manual_seed(3)
    net = build().double().eval().requires_grad_(False)
    x = torch.rand(1, 1, 2, 3, dtype=DOUBLE)
    graph, y = graph_of(net, x), net(x).argmax(1)
    (start,) = starts(graph, x, y, ABOUT, None)
    return Case(net, graph, x, y, start.lifted, milp_margins(graph, x, y, ABOUT).lower)


def inputs_of(x: Tensor, count: int) -> Tensor:
    box = InputSet.of(x, ABOUT).box()
    torch.manual_seed(0)
    return box.lower + (box.upper - box.lower) * torch.rand(count, *x.shape[1:], dtype=DOUBLE)


def points(case: Case, count: int) -> Tensor:
    """(count, N) vectors y of inputs in the set, by running the network."""
    graph, lifted, inputs = case.graph, case.lifted, inputs_of(case.x, count)
    values = graph.run(inputs)
    after = [values[node.name].flatten(1) for node in graph.nodes if node.kind == "relu"]
    moved = torch.cat([inputs.flatten(1), *after], 1) - lifted.centre[:1]
    radius = lifted.radius[:1]
    w = torch.where(radius > 0, moved / radius.clamp_min(1e-300), 0.0)
    return torch.cat([torch.ones(count, 1, dtype=DOUBLE), w], 1)


def legal(lifted: Lifted, seed: int) -> Tensor:
    """Random multipliers (P, 5, M)."""
    torch.manual_seed(seed)
    drawn = torch.rand(len(lifted), 5, lifted.low.shape[1], dtype=DOUBLE)
    drawn[:, ONE_OF] -= 0.5
    return drawn


@pytest.mark.parametrize("build", [dense, Residual])
def test_the_quadratic_is_at_most_the_margin_on_the_network(
    build: Callable[[], nn.Module],
) -> None:
    case = made(build)
    lifted, at = case.lifted, points(case, 1000)
    assert lifted.open.any() and lifted.passing.any()
    assert at.abs().max() <= 1 + 1e-9
    for place in range(len(lifted)):
        many = Quadratic(lifted.take(torch.full((1000,), place)))
        multipliers = legal(lifted, place)[place]
        margin = many.lifted.forms(at).margin
        products = many.products(at)
        assert products[:, ONE_OF].abs().max() < 1e-12 and products.min() > -1e-12
        value = (at * many.times(multipliers.expand(1000, -1, -1), at)).sum(1)
        assert (value <= margin + 1e-9).all() and (value < margin - 1e-3).any()
        one = Quadratic(lifted.take(torch.tensor([place])))
        matrix = one.matrix(multipliers[None], torch.ones(at.shape[1], dtype=torch.bool))
        assert torch.allclose(torch.einsum("ri,ij,rj->r", at, matrix, at), value, atol=1e-9)


def test_forms_are_what_the_network_computes() -> None:
    net, _, _, y, lifted, _ = case = made(Residual)
    at = points(case, 50)
    forms = lifted.take(torch.zeros(50, dtype=torch.long)).forms(at)
    hidden = torch.where(lifted.high[:1] > 0, forms.before.clamp_min(0), 0.0)
    assert torch.allclose(forms.after, hidden, atol=1e-12) and forms.before.min() < 0
    inputs = (lifted.centre[0] + lifted.radius[0] * at[:, 1:])[:, :6].view(-1, 1, 2, 3)
    expected = net(inputs) @ rows_of(y, 3)[0, 0].double()
    assert torch.allclose(forms.margin, expected, atol=1e-12)


@pytest.mark.parametrize("build", [dense, Residual])
def test_the_first_value_is_that_of_crown(build: Callable[[], nn.Module]) -> None:
    _, graph, x, y, _, _ = made(build)
    passed = Pass.of(graph, InputSet.of(x, ABOUT), CROWN)
    rows = rows_of(y, 3).double()
    lifted = Lifted.of(passed.walk.graph, passed.intervals, rows[0])
    multipliers = crown(Quadratic(lifted))
    kappa = linear_kappa(Quadratic(lifted), multipliers)
    found = [certified(lifted.take(torch.tensor([i])), multipliers[i], kappa[i]).bound
             for i in (0, 1)]  # fmt: skip
    assert np.allclose(found, passed.lower(rows)[0].numpy(), atol=1e-6)


def test_any_multipliers_give_a_valid_bound() -> None:
    _, _, _, _, lifted, exact = made(dense)
    one = lifted.take(torch.tensor([0]))
    good = crown(Quadratic(one))
    kappa = linear_kappa(Quadratic(one), good)
    for seed in range(20):
        torch.manual_seed(seed)
        size = 0.3 * 10.0 ** -(seed % 4)
        wrong = good[0] + size * torch.randn_like(good[0])  # also of the wrong sign
        off = kappa[0] + size * torch.randn_like(kappa[0])
        assert -100 < certified(one, wrong, off).bound <= exact[0, 0] + 1e-9
    assert certified(one, good[0] * torch.nan, kappa[0]).bound == -np.inf


def test_dual_value_is_below_the_quadratic_on_the_box() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        matrix = torch.randn(5, 5, dtype=DOUBLE)
        matrix, kappa = matrix + matrix.T, torch.randn(5, dtype=DOUBLE)
        least = float(torch.linalg.eigvalsh(matrix + torch.diag(kappa))[0])
        at = torch.rand(2000, 5, dtype=DOUBLE) * 2 - 1
        at[:, 0] = 1.0
        lowest = torch.einsum("ri,ij,rj->r", at, matrix, at).min()
        assert dual_value(kappa, least) <= lowest
    # 5 + 2 w_1 - 4 w_2 is -1 at worst, which the right kappa shows
    linear = torch.tensor([[5.0, 1.0, -2.0], [1.0, 0, 0], [-2.0, 0, 0]], dtype=DOUBLE)
    kappa = torch.tensor([-2.0, 1.0, 2.0], dtype=DOUBLE)
    least = float(torch.linalg.eigvalsh(linear + torch.diag(kappa))[0])
    assert abs(dual_value(kappa, least) + 1.0) < 1e-12


def test_proved_is_below_the_smallest_eigenvalue_whatever_the_guess() -> None:
    torch.manual_seed(0)
    for rank in (1, 7, 20):
        factor = torch.randn(20, rank, dtype=DOUBLE)
        for shift in (0.0, -2.0, 5.0):
            matrix = factor @ factor.T + shift * torch.eye(20, dtype=DOUBLE)
            least = float(torch.linalg.eigvalsh(matrix)[0])
            found = proved(matrix, least)
            assert least - 1e-6 < found < least + 1e-13
            assert proved(matrix, least - 1.0) <= least - 1.0
            assert proved(matrix, least + 1.0) <= least  # too high a guess proves nothing, or less


def test_lanczos_finds_the_lowest_eigenvectors() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(2, 12, 12, dtype=DOUBLE)
    matrix = matrix + matrix.transpose(1, 2)
    matrix[1] = torch.diag(torch.tensor([-1.0, *[2.0] * 11], dtype=DOUBLE))  # used up in two steps
    begin = torch.randn(2, 12, dtype=DOUBLE)
    values, vectors = lanczos(lambda y: torch.bmm(matrix, y[:, :, None])[:, :, 0], begin, 12, 2)
    expected = torch.linalg.eigvalsh(matrix)[:, :2]
    assert torch.allclose(values, expected, atol=1e-9)
    again = torch.bmm(matrix, vectors[:, :1].transpose(1, 2))[:, :, 0]
    assert torch.allclose(again, values[:, :1] * vectors[:, 0], atol=1e-9)
    short = lanczos(lambda y: torch.bmm(matrix, y[:, :, None])[:, :, 0], begin, 4)[0][:, 0]
    assert (short >= expected[:, 0] - 1e-12).all()


@pytest.mark.parametrize("build", [dense, Residual])
def test_first_order_bounds_lie_between_propagation_and_the_exact_margin(
    build: Callable[[], nn.Module],
) -> None:
    net, graph, x, y, _, exact = made(build)
    lower = sdp_fo_margins(graph, x, y, ABOUT, steps=100, every=True).lower
    best, interval = margins(graph, x, y, ABOUT), margins(graph, x, y, ABOUT, "ibp")
    assert (interval <= best).all() and (best < lower - 1e-3).any() and (best <= lower).all()
    assert (lower <= exact + 1e-9).all()
    found = net(inputs_of(x, 10_000)) @ rows_of(y, 3)[0].T.double()
    assert (found >= lower).all()


def test_other_sets_are_bounded_through_their_box() -> None:
    net, graph, x, y, _, _ = made(dense)
    about = Threat(L2(), 0.4)
    lower = sdp_fo_margins(graph, x, y, about, steps=20, every=True).lower
    torch.manual_seed(1)
    moved = InputSet.of(x.expand(10_000, -1, -1, -1), about).ball.project(
        torch.randn(10_000, *x.shape[1:], dtype=DOUBLE)
    )
    assert (net(x + moved) @ rows_of(y, 3)[0].T.double() >= lower).all()
    assert (lower >= margins(graph, x, y, about)).all()


def test_margins_that_are_settled_are_left_alone() -> None:
    _, graph, x, y, _, _ = made(dense)
    small = Threat(Linf(), 0.01)
    best = margins(graph, x, y, small)
    assert (best > 0).all() and torch.equal(sdp_fo_margins(graph, x, y, small).lower, best)


def test_time_ends_the_search() -> None:
    _, graph, x, y, _, _ = made(dense)
    begun = time.monotonic()
    found = sdp_fo_margins(graph, x, y, ABOUT, steps=10**9, time_limit=1.0, every=True).lower
    assert time.monotonic() - begun < 4.0  # 10**9 steps would take weeks
    assert (found >= margins(graph, x, y, ABOUT)).all()
    none = sdp_fo_margins(graph, x, y, ABOUT, time_limit=0.0, every=True).lower
    assert torch.equal(none, margins(graph, x, y, ABOUT))


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, (1, 3)).flatten(1)


@pytest.mark.parametrize("method", [sdp_fo_margins, sdp_margins, lmi_margins])
def test_bad_input_is_named(method: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.tensor([0])
    monkeypatch.setattr("torchproof.verify.sdp.solver.cvxpy", lambda: None)
    with pytest.raises(ModelError, match="row_max"):
        method(Pooled().eval(), torch.rand(1, 1, 2, 3), y, ABOUT)
    net = dense().eval()
    with pytest.raises(InputError, match="float32"):
        method(graph_of(net, torch.rand(1, 1, 2, 3)), torch.rand(1, 1, 2, 3), y, ABOUT)


@pytest.mark.parametrize("method", [sdp_margins, lmi_margins])
def test_a_missing_package_is_named(
    method: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(MissingExtra, match=r"torchproof\[sdp\]"):
        method(dense().eval(), torch.rand(1, 1, 2, 3), torch.tensor([0]), ABOUT)


# Through cvxpy


@pytest.fixture
def _solver() -> None:
    pytest.importorskip("cvxpy", reason="the extra sdp is not installed")


@pytest.mark.usefixtures("_solver")
@pytest.mark.parametrize("build", [dense, Residual])
def test_programmes_are_ordered(build: Callable[[], nn.Module]) -> None:
    _, graph, x, y, _, exact = made(build)
    linear = lp_margins(graph, x, y, ABOUT).lower
    semidefinite = sdp_margins(graph, x, y, ABOUT).lower
    assert (linear <= semidefinite + SLACK).all() and (linear < semidefinite - 1e-3).any()
    assert (semidefinite <= exact + SLACK).all()
    inequality = lmi_margins(graph, x, y, ABOUT).lower
    assert (inequality <= exact + SLACK).all()
    assert (lmi_margins(graph, x, y, ABOUT, pairs=False).lower <= inequality + SLACK).all()
    assert (inequality > margins(graph, x, y, ABOUT) + 1e-3).any()


@pytest.mark.usefixtures("_solver")
def test_first_order_steps_reach_the_programme() -> None:
    _, graph, x, y, lifted, _ = made(dense)
    start = margins(graph, x, y, ABOUT)[0].tolist()
    reached = sdp_fo_margins(graph, x, y, ABOUT, steps=300, every=True).lower[0].tolist()
    written = [Written.of(lifted.take(torch.tensor([place]))) for place in range(2)]
    best = [proven(w, sdp_verify.products(w), by_matrix).bound for w in written]
    most = max(b - s for b, s in zip(best, start, strict=True))
    assert most > 1e-3
    for one, other in zip(best, reached, strict=True):
        assert -SLACK <= one - other <= 0.1 * most


@pytest.mark.usefixtures("_solver")
def test_without_the_triangle_the_linear_programme_may_be_tighter() -> None:
    # h = relu(z) on [-1, 2], 2/3 z - h: by the triangle at least -2/3, which z = -1 attains; of the
    # paper's constraints, (h + n)^2 <= h - n + 2 with n = h - z, is -17/24 (by hand)
    first, last = nn.Linear(1, 2), nn.Linear(2, 2)
    first.weight.data, first.bias.data = torch.tensor([[3.0], [3.0]]), torch.tensor([-1.0, 4.0])
    last.weight.data = torch.tensor([[-1.0, 2 / 3], [0.0, 0.0]])
    last.bias.data = torch.tensor([-10 / 3, 0.0])
    net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last).double().eval().requires_grad_(False)
    x, y = torch.full((1, 1, 1, 1), 0.5, dtype=DOUBLE), torch.tensor([0])
    (start,) = starts(net, x, y, ABOUT, None)
    written = Written.of(start.lifted)
    products = sdp_verify.products(written)
    assert abs(proven(written, products, by_matrix).bound + 2 / 3) < 1e-5
    assert abs(
        proven(written, [products[0], products[1], *products[3:]], by_matrix).bound + 17 / 24
    ) < (1e-5)


@pytest.mark.usefixtures("_solver")
@pytest.mark.parametrize("solve", [by_matrix, by_multipliers])
def test_a_solver_is_not_taken_at_its_word(
    solve: Callable[..., tuple[list[np.ndarray], np.ndarray]],
) -> None:
    _, _, _, _, lifted, margin = made(dense)
    exact = float(margin[0, 0])
    written = Written.of(lifted.take(torch.tensor([0])))
    products = lmi_verify.products(written)
    found, kappa = solve(written, products, 60.0)
    right = written.bound(products, found, kappa).bound
    for seed in range(10):
        rng = np.random.default_rng(seed)
        wrong = [m + 0.1 * rng.normal(size=m.shape) for m in found]
        bound = written.bound(products, wrong, kappa + 0.1 * rng.normal(size=kappa.shape)).bound
        assert bound <= exact + 1e-9 and bound < right
    assert written.bound(products, [-m - 1 for m in found], kappa).bound <= exact


@pytest.mark.usefixtures("_solver")
def test_no_time_leaves_propagated_bounds_and_size_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, graph, x, y, _, _ = made(dense)
    best = margins(graph, x, y, ABOUT)
    for method in (sdp_margins, lmi_margins):
        assert torch.equal(method(graph, x, y, ABOUT, time_limit=0.0).lower, best)
    monkeypatch.setattr("torchproof.verify.sdp.solver.MOST", 5)
    for method in (sdp_margins, lmi_margins):
        with pytest.raises(ModelError, match="open ReLUs"):
            method(graph, x, y, ABOUT)


def test_pairs_of_relus_hold_on_the_network() -> None:
    case = made(dense)
    lifted = case.lifted
    written = Written.of(lifted.take(torch.tensor([0])))
    at = points(case, 500)[:, lifted.mask[0]].numpy()
    both = [*lmi_verify.products(written), *sdp_verify.products(written)]
    assert len(both) == 10
    for product in both:
        values = (at @ product.left.T) * (at @ product.right.T)
        assert np.abs(values).max() < 1e-12 if product.zero else values.min() > -1e-12
        again = np.einsum("ri,mij,rj->rm", at, product.coefficients().reshape(
            -1, at.shape[1], at.shape[1]), at)  # fmt: skip
        assert np.allclose(again, values)
