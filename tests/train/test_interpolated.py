"""Interpolated adversarial training against a naive loop, and its identities."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.core.errors import InputError, ModelError, UnknownName
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import AT, IAT, Batch, LabelSmoothing, Method, Standard, Sum
from torchproof.train.method import drawn, read
from torchproof.train.mixup import Mix, blended

THREAT = Threat(Linf(), 0.1)


class Net(nn.Module):
    """Two stages and a linear layer; `late` is never asked."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Softplus())
        self.stage2 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Softplus(), nn.Flatten())
        self.last = nn.Linear(16, 3)
        self.late = nn.Identity()
        self.twice = nn.Softplus()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.twice(self.twice(self.stage2(self.stage1(x)))))
        return logits


def network() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Net().double().train()


def batch(n: int = 6, seed: int = 77) -> Batch:
    g = torch.Generator().manual_seed(5)
    x = torch.rand(n, 1, 6, 6, generator=g, dtype=torch.float64)
    y = torch.randint(3, (n,), generator=g)
    return Batch(x, y, torch.arange(10, 10 + n), progress=0.5, seed=seed)


def losses(method: Method, net: nn.Module, ready: Batch) -> Tensor:
    with drawn(ready):
        return read(method, net, ready)


def naive_half(net: Net, x: Tensor, y: Tensor, pairs: list[int], lam: float, place: int) -> Tensor:
    """Mixes at the input (0) or after stage 1 or 2, with the labels as mixed one-hot vectors."""
    h = x
    if place == 0:
        h = torch.stack([lam * h[i] + (1 - lam) * h[j] for i, j in enumerate(pairs)])
    for number, stage in enumerate((net.stage1, net.stage2), 1):
        h = stage(h)
        if number == place:
            h = torch.stack([lam * h[i] + (1 - lam) * h[j] for i, j in enumerate(pairs)])
    logp = net.last(net.twice(net.twice(h))).log_softmax(1)
    hot = torch.eye(3, dtype=x.dtype)[y]
    soft = torch.stack([lam * hot[i] + (1 - lam) * hot[j] for i, j in enumerate(pairs)])
    return -(soft * logp).sum(1)


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_naive_loop(seed: int) -> None:
    """Separate draws: the two halves have their own pairs, ratio and place."""
    net, b = network(), batch(seed=seed)
    method = IAT(THREAT, steps=3, layers=("stage1", "stage2"))
    ready = method.prepare(net, b)
    assert torch.equal(ready.adv, AT(THREAT, steps=3).prepare(net, b).adv)  # of unmixed images
    got, had = losses(method, net, ready), ready.drawn
    expected = torch.zeros(6, dtype=torch.float64)
    for x, pairs, kind in ((b.x, ready.pairs, ""), (ready.adv, had["adv_pairs"], "adv_")):
        lam, place = float(had[f"{kind}ratio"][0]), int(had[f"{kind}place"][0])
        expected = expected + naive_half(net, x, b.y, pairs.tolist(), lam, place) / 2
        assert bool((had[f"{kind}ratio"] == lam).all()) and 0 < lam < 1
        assert sorted(pairs.tolist()) == list(range(6))
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    assert not torch.equal(had["ratio"], had["adv_ratio"])
    assert not torch.equal(ready.pairs, had["adv_pairs"])


def test_places_and_ratios_follow_their_distributions() -> None:
    net, method = network(), IAT(THREAT, steps=1, layers=("stage1", "stage2"))
    made = [method.prepare(net, batch(2, seed)) for seed in range(200)]
    for kind in ("", "adv_"):
        places = Counter(int(m.drawn[f"{kind}place"][0]) for m in made)
        assert set(places) == {0, 1, 2} and min(places.values()) > 40
        lam = torch.tensor([float(m.drawn[f"{kind}ratio"][0]) for m in made])
        # Beta(2, 2): mean 1/2, variance 1/20
        assert abs(float(lam.mean()) - 0.5) < 0.05 and abs(float(lam.var()) - 0.05) < 0.015
    assert torch.equal(made[3].noted["mixing_ratio"], made[3].drawn["ratio"])
    differing = [m for m in made if int(m.drawn["place"][0]) != int(m.drawn["adv_place"][0])]
    assert 100 < len(differing) < 165  # two places of three differ in 2/3 of the batches


