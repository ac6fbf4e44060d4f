"""A limit on memory: smaller pieces, the same bounds; and searches that end undecided."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, ModelError
from torchproof.core.threats import parse
from torchproof.evaluate import Propagation
from torchproof.verify import graph_of
from torchproof.verify.bounds import CROWN, Pass, margins
from torchproof.verify.input_split import split_inputs
from torchproof.verify.inputs import InputSet
from torchproof.verify.lipschitz.fast_lip import FAST_LIP
from torchproof.verify.lipschitz.on_set import local_margins
from torchproof.verify.memory import ENTRIES, WAITING, entries, in_pieces, memory, waiting
from torchproof.verify.question import Question
from torchproof.verify.relu_split import split_hinges
from torchproof.verify.zonotope import margins as zonotope_margins

D = torch.float64


class Hard(nn.Module):
    """y_0 - y_1 = 0.01 everywhere: twice the same function less itself."""

    def __init__(self, inputs: int = 20, width: int = 60) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(inputs, width), nn.Linear(width, 1, bias=False)
        self.again = nn.Linear(inputs, width)
        self.again.load_state_dict(self.first.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        one, two = (self.last(layer(x).relu()) for layer in (self.first, self.again))
        return torch.cat([one - two + 0.01, torch.zeros_like(one)], 1)


def test_the_limit_is_shared_and_ends_with_its_block() -> None:
    assert (entries(), waiting()) == (ENTRIES, WAITING)
    with memory(2**30):
        assert waiting() == 2**29 and entries() * 8 * 16 == 2**29
        with memory(2**20):
            assert waiting() == 2**19
        assert waiting() == 2**29
    with memory(2**60):
        assert entries() == ENTRIES
    assert (entries(), waiting()) == (ENTRIES, WAITING)


@pytest.mark.parametrize("most", [0, -1, 2**19, float("nan")])
def test_limits_that_cannot_be_meant(most: float) -> None:
    with pytest.raises(InputError, match="limit on memory"), memory(most):
        raise AssertionError("not reached")


def test_pieces_change_no_bound() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(),
                        nn.Linear(20, 4)).double().eval().requires_grad_(False)  # fmt: skip
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(6, 1, 6, 6, generator=g, dtype=D), torch.tensor([0, 1, 2, 3, 0, 1])
    about, graph = parse("linf:0.05"), graph_of(net, x)
    for bound in (
        lambda: margins(graph, x, y, about),
        lambda: zonotope_margins(graph, x, y, about),
        lambda: local_margins(graph, x, y, about, by=FAST_LIP).lower,
    ):
        plain = bound()
        with memory(2**20):
            assert torch.allclose(bound(), plain, rtol=1e-9, atol=1e-12)


def test_pieces_are_as_small_as_the_limit_wants() -> None:
    seen: list[int] = []

    def doubled(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        return 2 * part

    part = torch.arange(5000.0)
    with memory(2**20):
        assert torch.equal(in_pieces(doubled, [part], 4), 2 * part)
    assert max(seen) * 4 <= 2**20 / 2 / 16 / 8 and len(seen) > 3
    seen.clear()
    in_pieces(doubled, [part], 4)
    assert seen == [5000]


@pytest.mark.parametrize("method", ["deepz", "hybrid"])
@pytest.mark.parametrize("sound", [True, False])
def test_a_zonotope_beyond_the_limit_is_refused(method: str, sound: bool) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 400), nn.ReLU(), nn.Linear(400, 3)).eval()
    x, verifier = torch.rand(1, 1, 16, 16), Propagation(method, sound)
    y, about = net(x).argmax(1), parse("linf:1e-6")
    assert (verifier.margins(net, x, y, about).sure > -1).all()
    with memory(2**20), pytest.raises(ModelError, match=r"zonotope of .* GiB in a limit"):
        verifier.margins(net, x, y, about)


@pytest.mark.parametrize("sound", [True, False])
def test_symbols_that_open_neurons_bring_in_count(sound: bool) -> None:
    """There are few pixels, and many neurons."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 600), nn.ReLU(), nn.Linear(600, 3)).eval()
    x = torch.rand(1, 1, 2, 2)
    y = net(x).argmax(1)
    with memory(2**20), pytest.raises(ModelError, match=r"zonotope of .* GiB in a limit"):
        Propagation("deepz", sound).margins(net, x, y, parse("linf:0.5"))


def test_parts_beyond_the_limit_end_the_search_undecided() -> None:
    net = Hard().double().eval().requires_grad_(False)
    x = torch.full((1, 20), 0.5, dtype=D)
    passed = Pass.of(graph_of(net, x), InputSet.of(x, parse("linf:0.4")), CROWN)
    rows, limits = torch.tensor([[1.0, -1.0]], dtype=D), torch.zeros(1, dtype=D)
    with memory(2**20):
        found = split_hinges(passed, [rows], [limits], seconds=60)
    assert found.verdict == "unknown" and found.parts > 1 and float(found.lower[0]) < 0


def test_boxes_beyond_the_limit_end_the_search_undecided() -> None:
    net = Hard(6, 20).double().eval().requires_grad_(False)
    graph = graph_of(net, torch.zeros(1, 6, dtype=D))
    low, high = torch.full((6,), -1.0, dtype=D), torch.ones(6, dtype=D)
    asked = Question(low, high, torch.tensor([[1.0, -1.0]], dtype=D), torch.zeros(1, dtype=D))
    with memory(2**20):
        answer = split_inputs(graph, asked, 30)
    assert answer.verdict == "unknown" and answer.parts > 0
