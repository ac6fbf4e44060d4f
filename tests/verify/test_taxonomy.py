"""Methods that are others under a name of their own, and the order that holds among them: each
against an independent computation from the formulas of its paper, with dense matrices.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from torchproof.core.errors import MissingExtra
from torchproof.core.norms import L1, L2, Linf, Norm
from torchproof.core.threats import Threat
from torchproof.evaluate.survey import APPROACHES
from torchproof.reproduce.survey.smoothed import DIVERGENCES, F_DIVERGENCE
from torchproof.train import smoothed
from torchproof.verify import graph_of
from torchproof.verify.bounds import Bound, Pass
from torchproof.verify.graph import Graph
from torchproof.verify.inputs import InputSet, rows_of
from torchproof.verify.lp import lp_margins
from torchproof.verify.methods import ESTIMATES, METHODS, Later
from torchproof.verify.smoothing.theories import THEORIES

Layer = tuple[np.ndarray, np.ndarray]
Box = tuple[np.ndarray, np.ndarray]
DUALS: dict[type[Norm], float] = {Linf: 1, L2: 2, L1: np.inf}
NORMS = [(Linf(), 0.15), (L2(), 0.4), (L1(), 0.8)]


@cache
def chain(*widths: int, seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor, list[Layer]]:
    """A perceptron in float64 with ReLUs, an image of it, its label, and its layers."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = [nn.Flatten()]
    for fan, out in itertools.pairwise(widths):
        parts += [nn.Linear(fan, out), nn.ReLU()]
    net = nn.Sequential(*parts[:-1]).double().eval().requires_grad_(False)
    x = torch.rand(1, 1, 1, widths[0], dtype=torch.float64)
    layers = [(p.weight.numpy(), p.bias.numpy()) for p in net if isinstance(p, nn.Linear)]
    return net, x, net(x).argmax(1), layers


def rows(y: Tensor, classes: int) -> np.ndarray:
    return rows_of(y, classes)[0].double().numpy()


@cache
def graph(net: nn.Module) -> Graph:
    """Traced once."""
    size = (2, 1, 6, 6) if isinstance(net[0], nn.Conv2d) else (2, 1, 1, net[1].in_features)
    return graph_of(net, torch.zeros(size, dtype=torch.float64))


