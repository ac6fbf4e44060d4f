"""Local Lipschitz constants against exact values, a brute-force grid and certified bounds."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from torchproof.core.errors import InputError, UnknownName
from torchproof.diagnose.lipschitz import layer_chain, local_lipschitz
from torchproof.diagnose.order import in_order, layers_of, without

ROUNDING = 1 + 1e-9


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(inputs: int) -> tuple[nn.Linear, float]:
    model = nn.Linear(inputs, 10)
    with torch.no_grad():
        model.weight.copy_(normal(10, inputs))
        return model, float(torch.linalg.matrix_norm(model.weight.double(), 2))


def network(seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)
    )
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed + number))
    return model.eval()


def images(n: int = 12) -> Tensor:
    return torch.rand(n, 1, 3, 3, generator=torch.Generator().manual_seed(3))


def test_ascent_reaches_a_linear_map_where_noise_is_fivefold_too_low() -> None:
    """For a normal matrix W (K, d) and changes e drawn without it, |W e|^2 / |e|^2 is chi-squared
    with K degrees of freedom, while |W|_2^2 >= |W|_F^2 / K, which is d in the mean. So all of N
    changes stay below a fifth of |W|_2, but for one case in a thousand, from d = 25 q on, q the
    quantile 1 - 0.001 / N.
    """
    points, draws, radii = 10, 30, (1e-3, 2.0)
    quantile = stats.chi2.isf(1e-3 / (points * draws * len(radii)), 10)
    model, exact = linear(math.ceil(25 * quantile))
    x = normal(points, model.in_features, seed=1)
    for r in radii:
        how = {"output": "logits", "box": None, "draws": draws}
        found = local_lipschitz(model, x, (r,), bound="global", **how)  # type: ignore[arg-type]
        assert 0.98 * exact <= found.attacked[0] <= exact * ROUNDING
        assert min(found.examples[0]) >= 0.98 * exact  # at every point, since it is linear
        assert found.sampled[0] < exact / 5
        assert exact / ROUNDING <= found.bound[0] <= exact * 1.001


class Plane(nn.Module):
    """A piecewise linear network on the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
        with torch.no_grad():
            for number, parameter in enumerate(self.net.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=number))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.net(x.flatten(1))
        return answer


@pytest.mark.parametrize("output", ["logits", "softmax"])
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_the_search_matches_a_brute_force_grid(
    output: str, box: tuple[float, float] | None
) -> None:
    model = Plane().eval()
    x = torch.rand(5, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    x[0] = 0.0  # in a corner of the box
    radii = (0.1, 0.5)
    found = local_lipschitz(model, x, radii, output=output, box=box, draws=10, bound="none")
    angle = torch.arange(360, dtype=torch.float64) * (2 * math.pi / 360)
    rays = torch.stack([angle.cos(), angle.sin()], 1)
    double = copy.deepcopy(model).double()

    def answer(points: Tensor) -> Tensor:
        z = double(points)
        return z.softmax(1) if output == "softmax" else z

    with torch.no_grad():
        for number, r in enumerate(radii):
            lengths = torch.linspace(0.01, 1, 100, dtype=torch.float64) * r
            e = (lengths[:, None, None] * rays).flatten(0, 1)
            for i, start in enumerate(x.double().flatten(1)):
                moved = start + e
                ratio = (answer(moved) - answer(start[None])).norm(dim=1) / e.norm(dim=1)
                if box is not None:
                    inside = ((moved >= 0) & (moved <= 1)).all(1)
                    ratio = ratio.where(inside, 0.0)
                mine = max(found.examples[k][i] for k in range(number + 1))
                assert mine <= float(ratio.max()) * 1.005  # the grid has gaps
                sphere = float(ratio[-len(rays) :].max())  # where the search looks
                assert found.examples[number][i] >= 0.5 * sphere > 0  # perhaps a lesser maximum
        whole = max(max(row) for row in found.examples)
    assert found.attacked_so_far[-1] == whole
    assert list(found.attacked_so_far) == sorted(found.attacked_so_far)
    assert all(a >= s for a, s in zip(found.attacked, found.sampled, strict=True))


def test_the_search_comes_close_to_the_supremum() -> None:
    """Over a ball of the plane, which the radii cover."""
    model, x = Plane().eval(), torch.full((1, 1, 1, 2), 0.5)
    radii = tuple(0.1 * i for i in range(1, 5))
    found = local_lipschitz(model, x, radii, output="logits", box=None, bound="none")
    axis = torch.linspace(-0.4, 0.4, 321, dtype=torch.float64)
    e = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)
    e = e[(e.norm(dim=1) <= 0.4) & (e.norm(dim=1) > 0)]
    with torch.no_grad():
        double = copy.deepcopy(model).double()
        gap = (double(x.flatten(1) + e) - double(x.double())).norm(dim=1)
    best = float((gap / e.norm(dim=1)).max())
    assert 0.98 * best <= found.attacked_so_far[-1] <= best * 1.005


def test_bounds_lie_above_and_probabilities_saturate() -> None:
    model, x, radii = network(), images(3), (0.01, 0.5)
    for output in ("logits", "softmax"):
        local, whole = (
            local_lipschitz(model, x, radii, output=output, draws=5, steps=10, bound=bound)
            for bound in ("local", "global")
        )
        assert len(set(whole.bound)) == 1
        pairs = zip(local.bound, whole.bound, strict=True)
        assert all(one <= other * ROUNDING for one, other in pairs)
        assert local.bound[0] < 0.9 * whole.bound[0]
        assert all(
            a <= b * ROUNDING for a, b in zip(local.attacked_so_far, local.bound, strict=True)
        )
        assert local.attacked == whole.attacked
    free = local_lipschitz(model, x, (0.1, 3.0), box=None, draws=5, bound="none")
    assert all(a * r <= math.sqrt(2) for a, r in zip(free.attacked, free.radii, strict=True))


