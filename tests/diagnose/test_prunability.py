"""Prunability against a naive loop, its invariances, and what it refuses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, ModelError, UnknownName
from torchproof.diagnose.fold import folded
from torchproof.diagnose.generalisation import complexity
from torchproof.diagnose.landscape import random_direction
from torchproof.diagnose.prunability import RULES, Prunability, prunability

CLASSES = 4


def images(n: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % CLASSES
    centres = torch.rand(CLASSES, 1, 4, 4, generator=generator)
    noise = 0.3 * torch.rand(n, 1, 4, 4, generator=generator)
    return (0.7 * centres[y] + noise).clamp(0, 1), y


def network(seed: int = 0, norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        between: list[nn.Module] = [nn.BatchNorm2d(6)] if norm else []
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, bias=not norm), *between, nn.ReLU(), nn.Flatten(),
            nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, CLASSES),
        )  # fmt: skip


def trained(norm: bool = False) -> nn.Sequential:
    model, (x, y) = network(norm=norm), images()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


def naive(model: nn.Module, x: Tensor, y: Tensor, grid: int) -> list[float]:
    """Losses with the largest weights kept, one at a time."""
    found = []
    names = [n for n, p in model.named_parameters() if p.dim() > 1]
    own = dict(model.named_parameters())
    places = sorted(
        ((n, i) for n in names for i in range(own[n].numel())),
        key=lambda at: -abs(float(own[at[0]].detach().flatten()[at[1]])),
    )
    for step in range(1, grid + 1):
        pruned = copy.deepcopy(model)
        with torch.no_grad():
            for name, i in places[math.ceil(len(places) * step / grid) :]:
                dict(pruned.named_parameters())[name].view(-1)[i] = 0.0
            found.append(float(F.cross_entropy(pruned(x), y)))
    return found


def test_the_curve_is_that_of_a_naive_loop() -> None:
    model, (x, y) = trained(), images()
    found = prunability(model, x, y, grid=10, beta=0.1, slack=0.05, slots=7)
    losses = naive(model, x, y, 10)
    assert found.losses == pytest.approx(losses, rel=1e-4, abs=1e-6)
    limit = 1.1 * losses[-1] + 0.05
    assert found.fraction == min((i + 1) / 10 for i in range(10) if losses[i] <= limit)
    assert found.parameters == 6 * 9 + 24 * 16 + 16 * CLASSES and found.n == 60
    assert 0 < found.fraction < 1 and found.limit == pytest.approx(limit, rel=1e-4)


def curve(losses: tuple[float, ...], loss: float) -> Prunability:
    fractions = tuple((i + 1) / len(losses) for i in range(len(losses)))
    spread = (0.0,) * len(losses)
    return Prunability(1.0, 1.0, loss, 1.0, 0.0, 0.0, "magnitude", 1, 9, 9, fractions, losses,
                       spread)  # fmt: skip


def test_where_the_curve_is_not_monotone_the_least_fraction_counts() -> None:
    found = curve((2.0, 0.1, 0.5, 0.1, 0.1), 0.1).at(0.0)
    assert (found.fraction, found.steady) == (0.4, 0.8)


def test_more_tolerance_never_keeps_more() -> None:
    model, (x, y) = trained(), images()
    for by in RULES:
        found = prunability(model, x, y, by=by, grid=20, draws=2)  # type: ignore[arg-type]
        kept = [found.at(beta, slack).fraction for slack in (0, 0.1) for beta in (0, 0.1, 1, 10)]
        assert kept[:4] == sorted(kept[:4], reverse=True)
        assert kept[4:] == sorted(kept[4:], reverse=True)
        assert all(0 < value <= 1 for value in kept)
        assert found.losses[-1] == found.loss and found.spread[-1] == 0


def test_magnitude_keeps_no_more_than_random_pruning() -> None:
    model, (x, y) = trained(), images()
    one, other = (prunability(model, x, y, by=by, grid=20) for by in ("magnitude", "random"))
    assert one.fraction < other.fraction and other.draws == 3 and max(other.spread) > 0
    again = prunability(model, x, y, by="random", grid=20)
    assert again == other
    assert prunability(model, x, y, by="random", grid=20, seed=1).losses != other.losses


def rescaled(model: nn.Sequential, factor: float) -> nn.Sequential:
    made = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in made[3].parameters():
            parameter.mul_(factor)
        made[5].weight.div_(factor)
    return made


def test_layer_normalised_magnitude_does_not_see_rescaled_layers() -> None:
    model, (x, y) = trained(), images()
    for factor in (16.0, 2.0**-5):
        other = rescaled(model, factor)
        assert torch.equal(other(x), model(x))
        same = [prunability(m, x, y, by="normalised", grid=20) for m in (model, other)]
        assert same[0] == same[1]
        naive_ = [prunability(m, x, y, grid=20).losses for m in (model, other)]
        assert naive_[0] != naive_[1]
    close = prunability(rescaled(model, 3.0), x, y, by="normalised", grid=20)
    assert close.losses == pytest.approx(same[0].losses, rel=0.01)


def test_a_perturbation_is_as_long_as_what_pruning_takes_away() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {
        "a": torch.randn(5, 7, generator=generator),
        "b": torch.randn(3, generator=generator),
    }
    for keep in (0, 10, 37):
        gone, noise = (RULES[by].shift(weights, 3)(keep) for by in ("magnitude", "perturbation"))
        lengths = [sum(float(t.square().sum()) for t in d.values()) for d in (gone, noise)]
        assert lengths[0] == pytest.approx(lengths[1], rel=1e-5)
        zeros = sum(int(((weights[n] + gone[n]) != 0).sum()) for n in weights)
        assert zeros == keep
        few, more = (RULES["random"].shift(weights, 3)(k) for k in (10, 20))
        assert all(((few[n] != 0) >= (more[n] != 0)).all() for n in weights)


def test_the_model_stays_as_it_is() -> None:
    model, (x, y) = trained(norm=True).train(), images()
    before = copy.deepcopy(model.state_dict())
    prunability(model, x, y, by="random", grid=5)
    assert model.training and isinstance(model[1], nn.BatchNorm2d)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_batch_normalisation_is_folded_into_the_convolution() -> None:
    model, (x, y) = trained(norm=True), images()
    found = folded(model, x[:2])
    assert found.merged == ("1",) and found.left == ()
    assert isinstance(found.model[1], nn.Identity)
    torch.testing.assert_close(found.model(x), model(x), rtol=1e-4, atol=1e-4)
    scale = model[1].weight / (model[1].running_var + model[1].eps).sqrt()
    torch.testing.assert_close(found.model[0].weight, model[0].weight * scale[:, None, None, None])
    by_hand = prunability(found.model, x, y, grid=10, fold=False)
    assert prunability(model, x, y, grid=10).losses == by_hand.losses
    assert prunability(model, x, y, grid=10, fold=False).losses != by_hand.losses


class Early(nn.Module):
    """Normalises before the convolution, and reads the convolution's answer twice if `twice`."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.norm, self.twice = nn.BatchNorm2d(1), twice
        self.conv, self.after = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        nn.init.constant_(self.after.weight, 3.0)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(self.norm(x))
        answer: Tensor = self.after(maps) + (maps if self.twice else 0)
        return self.head(answer.flatten(1))