def ours(name: str, net: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> np.ndarray:
    found = METHODS[name](graph(net), x, y, threat, seconds=20.0)
    return found.lower[0].numpy()


def unbounded(norm: Norm, eps: float) -> Threat:
    return Threat(norm, eps, low=-np.inf, high=np.inf)


def dual_network(
    layers: Sequence[Layer], boxes: Sequence[Box], x: np.ndarray, eps: float, q: float,
    c: np.ndarray,
) -> float:  # fmt: skip
    """The dual of Wong and Kolter 2018, thm. 1: at most c^T z for any answer z of these layers."""
    nu, total = -c, 0.0
    for i in range(len(layers) - 1, -1, -1):
        weight, bias = layers[i]
        total -= nu @ bias
        back = weight.T @ nu
        if i == 0:
            return total - x @ back - eps * np.linalg.norm(back, q)
        low, high = boxes[i - 1]
        open_ = (low < 0) & (high > 0)
        slope = np.where(open_, high / np.where(open_, high - low, 1.0), (low >= 0) * 1.0)
        nu = slope * back
        total += float((low * np.maximum(nu, 0))[open_].sum())
    raise AssertionError


@pytest.mark.parametrize(("norm", "eps"), NORMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_fast_lin_is_the_dual_network(norm: Norm, eps: float, seed: int) -> None:
    net, x, y, layers = chain(6, 9, 8, 7, 4, seed=seed)
    flat, q, boxes = x.flatten().numpy(), DUALS[type(norm)], []
    for k in range(1, len(layers)):
        units = np.eye(len(layers[k - 1][1]))
        low = [dual_network(layers[:k], boxes, flat, eps, q, e) for e in units]
        high = [-dual_network(layers[:k], boxes, flat, eps, q, -e) for e in units]
        boxes.append((np.array(low), np.array(high)))
    dual = [dual_network(layers, boxes, flat, eps, q, c) for c in rows(y, 4)]
    for name in ("fast-lin", "wk"):
        assert np.allclose(ours(name, net, x, y, unbounded(norm, eps)), dual, rtol=0, atol=1e-9)


def substituted(
    layers: Sequence[Layer], boxes: Sequence[Box], x: np.ndarray, eps: float, q: float,
    c: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Lower bounds of c @ z by replacing each value by its constraint, layer by layer (Singh et al.
    2019, sec. 4): above the chord, below s = 1 where u > -l and 0 elsewhere.
    """
    weight, bias = layers[-1]
    a, at = c @ weight, c @ bias
    for (weight, bias), (low, high) in zip(layers[-2::-1], boxes[::-1], strict=True):
        open_ = (low < 0) & (high > 0)
        stable = (low >= 0) * 1.0
        above = np.where(open_, high / np.where(open_, high - low, 1.0), stable)
        below = np.where(open_, (high > -low) * 1.0, stable)
        at = at + (np.minimum(a, 0) * above * np.where(open_, -low, 0.0)).sum(-1)
        a = np.where(a > 0, a * below, a * above)
        a, at = a @ weight, at + a @ bias
    return a @ x + at - eps * np.linalg.norm(a, q, axis=-1)


def polyhedra(layers: Sequence[Layer], x: np.ndarray, eps: float, q: float) -> list[Box]:
    boxes: list[Box] = []
    for k in range(1, len(layers)):
        units = np.eye(len(layers[k - 1][1]))
        low = substituted(layers[:k], boxes, x, eps, q, units)
        boxes.append((low, -substituted(layers[:k], boxes, x, eps, q, -units)))
    return boxes


@pytest.mark.parametrize(("norm", "eps"), NORMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_crown_is_back_substitution_of_polyhedra(norm: Norm, eps: float, seed: int) -> None:
    net, x, y, layers = chain(6, 9, 8, 7, 4, seed=seed)
    flat, q = x.flatten().numpy(), DUALS[type(norm)]
    naive = substituted(layers, polyhedra(layers, flat, eps, q), flat, eps, q, rows(y, 4))
    for name in ("crown", "deeppoly"):
        assert np.allclose(ours(name, net, x, y, unbounded(norm, eps)), naive, rtol=0, atol=1e-9)


def as_matrices(net: nn.Sequential, x: Tensor) -> list[Layer]:
    """The maps between the ReLUs, written out by what they do to unit vectors."""
    layers, part, shape = [], [], x.shape[1:]
    for module in [*net, nn.ReLU()]:
        if not isinstance(module, nn.ReLU):
            part.append(module)
            continue
        stretch, size = nn.Sequential(*part), int(np.prod(shape))
        zero = stretch(torch.zeros(1, *shape, dtype=x.dtype))
        moved = stretch(torch.eye(size, dtype=x.dtype).view(size, *shape)) - zero
        layers.append((moved.flatten(1).T.numpy(), zero.flatten().numpy()))
        part, shape = [], zero.shape[1:]
    return layers


@cache
def convolutional(seed: int = 0) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 4),
    )  # fmt: skip
    net = net.double().eval().requires_grad_(False)
    x = torch.rand(1, 1, 6, 6, dtype=torch.float64)
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize(("norm", "eps"), [(Linf(), 0.05), (L2(), 0.2)])
def test_cnn_cert_is_crown_on_written_out_convolutions(norm: Norm, eps: float) -> None:
    net, x, y = convolutional()
    layers, flat, q = as_matrices(net, x), x.flatten().numpy(), DUALS[type(norm)]
    naive = substituted(layers, polyhedra(layers, flat, eps, q), flat, eps, q, rows(y, 4))
    found = ours("cnn-cert", net, x, y, unbounded(norm, eps))
    assert np.allclose(found, naive, rtol=0, atol=1e-9)


def intervals(layers: Sequence[Layer], low: np.ndarray, high: np.ndarray) -> list[Box]:
    """Before each ReLU, and of the last layer's answer."""
    boxes = []
    for weight, bias in layers:
        middle, radius = weight @ (low + high) / 2 + bias, np.abs(weight) @ (high - low) / 2
        boxes.append((middle - radius, middle + radius))
        low, high = (np.maximum(end, 0) for end in boxes[-1])
    return boxes


@pytest.mark.parametrize("seed", [0, 1])
def test_intervals_alone_and_under_lines(seed: int) -> None:
    """IBP with the margins merged into the last layer; CROWN-IBP walks back over its intervals."""
    net, x, y, layers = chain(6, 9, 8, 7, 4, seed=seed)
    flat, c, eps = x.flatten().numpy(), rows(y, 4), 0.02
    merged = [*layers[:-1], (c @ layers[-1][0], c @ layers[-1][1])]
    boxes = intervals(merged, flat - eps, flat + eps)
    about = unbounded(Linf(), eps)
    assert np.allclose(ours("ibp", net, x, y, about), boxes[-1][0], rtol=0, atol=1e-12)
    lines = substituted(layers, boxes[:-1], flat, eps, 1, c)
    assert np.allclose(ours("crown-ibp", net, x, y, about), lines, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_zonotopes_are_fast_lin_on_chains(seed: int) -> None:
    """DeepZ by its generators (Singh et al. 2018, thm. 3.1), and Fast-Lin, which it equals here."""
    net, x, y, layers = chain(6, 9, 8, 7, 4, seed=seed)
    eps, centre = 0.1, x.flatten().numpy()
    noise = eps * np.eye(len(centre))
    merged = [*layers[:-1], (rows(y, 4) @ layers[-1][0], rows(y, 4) @ layers[-1][1])]
    for k, (weight, bias) in enumerate(merged):
        centre, noise = weight @ centre + bias, weight @ noise
        low, high = (centre + s * np.abs(noise).sum(1) for s in (-1, 1))
        if k == len(merged) - 1:
            break
        open_ = (low < 0) & (high > 0)
        lam = np.where(open_, high / np.where(open_, high - low, 1.0), (low >= 0) * 1.0)
        mu = np.where(open_, -lam * low / 2, 0.0)
        centre = lam * centre + mu
        noise = np.concatenate([lam[:, None] * noise, np.diag(mu)], 1)
    about = unbounded(Linf(), eps)
    assert np.allclose(ours("deepz", net, x, y, about), low, rtol=0, atol=1e-9)
    assert np.allclose(ours("fast-lin", net, x, y, about), low, rtol=0, atol=1e-9)


def test_lipschitz_constants_from_matrices() -> None:
    """Op-norm: row sums multiplied; Fast-Lip: intervals for the Jacobian, from the margins back."""
    net, x, y, layers = chain(6, 9, 8, 4)
    eps, flat, c = 0.01, x.flatten().numpy(), rows(y, 4)
    gaps = c @ net(x)[0].numpy()
    whole = np.abs(c @ layers[-1][0]).sum(1)
    for weight, _ in layers[:-1]:
        whole = whole * np.abs(weight).sum(1).max()
    about = unbounded(Linf(), eps)
    assert np.allclose(ours("op-norm", net, x, y, about), gaps - eps * whole, rtol=1e-9)
    boxes: list[Box] = []
    for k in range(1, len(layers)):
        units = np.eye(len(layers[k - 1][1]))
        ends = [[s * dual_network(layers[:k], boxes, flat, eps, 1, s * e) for e in units]
                for s in (1, -1)]  # fmt: skip
        boxes.append((np.array(ends[0]), np.array(ends[1])))
    low = high = c @ layers[-1][0]
    for (weight, _), (least, most) in zip(layers[-2::-1], boxes[::-1], strict=True):
        fixed, possible = (least >= 0) * 1.0, (most > 0) * 1.0
        ends = np.stack([low * fixed, low * possible, high * fixed, high * possible])
        low, high = ends.min(0), ends.max(0)
        up, down = np.maximum(weight, 0), np.minimum(weight, 0)
        low, high = low @ up + high @ down, high @ up + low @ down
    local = np.maximum(np.abs(low), np.abs(high)).sum(1)
    found = ours("fast-lip", net, x, y, about)
    assert np.allclose(found, gaps - eps * local, rtol=0, atol=1e-9)
    assert bool((ours("recur-jac", net, x, y, about) >= found - 1e-9).all())
    assert bool((found >= gaps - eps * whole - 1e-9).all())


def least_in_hulls(
    layers: Sequence[Layer], boxes: Sequence[Box], low: np.ndarray, high: np.ndarray, c: np.ndarray
) -> float:
    """The least c @ z of the last layer with every ReLU in its triangle (Salman et al. 2019):
    variables x, z_1, h_1, z_2, ...; boxes as given.
    """
    sizes = [len(low)] + [n for _, b in layers[:-1] for n in (len(b), len(b))]
    ends = np.cumsum([0, *sizes])
    parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
    ties, at, rest, limits = [], [], [], []
    limit: list[tuple[float, float | None]] = list(zip(low, high, strict=True))
    for k, (least, most) in enumerate(boxes):
        h, z = parts[2 * k], parts[2 * k + 1]
        for j in range(len(least)):
            row = np.zeros(ends[-1])
            row[h], row[z.start + j] = layers[k][0][j], -1.0
            ties.append(row)
            at.append(-layers[k][1][j])
            over = np.zeros((2, ends[-1]))
            after = parts[2 * k + 2].start + j
            start, end = least[j], most[j]
            slope = 0.0 if end <= 0 else 1.0 if start >= 0 else end / (end - start)
            over[0, [z.start + j, after]] = (0.0 if end <= 0 else 1.0), -1.0  # h >= z or 0
            over[1, [z.start + j, after]] = -slope, 1.0
            rest += list(over)
            limits += [0.0, -slope * start if start < 0 < end else 0.0]
        limit += list(zip(least, most, strict=True)) + [(0.0, None)] * len(least)
    cost = np.zeros(ends[-1])
    cost[parts[-1]] = c @ layers[-1][0]
    more = {"A_eq": np.array(ties), "b_eq": at, "A_ub": np.array(rest), "b_ub": limits}
    found = linprog(cost, bounds=limit, **(more if ties else {}))
    return float(found.fun + c @ layers[-1][1])


def test_lp_full_is_the_programme_over_all_hulls() -> None:
    net, x, y, layers = chain(6, 9, 8, 4)
    flat, eps = x.flatten().numpy(), 0.15
    low, high = np.maximum(flat - eps, 0), np.minimum(flat + eps, 1)
    boxes: list[Box] = []
    for k in range(1, len(layers)):
        units = np.eye(len(layers[k - 1][1]))
        least = [least_in_hulls(layers[:k], boxes, low, high, e) for e in units]
        most = [-least_in_hulls(layers[:k], boxes, low, high, -e) for e in units]
        boxes.append((np.array(least), np.array(most)))
    naive = [least_in_hulls(layers, boxes, low, high, c) for c in rows(y, 4)]
    found = ours("lp-full", net, x, y, Threat(Linf(), eps))
    assert np.allclose(found, naive, rtol=0, atol=1e-6)


def least_of_all_pieces(
    layers: Sequence[Layer], low: np.ndarray, high: np.ndarray, c: np.ndarray
) -> float:
    """The least c @ z over a box: a linear programme for every pattern of signs of two layers."""
    (w1, b1), (w2, b2), (w3, b3) = layers
    best = np.inf
    for first in itertools.product((0.0, 1.0), repeat=len(b1)):
        d1 = np.array(first)
        second, at = w2 * d1 @ w1, w2 @ (d1 * b1) + b2
        for signs in itertools.product((0.0, 1.0), repeat=len(b2)):
            d2 = np.array(signs)
            rows_ = np.concatenate([(1 - 2 * d1)[:, None] * w1, (1 - 2 * d2)[:, None] * second])
            limits = np.concatenate([(2 * d1 - 1) * b1, (2 * d2 - 1) * at])
            slope = (c @ w3) * d2
            found = linprog(slope @ second, rows_, limits, bounds=list(zip(low, high, strict=True)))
            if found.status == 0:
                best = min(best, found.fun + slope @ at + c @ b3)
    return float(best)


COMPLETE = [name for name in ("milp-ibp", "milp-alpha", "milp", "ai2", "bab") if name in METHODS]


def test_complete_methods_find_the_least_of_all_pieces() -> None:
    """AI2 of evaluations, which is DeepPoly and integers, as well: boxes decide the time alone."""
    net, x, y, layers = chain(4, 4, 3, 3)
    flat, eps = x.flatten().numpy(), 0.3
    low, high = np.maximum(flat - eps, 0), np.minimum(flat + eps, 1)
    exact = [least_of_all_pieces(layers, low, high, c) for c in rows(y, 3)]
    for name in COMPLETE:
        found = ours(name, net, x, y, Threat(Linf(), eps))
        if name == "bab":  # decides signs, and stops there
            assert bool((found <= np.array(exact) + 1e-6).all())
            assert bool(((found > 0) == (np.array(exact) > 0)).all())
        else:
            assert np.allclose(found, exact, rtol=0, atol=1e-4), name


@pytest.mark.parametrize(("kind", "norm", "eps"), [("chain", Linf(), 0.2), ("conv", Linf(), 0.06)])
def test_order_on_equal_sets(kind: str, norm: Norm, eps: float) -> None:
    """{IBP, Fast-Lin, CROWN-IBP, CROWN, DeepZ} <= LP <= LP-full <= MILP, and the rest of ORDER;
    nothing above MILP; each LP at least the bounds that its boxes are from.
    """
    net, x, y = convolutional() if kind == "conv" else chain(6, 9, 8, 4)[:3]
    found = {name: ours(name, net, x, y, Threat(norm, eps)) for name in METHODS
             if name in ORDERED or not METHODS[name].extra}  # fmt: skip
    noise = 1e-7
    for below, above in ORDER:
        assert bool((found[below] <= found[above] + noise).all()), (below, above)
    for name, lower in found.items():
        assert bool((lower <= found["milp"] + 1e-5).all()), name
    for middle in ("ibp", "crown-ibp", "fast-lin", "crown"):
        own = lp_margins(graph(net), x, y, Threat(norm, eps), middle=middle).lower[0].numpy()
        assert bool((found[middle] <= own + noise).all()), middle
    assert bool((found["milp"] > found["lp"] + 1e-4).any())  # or nothing was put to the test


INCOMPLETE = ("ibp", "fast-lin", "crown-ibp", "crown", "deepz")
ORDERED = (*INCOMPLETE, "best", "lp", "lp-full", "milp")
ORDER = (
    *((name, "lp") for name in INCOMPLETE), ("best", "lp"), ("lp", "lp-full"), ("lp-full", "milp"),
    *((name, "best") for name in INCOMPLETE if name != "deepz"), ("best", "sdp-fo"),
    ("deepz", "refine-zono"), ("lp", "k-relu"), ("fast-lip", "recur-jac"),
    ("fast-lip", "recur-jac-chords"), ("op-norm", "fast-lip"),
)  # fmt: skip


@pytest.mark.parametrize("meet", [False, True])
def test_optimised_slopes_are_never_behind_on_equal_boxes(meet: bool) -> None:
    net, x, y, _ = chain(6, 9, 8, 7, 4, seed=1)
    inside = InputSet.of(x, Threat(Linf(), 0.3))
    plain = Bound("linear", "linear", meet=meet)
    lower = [_margins(graph(net), inside, y, replace(plain, steps=k)) for k in (0, 20)]
    assert bool((lower[0] <= lower[1] + 1e-12).all()) and bool((lower[0] < lower[1] - 1e-4).any())


def _margins(traced: Graph, inside: InputSet, y: Tensor, bound: Bound) -> Tensor:
    return Pass.of(traced, inside, bound).lower(rows_of(y, 4).double())


def test_the_box_helps_lipschitz_constants_and_they_stay_bounds() -> None:
    """At an image on the edge of the pixel box half of the ball is out of reach."""
    net, _, _, _ = chain(6, 9, 8, 4)
    x = torch.tensor([[[[0.0, 1.0, 0.0, 0.5, 0.02, 0.99]]]], dtype=torch.float64)
    y = net(x).argmax(1)
    for norm, eps in NORMS[:2]:
        boxed, free = Threat(norm, eps), unbounded(norm, eps)
        for name in ("fast-lip", "recur-jac", "op-norm"):
            inside = ours(name, net, x, y, boxed)
            assert bool((inside >= ours(name, net, x, y, free) - 1e-9).all()), (name, norm)
            ball = InputSet.of(x.expand(500, -1, -1, -1), boxed).ball
            noise = torch.randn(500, *x.shape[1:], generator=torch.Generator().manual_seed(0))
            points = x + ball.maximiser(noise.double())
            reached = net(points).numpy() @ rows(y, 4).T
            assert bool((reached.min(0) >= inside - 1e-9).all()), (name, norm)


PAGE = Path(__file__).parents[2] / "docs" / "certification" / "taxonomy.md"


def cells() -> list[list[str]]:
    """The rows of the page's tables, without their heads."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:4] == "| <a"]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_approach_is_something_that_runs() -> None:
    """All 26 of the survey, in order, each with a definition on the page."""
    assert [a.number for a in APPROACHES if a.number] == list(range(1, 27))
    known = {
        "verifier": {*METHODS, *ESTIMATES},
        "theory": {*THEORIES, F_DIVERGENCE},
        "training": set(smoothed.__all__),
    }
    text = PAGE.read_text(encoding="utf-8")
    for a in APPROACHES:
        assert a.key in known[a.kind], a
        assert f'<a id="{a.anchor.split("#")[1]}"></a>' in text, a
    assert set(DIVERGENCES) < set(THEORIES)


def test_no_row_of_the_page_is_dead() -> None:
    """Each row's methods exist, each method has a row, and the tests that a row names are there."""
    named = {name for row in cells() for name in re.findall(r"`([^`]+)`", row[1])}
    assert named == {*METHODS, *ESTIMATES, *THEORIES, *(a.key for a in APPROACHES if
                     a.kind == "training")}  # fmt: skip
    written = "\n".join(p.read_text("utf-8") for p in Path(__file__).parent.glob("test_*.py"))
    tests = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert len(tests) > 10 and all(f"def {name}(" in written for name in tests), tests
    others = {name for row in cells() for cell in row[2:] for name in re.findall(r"`([a-z0-9-]+)`",
              cell)}  # fmt: skip
    assert others <= {*METHODS, *THEORIES, "certify", "survey", "sdp"}, others


def test_aliases_share_the_function_and_say_so() -> None:
    same = {name: row.same for name, row in METHODS.items() if row.same}
    assert same == {"deeppoly": "crown", "cnn-cert": "crown", "wk": "fast-lin", "cascade": "bab"}
    for name, other in same.items():
        assert METHODS[name].run is METHODS[other].run and other in METHODS[name].line
        assert not METHODS[other].same


def test_an_estimate_is_no_method() -> None:
    assert not set(ESTIMATES) & set(METHODS)
    assert all("not a certificate" in row.line for row in ESTIMATES.values())


def test_what_is_absent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose package is not there: by name, with what to install."""
    net, x, y, _ = chain(4, 4, 3, 3)
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    for name in ("sdp", "lmi"):
        assert METHODS[name].extra == "sdp" and "needs the extra sdp" in METHODS[name].line
        with pytest.raises(MissingExtra, match="sdp"):
            METHODS[name](graph(net), x, y, Threat(Linf(), 0.3))
    with pytest.raises(MissingExtra, match="nothing_there"):
        Later("bab:bab_margins", "nothing_there", "some").load()