@pytest.mark.slow
def test_the_answer_of_a_layer_is_that_of_the_network_cut_behind_it() -> None:
    model, x = network(), images()
    found = local_lipschitz(model, x, (0.2, 0.5), output="3", draws=5, steps=5)
    cut = local_lipschitz(model[:4], x, (0.2, 0.5), output="logits", draws=5, steps=5)
    assert found.attacked == cut.attacked and found.sampled == cut.sampled
    assert found.bound == pytest.approx(cut.bound)
    with pytest.raises(UnknownName, match="softmax"):
        local_lipschitz(model, x, (0.2,), output="sofmax")


def test_layers_one_by_one_bound_the_chain() -> None:
    model, x = network(), images()
    names = ("1", "2", "3", "4", "5")
    found = layer_chain(model, x, names, 0.1, draws=5, steps=20, starts=1)
    assert [layer.name for layer in found] == list(names)
    steps = itertools.pairwise(found)
    assert all(b.radius == pytest.approx(a.radius * a.attacked) for a, b in steps)
    whole = local_lipschitz(model, x, (0.1,), output="logits", draws=5, bound="none", box=None)
    bounds = [layer.bound for layer in found if layer.bound is not None]
    assert len(bounds) == len(found) and math.prod(bounds) >= whole.attacked[0]
    for layer, bound in zip(found, bounds, strict=True):
        assert layer.sampled <= layer.attacked <= bound * ROUNDING
    for number in (0, 2, 4):  # linear layers are reached
        weight = model[int(names[number])].weight.detach().double()
        exact = float(torch.linalg.matrix_norm(weight, 2))
        assert found[number].attacked == pytest.approx(exact, rel=0.02)


class Branched(nn.Module):
    """Layers in another order than their names, one that runs twice, and one without a bound."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first, self.idle = nn.Linear(9, 4), nn.Linear(9, 9), nn.Linear(2, 2)
        self.twice, self.norm = nn.Linear(9, 9), nn.LayerNorm(9)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm(self.first(x.flatten(1)).relu())
        answer: Tensor = self.last(self.twice(self.twice(inner)))
        return answer


def test_layers_are_found_in_the_order_in_which_they_run() -> None:
    model, x = Branched().eval(), images(3)
    assert layers_of(model, x) == ("first", "norm", "last")
    assert layers_of(network(), x) == ("1", "3", "5")
    chain = layer_chain(model, x, layers_of(model, x), 0.1, draws=2, steps=3, starts=1)
    assert [layer.bound is None for layer in chain] == [False, True, False]
    with pytest.raises(InputError, match="runs once"):
        layer_chain(model, x, ("twice",), 0.1)
    with pytest.raises(InputError, match="none of whose layers"):
        layers_of(nn.Flatten(), x)
    assert without(model, ("first", "norm", "last")) == ("idle", "twice")
    assert in_order(model, x, ("last", "first")) == ("first", "last")
    with pytest.raises(InputError, match="twice"):
        in_order(model, x, ("last", "twice"))


class Scaled(nn.Module):
    """A block with a parameter of its own around a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.inner = nn.Parameter(torch.ones(4)), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.gain * self.inner(x.flatten(1))
        return answer


def test_of_layers_inside_each_other_the_inner_one_is_taken() -> None:
    model, x = nn.Sequential(Scaled(), nn.Linear(4, 2)), images(3)
    assert layers_of(model, x) == ("0.inner", "1")
    assert without(model, ("0.inner", "1")) == ("0",) and without(model, ("0", "1")) == ()
    with pytest.raises(InputError, match="one inside the other"):
        layer_chain(model, x, ("0", "0.inner"), 0.1)


def test_nothing_depends_on_batches_and_the_model_stays() -> None:
    model, x = network().train(), images()
    before = copy.deepcopy(model.state_dict())
    one, other = (
        local_lipschitz(model, x, (0.3,), draws=4, bound="none", slots=slots) for slots in (12, 5)
    )
    assert one.attacked == pytest.approx(other.attacked, rel=1e-4)
    assert one.examples[0] == pytest.approx(other.examples[0], rel=1e-2)
    after = model.state_dict()
    assert model.training and all(torch.equal(before[name], after[name]) for name in before)
    assert model[1].weight.dtype == torch.float32 and model[1].weight.grad is None


def test_a_constant_network_does_not_move() -> None:
    model = network()
    with torch.no_grad():
        model[5].weight.zero_()
    found = local_lipschitz(model, images(), (0.3,), draws=2, steps=3, bound="none")
    assert found.attacked == (0.0,) and found.sampled == (0.0,)


def test_what_makes_no_sense_is_refused() -> None:
    model, x = network(), images()
    for radii in ((), (0.0, 1.0), (1.0, 0.5), (math.inf,)):
        with pytest.raises(InputError, match="increasing"):
            local_lipschitz(model, x, radii)
    with pytest.raises(InputError, match="draws"):
        local_lipschitz(model, x, (1.0,), draws=0)
    with pytest.raises(InputError):
        local_lipschitz(model, x + 1, (1.0,))
    with pytest.raises(InputError, match="box"):
        local_lipschitz(model, x, (1.0,), box=(0.4, 0.6))
    with pytest.raises(InputError, match="finite"):
        local_lipschitz(model, x * math.nan, (1.0,), box=None)
    with pytest.raises(UnknownName):
        local_lipschitz(model, x, (1.0,), bound="all")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Module"):
        local_lipschitz(lambda x: x, x, (1.0,))  # type: ignore[arg-type]
    with pytest.raises(UnknownName):
        layer_chain(model, x, ("9",), 0.1)