def test_what_cannot_be_folded_is_told() -> None:
    x, y = images(8)
    found = folded(Early(twice=False).eval(), x)
    assert found.merged == ("after",) and found.left == ("norm",)
    assert "norm" in prunability(Early(twice=False).eval(), x, y, grid=2).warnings[-1]
    with pytest.raises(ModelError, match="fold=False"):
        folded(Early(twice=True).eval(), x)


class ByAnyName(nn.Module):
    """A network whose first layer is called otherwise, with a norm over two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.kernel = nn.Parameter(torch.randn(8, 16) / 4)
            self.head = nn.Linear(8, CLASSES)
        self.norm = nn.LayerNorm((4, 4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(x).flatten(1) @ self.kernel.T
        answer: Tensor = self.head(hidden.relu())
        return answer


def test_weights_are_chosen_by_what_they_are_and_not_by_name() -> None:
    model, (x, y) = ByAnyName().eval(), images()
    found = prunability(model, x, y, grid=4)
    assert found.parameters == 8 * 16 + 8 * CLASSES
    known = complexity(model, x, y, draws=1)
    assert known.parameters == found.parameters
    exact = sum(float(w.detach().square().sum()) for w in (model.kernel, model.head.weight))
    assert known.norm == pytest.approx(exact, rel=1e-6)
    assert set(random_direction(model, 0)) == {"kernel", "head.weight"}
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        pruned.kernel.zero_()  # the smallest ones
        model.kernel.mul_(1e-9)
        expected = float(F.cross_entropy(pruned(x), y))
    share = math.ceil(10 * 8 * CLASSES / found.parameters) / 10
    curve = prunability(model, x, y, grid=10)
    at = curve.losses[curve.fractions.index(share)]
    assert at == pytest.approx(expected, rel=1e-4)
    still = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16)).eval()
    with pytest.raises(InputError, match="none of them a weight matrix"):
        prunability(still, x, y)


def test_a_shared_weight_counts_once_and_is_pruned_everywhere() -> None:
    model, (x, y) = (
        nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)),
        images(),
    )
    model[3].weight = model[1].weight
    found = prunability(model, x, y, grid=4)
    assert found.parameters == 256
    assert found.losses == pytest.approx(naive(model, x, y, 4), rel=1e-4)


def test_figures_that_mean_little_carry_a_warning() -> None:
    model, (x, y) = trained(), images()
    assert "relative" in prunability(model, x, y, grid=4, slack=0).warnings[0]
    assert not prunability(model, x, y, grid=4).warnings
    assert "trained on" in prunability(network(1), x, y, grid=4).warnings[0]


def test_what_makes_no_sense_is_refused() -> None:
    model, (x, y) = network(), images()
    with pytest.raises(UnknownName):
        prunability(model, x, y, by="size")  # type: ignore[arg-type]
    for wrong in ({"beta": -1.0}, {"slack": math.inf}, {"grid": 1}, {"draws": 0}):
        with pytest.raises(InputError):
            prunability(model, x, y, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="weight matrix"):
        prunability(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16)), x, y)
