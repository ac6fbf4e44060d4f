"""Questions decided by search, bounds, and halving the input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.verify import graph_of
from torchproof.verify.bounds import CROWN, Pass
from torchproof.verify.decide import decide
from torchproof.verify.falsify import descended, falsify
from torchproof.verify.graph import Graph
from torchproof.verify.input_split import Boxes, Planes, Sharper, _rest, split_inputs
from torchproof.verify.inputs import InputSet
from torchproof.verify.question import Question
from torchproof.verify.vnnlib import parse_property, violated

D = torch.float64


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, Graph]:
    """Two inputs, two answers, 20 hidden units, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 2)
        )
    net = net.double().eval().requires_grad_(False)
    return net, graph_of(net, torch.zeros(1, 2, dtype=D))


def grid(net: nn.Module, low: float, high: float) -> Tensor:
    axis = torch.linspace(low, high, 301, dtype=D)
    return net(torch.cartesian_prod(axis, axis))


def box(low: float, high: float, rows: list[list[float]], limits: list[float]) -> Question:
    ends = (torch.full((2,), v, dtype=D) for v in (low, high))
    return Question(*ends, torch.tensor(rows, dtype=D), torch.tensor(limits, dtype=D))


@pytest.mark.parametrize("share", [-0.02, 0.01, 0.3])
def test_as_a_fine_grid_has_it(small: tuple[nn.Module, Graph], share: float) -> None:
    """Is y_0 - y_1 <= its least value on a grid, and a little less or more?"""
    net, graph = small
    y = grid(net, -1, 1)
    gap = y[:, 0] - y[:, 1]
    limit = float(gap.min() + share * (gap.max() - gap.min()))
    found = split_inputs(graph, box(-1, 1, [[1, -1]], [limit]), 60)
    assert found.verdict == ("sat" if share > 0 else "unsat")
    if found.x is not None:
        z = net(found.x[None])[0]
        assert float(z[0] - z[1]) <= limit and bool((found.x.abs() <= 1).all())


def test_every_row_has_to_be_met(small: tuple[nn.Module, Graph]) -> None:
    """y_0 <= a and y_1 <= b together, where each alone can be."""
    net, graph = small
    y = grid(net, -1, 1)
    a = float(y[:, 0].quantile(0.1))
    alone = y[y[:, 0] <= a][:, 1].min()
    apart = float(y[:, 1].max() - y[:, 1].min())
    for b, verdict in (
        (float(alone) - 0.03 * apart, "unsat"),
        (float(alone) + 0.03 * apart, "sat"),
    ):
        found = split_inputs(graph, box(-1, 1, [[1, 0], [0, 1]], [a, b]), 60)
        assert found.verdict == verdict


def test_without_time_nothing_is_said(small: tuple[nn.Module, Graph]) -> None:
    net, graph = small
    y = grid(net, -1, 1)
    limit = float((y[:, 0] - y[:, 1]).min()) - 0.01
    found = split_inputs(graph, box(-1, 1, [[1, -1]], [limit]), 0.0)
    assert (found.verdict, found.x, found.parts) == ("timeout", None, 0)


def test_a_search_finds_what_is_easy_and_nothing_else(small: tuple[nn.Module, Graph]) -> None:
    net, graph = small
    y = grid(net, -1, 1)
    gap = y[:, 0] - y[:, 1]
    easy = float(gap.quantile(0.2))
    x = falsify(graph, box(-1, 1, [[1, -1]], [easy]))
    assert x is not None
    z = net(x[None])[0]
    assert float(z[0] - z[1]) <= easy
    assert falsify(graph, box(-1, 1, [[1, -1]], [float(gap.min()) - 0.1])) is None


PROPERTY = """
(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (>= X_0 -1)) (assert (<= X_0 1)) (assert (>= X_1 -1)) (assert (<= X_1 1))
(assert (or (and (<= Y_0 {a})) (and (>= Y_1 {b}))))
"""


def test_properties_of_several_cases(small: tuple[nn.Module, Graph]) -> None:
    net, graph = small
    y = grid(net, -1, 1)
    least, most = float(y[:, 0].min()), float(y[:, 1].max())
    for a, b, verdict in (
        (least - 0.02, most + 0.02, "unsat"), (least - 0.02, most - 0.02, "sat"),
        (least + 0.02, most + 0.02, "sat"),
    ):  # fmt: skip
        found = decide(graph, (2,), parse_property(PROPERTY.format(a=a, b=b)), 60)
        assert found.verdict == verdict
        if found.x is not None:
            z = net(found.x[None])[0]
            assert float(z[0]) <= a or float(z[1]) >= b