@pytest.mark.parametrize("layers", [(), ("stage1",)], ids=["input", "manifold"])
def test_ratio_one_is_half_clean_half_adversarial(layers: tuple[str, ...]) -> None:
    net, b = network(), batch()
    fifty = Sum(Standard(), AT(THREAT, steps=7), weights=(0.5, 0.5))
    mixing, off = IAT(THREAT, layers=layers), IAT(THREAT, alpha=0, layers=layers)
    halves, ready, plain = (m.prepare(net, b) for m in (fifty, mixing, off))
    want = losses(fifty, net, halves)
    ones = {name: torch.ones_like(ready.drawn[name]) for name in ("ratio", "adv_ratio")}
    unmixed = replace(ready, drawn={**ready.drawn, **ones})
    assert torch.allclose(losses(mixing, net, unmixed), want, rtol=0, atol=1e-12)
    assert torch.allclose(losses(off, net, plain), want, rtol=0, atol=1e-12)
    assert not plain.entire and [len(p.x) for p in plain.split(4)] == [4, 2]
    assert not torch.allclose(losses(mixing, net, ready), want, rtol=0, atol=1e-3)


def test_place_zero_is_input_mixup() -> None:
    """The ratio and the pairs do not depend on what places there are."""
    net, seen = network(), 0
    for seed in range(12):
        b = batch(seed=seed)
        deep, flat = IAT(THREAT, steps=1, alpha=1, layers=("stage1",)), IAT(THREAT, steps=1)
        one, other = deep.prepare(net, b), flat.prepare(net, b)
        assert torch.equal(one.drawn["ratio"], other.drawn["ratio"])
        if int(one.drawn["place"][0]) == 0 and int(one.drawn["adv_place"][0]) == 0:
            seen += 1
            assert torch.equal(losses(deep, net, one), losses(flat, net, other))
    assert seen


def test_soft_labels_are_the_weighted_cross_entropies() -> None:
    b, g = batch(), torch.Generator().manual_seed(1)
    z = torch.randn(6, 3, generator=g, dtype=torch.float64)
    mix = Mix(torch.tensor([1, 0, 3, 2, 5, 4]), torch.full((6,), 0.3, dtype=torch.float64))
    hot = F.one_hot(b.y, 3).double()
    soft = 0.3 * hot + 0.7 * hot[mix.pairs]
    want = F.cross_entropy(z, soft, reduction="none")
    assert torch.allclose(mix.cross_entropy(z, b), want, rtol=0, atol=1e-12)
    smoothed = 0.9 * soft + 0.1 / 3
    want = F.cross_entropy(z, smoothed, reduction="none")
    got = mix.cross_entropy(z, replace(b, smoothing=0.1))
    assert torch.allclose(got, want, rtol=0, atol=1e-12)


def test_label_smoothing_reaches_both_halves() -> None:
    net, b = network(), batch()
    plain, smooth = IAT(THREAT, steps=1), LabelSmoothing(IAT(THREAT, steps=1), 0.3)
    one, other = plain.prepare(net, b), smooth.prepare(net, b)
    assert not torch.allclose(losses(plain, net, one), losses(smooth, net, other))


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def test_no_hook_stays_behind() -> None:
    net, b = network(), batch()
    ready = IAT(THREAT, steps=1, alpha=1, layers=("stage1",)).prepare(net, b)
    mix = Mix(ready.pairs, ready.drawn["ratio"], "stage1")
    with blended(net, mix):
        assert hooks(net) == 1
        net(b.x)
    assert hooks(net) == 0
    for layer, word in (("late", "did not run"), ("twice", "more than once")):
        with pytest.raises(ModelError, match=word):
            replace(mix, layer=layer).logits(net, b.x)
        assert hooks(net) == 0


def test_layers_are_found_by_the_end_of_their_name() -> None:
    net, b = nn.Sequential(network()), batch()
    short = IAT(THREAT, steps=1, layers=("stage1",)).prepare(net, b)
    full = IAT(THREAT, steps=1, layers=("0.stage1",)).prepare(net, b)
    assert torch.equal(short.drawn["place"], full.drawn["place"])
    with pytest.raises(UnknownName, match="stage1"):
        IAT(THREAT, steps=1, layers=("stage9",)).prepare(net, b)
    with pytest.raises(UnknownName):  # stage1.0 and stage2.0
        IAT(THREAT, steps=1, layers=("0",)).prepare(network(), b)


def test_buffers_move_in_the_descent_passes_only() -> None:
    net, b = network(), batch()
    before = [t.clone() for t in net.buffers()]
    ready = IAT(THREAT, steps=2).prepare(net, b)
    assert all(torch.equal(u, v) for u, v in zip(before, net.buffers(), strict=True))
    losses(IAT(THREAT, steps=2), net, ready)
    assert int(net.stage1[1].num_batches_tracked) == 2  # the halves pass one after the other


def test_what_makes_no_mixing_is_refused() -> None:
    wrong = [{"alpha": alpha} for alpha in (-1, float("nan"), float("inf"), "1")]
    for more in (*wrong, {"layers": "stage1"}, {"layers": ("",)}):
        with pytest.raises(InputError, match=f"{next(iter(more))} = "):
            IAT(THREAT, **more)