def test_many_inputs_are_decided_by_bounds_or_a_search() -> None:
    net = nn.Sequential(nn.Linear(70, 5), nn.ReLU(), nn.Linear(5, 2)).double().eval()
    net.requires_grad_(False)
    graph = graph_of(net, torch.zeros(1, 70, dtype=D))
    y = net(torch.zeros(1, 70, dtype=D))[0]
    text = "".join(f"(declare-const X_{i} Real)" for i in range(70)) + "(declare-const Y_0 Real)"
    text += "(declare-const Y_1 Real)"
    text += "".join(f"(assert (>= X_{i} -0.01))(assert (<= X_{i} 0.01))" for i in range(70))
    sure = parse_property(text + f"(assert (<= Y_0 {float(y[0]) - 5}))")
    assert decide(graph, (70,), sure, 30).verdict == "unsat"
    near = parse_property(text + f"(assert (<= Y_0 {float(y[0])}))")
    assert decide(graph, (70,), near, 30).verdict == "sat"


def test_what_halving_the_input_leaves_open_goes_on_with_signs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With no room for boxes the search over inputs says unknown; hinges decide what it was."""
    monkeypatch.setattr("torchproof.verify.input_split.MOST", 0)
    for activation, verdict in ((nn.ReLU(), "unsat"), (nn.Tanh(), "unknown")):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            net = nn.Sequential(nn.Linear(2, 20), activation, nn.Linear(20, 2)).double().eval()
        graph = graph_of(net.requires_grad_(False), torch.zeros(1, 2, dtype=D))
        y = grid(net, -1, 1)
        text = "(declare-const Y_0 Real) (declare-const Y_1 Real)"
        for i in range(2):
            text += f"(declare-const X_{i} Real) (assert (and (<= X_{i} 1) (>= X_{i} -1)))"
        gap = y[:, 0] - y[:, 1]
        edge = float(gap.min() - 0.001 * (gap.max() - gap.min()))
        asked = parse_property(text + f"(assert (<= Y_0 (+ Y_1 {edge})))")
        found = decide(graph, (2,), asked, 60)
        assert (found.verdict, found.by) == (
            verdict, "branch and bound" if verdict == "unsat" else "input split"
        )  # fmt: skip


def test_questions_that_cannot_be_meant(small: tuple[nn.Module, Graph]) -> None:
    more = "(declare-const Y_2 Real)" + PROPERTY.format(a=0, b=0)
    with pytest.raises(InputError, match="property of 3 outputs for a network of 2"):
        decide(small[1], (2,), parse_property(more), 60)
    with pytest.raises(InputError, match="empty box"):
        box(1, -1, [[1, 0]], [0])
    with pytest.raises(InputError, match="M >= 1"):
        box(-1, 1, [], [])


def mixed_text(*cases: str) -> str:
    """Any of the cases, over x in [-1, 1]^2."""
    text = "(declare-const Y_0 Real) (declare-const Y_1 Real)"
    for i in range(2):
        text += f"(declare-const X_{i} Real) (assert (and (<= X_{i} 1) (>= X_{i} -1)))"
    return f"{text} (assert (or {' '.join(cases)}))"


@pytest.mark.parametrize("share", [-0.02, 0.02])
def test_outputs_that_are_compared_with_inputs(
    small: tuple[nn.Module, Graph], share: float
) -> None:
    """As a fine grid has it, alone and beside a case of outputs alone and one of inputs alone."""
    net, graph = small
    axis = torch.linspace(-1, 1, 301, dtype=D)
    x = torch.cartesian_prod(axis, axis)
    y = net(x)
    gap = y[:, 0] - 2 * x[:, 0] + x[:, 1]
    limit = float(gap.min() + share * (gap.max() - gap.min()))
    never = (f"(<= Y_1 {float(y[:, 1].min()) - 0.1})", "(<= (+ X_0 X_1) -2.1)")
    for others in ((), never):
        text = mixed_text(f"(<= (+ Y_0 X_1) (+ (* 2 X_0) {limit}))", *others)
        asked = parse_property(text)
        found = decide(graph, (2,), asked, 60)
        assert found.verdict == ("sat" if share > 0 else "unsat")
        if found.x is not None:
            assert violated(asked, found.x.numpy(), net(found.x[None])[0].numpy())


def test_comparisons_of_inputs_alone_cut_the_box(small: tuple[nn.Module, Graph]) -> None:
    """What y_0 reaches on the half of the box with x_0 <= x_1, and does not on the rest."""
    net, graph = small
    axis = torch.linspace(-1, 1, 301, dtype=D)
    x = torch.cartesian_prod(axis, axis)
    y = net(x)[:, 0]
    half = x[:, 0] <= x[:, 1]
    low, high = float(y[half].min()), float(y[~half].min())
    assert abs(low - high) > 0.1
    order = "(<= X_0 X_1)" if low > high else "(>= X_0 X_1)"
    least = (low + high) / 2  # reached on the other half alone
    asked = parse_property(mixed_text(f"(and {order} (<= Y_0 {least}))"))
    assert decide(graph, (2,), asked, 60).verdict == "unsat"
    turned = parse_property(mixed_text(f"(and {order} (<= Y_0 {max(low, high) + 0.01}))"))
    assert decide(graph, (2,), turned, 60).verdict == "sat"


def test_hinges_are_split_beside_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for boxes, of a network of ReLUs: |x_0| = relu(x_0) + relu(-x_0) >= x_0."""
    monkeypatch.setattr("torchproof.verify.input_split.MOST", 0)
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        net[2].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    graph = graph_of(net.double().eval().requires_grad_(False), torch.zeros(1, 2, dtype=D))
    for limit, verdict in ((-0.01, "unsat"), (0.01, "sat")):
        asked = parse_property(
            mixed_text(f"(and (<= Y_0 (+ X_0 {limit})) (<= Y_0 (- {limit} X_0)))")
        )
        assert decide(graph, (2,), asked, 60).verdict == verdict


def test_any_answer_will_do_where_none_is_asked_for(small: tuple[nn.Module, Graph]) -> None:
    text = "(declare-const Y_0 Real) (declare-const Y_1 Real)"
    for i in range(2):
        text += f"(declare-const X_{i} Real) (assert (and (<= X_{i} 1) (>= X_{i} -1)))"
    assert decide(small[1], (2,), parse_property(text), 60).verdict == "sat"


def test_numbers_beyond_float64_prove_nothing() -> None:
    """Planes through exp(1000) are no planes, and cut nothing off."""

    class Cup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.tensor(1 / 3, dtype=D))

        def forward(self, x: Tensor) -> Tensor:
            moved = x + self.place
            return moved.relu() + (-moved).relu() + 1e-9 * (1000 * (x - 1)).exp()

    graph = graph_of(Cup().eval().requires_grad_(False), torch.zeros(1, 1, dtype=D))
    ends = (torch.tensor([end], dtype=D) for end in (-3.0, 3.0))
    question = Question(*ends, torch.ones(1, 1, dtype=D), torch.full((1,), 1e-3, dtype=D))
    assert split_inputs(graph, question, 60).verdict == "sat"
    inside = InputSet.between(question.low[None], question.high[None])
    assert Pass.of(graph, inside, CROWN).lower(question.rows[None]).item() == -torch.inf


def test_a_nan_cuts_nothing(small: tuple[nn.Module, Graph]) -> None:
    nan = torch.full((1, 1), torch.nan, dtype=D)
    planes = Planes(nan, torch.ones(1, 1, 2, dtype=D), nan)
    sides = torch.zeros(1, 2, dtype=D), torch.ones(1, 2, dtype=D)
    asked = box(0, 1, [[1, 0]], [0.0])
    rest = _rest(Boxes(*sides), planes, asked, Sharper(small[1], asked, wait=1))
    assert len(rest.low) == 2


@pytest.mark.parametrize(("share", "some"), [(0.02, True), (0.6, False)])
def test_optimised_lines_are_tried_and_left_for_a_while_where_they_close_few(
    small: tuple[nn.Module, Graph], share: float, some: bool
) -> None:
    net, graph = small
    y = grid(net, -1, 1)
    limit = float((y[:, 0] - y[:, 1]).quantile(share))
    question = box(-1, 1, [[1, -1]], [limit])
    corners = torch.cartesian_prod(*[torch.linspace(-1, 0.8, 7, dtype=D)] * 2)
    boxes, sharper = Boxes(corners, corners + 0.2), Sharper(graph, question)
    closed = sharper.closed(boxes)
    for low in boxes.low[closed]:
        inside = net(low + 0.2 * torch.cartesian_prod(*[torch.linspace(0, 1, 21, dtype=D)] * 2))
        assert not bool(question.met(inside).any())
    if some:
        assert int(closed.sum()) > 0.75 * len(closed) and sharper.wait == 0
        return
    waits = [sharper.wait]
    while len(waits) < 20:
        bounded = not sharper.wait
        closed = sharper.closed(boxes)
        assert bounded or not bool(closed.any())
        waits.append(sharper.wait)
    assert waits == [1, 0, 3, 2, 1, 0, 7, *range(6, -1, -1), 8, *range(7, 2, -1)]


def test_an_input_is_clear_of_the_edge_where_there_is_one() -> None:
    """A search that stopped at the first answer within its limits would stop within 1e-5."""
    graph = graph_of(nn.Sequential(nn.Linear(1, 1)).double().eval(), torch.zeros(1, 1).double())
    line = graph.run(torch.tensor([[0.0], [1.0]], dtype=torch.float64))[graph.output][:, 0]
    start, rows = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
    limits = line[:1, None].detach() + 1e-6
    low, high = torch.full_like(start, -1.0), torch.full_like(start, 1.0)
    found = descended(graph, start, rows, limits, low, high)
    assert found is not None
    assert float((graph.run(found)[graph.output] - limits).detach()) <= -1e-4
    alone = descended(graph, start, rows, limits, start, start)
    assert alone is not None and float(alone) == 0  # the edge, where there is no more
