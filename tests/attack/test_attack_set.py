"""Attack sets: every way by hand, keyed choices, and what is stored."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.attack_set import EPS, AttackSet, Pairs, Way, signed_steps, ways
from torchproof.core.errors import FileError, InputError, UnknownName


def network(seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(),
            nn.Dropout(0.5), nn.Linear(48, 3),
        )  # fmt: skip
        return net.to(dtype)


A, B = network(1), network(2)
SOURCES = {"A": A, "B": B}


def images(n: int = 40) -> Tensor:
    g = torch.Generator().manual_seed(5)
    return torch.rand(n, 1, 4, 4, generator=g, dtype=torch.float64)


def by_hand(nets: list[nn.Module], x: Tensor, eps: float, steps: int) -> Tensor:
    """I-FGSM of one image (1, 4, 4), with gradients by central differences of the mean logits."""
    nets = [copy.deepcopy(net).eval() for net in nets]

    def loss(points: Tensor, y: int) -> Tensor:
        with torch.no_grad():
            z = sum(net(points) for net in nets) / len(nets)
        return torch.logsumexp(z, 1) - z[:, y]

    with torch.no_grad():
        y = int((sum(net(x[None]) for net in nets) / len(nets)).argmax())
    at, h = x.clone(), 1e-6
    for _ in range(steps):
        offsets = h * torch.eye(16, dtype=x.dtype).reshape(16, 1, 4, 4)
        rise = loss(at + offsets, y) - loss(at - offsets, y)
        at = (at + eps / steps * rise.sign().reshape(1, 4, 4)).clamp(0, 1)
    return at


def test_every_row_is_what_its_way_says() -> None:
    x, ids = images(), torch.arange(100, 140)
    pairs = AttackSet(SOURCES, (0.05, 0.1, 0.3))(x, ids, seed=3)
    nets = {"A": [A], "B": [B], "ensemble": [A, B]}
    assert {way for way in pairs.made} == set(ways(["A", "B"])) and len(set(pairs.made)) == 7
    for row, (way, eps) in enumerate(zip(pairs.made, pairs.eps.tolist(), strict=True)):
        if way.attack == "noop":
            assert eps == 0 and torch.equal(pairs.adv[row], x[row])
        elif way.attack == "noise":
            moved = (pairs.adv[row] - x[row]).abs()
            assert 0.5 * eps < float(moved.max()) <= eps + 1e-12 and len(moved.unique()) > 8
        else:
            expected = by_hand(nets[way.source], x[row], eps, way.steps)
            torch.testing.assert_close(pairs.adv[row], expected, rtol=0, atol=1e-12)
    moved = (pairs.adv - x).abs().flatten(1).amax(1)
    assert bool((moved <= pairs.eps + 1e-12).all()) and pairs.adv.min() >= 0
    assert A.training and A[1].num_batches_tracked == 0  # nothing of the networks has moved


def test_no_row_depends_on_the_others() -> None:
    x, ids = images(), torch.arange(7, 47)
    made = AttackSet(SOURCES)
    whole = made(x, ids, seed=3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for size in (1, 7):
        parts = [made(x[p], ids[p], seed=3) for p in torch.split(order, size)]
        adv, eps = (torch.cat([getattr(p, n) for p in parts]) for n in ("adv", "eps"))
        torch.testing.assert_close(adv, whole.adv[order], rtol=0, atol=1e-12)
        assert torch.equal(eps, whole.eps[order])
        found = [way for part in parts for way in part.made]
        assert found == [whole.made[i] for i in order.tolist()]
        spent = [sum(part.spent[way] for part in parts) for way in (0, 1)]
        assert tuple(spent) == whole.spent
    assert made(x, ids, seed=4).made != whole.made
    assert torch.equal(made(x, ids, seed=3).adv, whole.adv)


def test_draws_are_uniform_over_ways_and_eps() -> None:
    made = AttackSet(SOURCES)
    way, eps = made.draw(torch.arange(14_000), 0)
    assert way.bincount(minlength=7).tolist() == pytest.approx([2000] * 7, rel=0.1)
    assert eps.bincount(minlength=16).tolist() == pytest.approx([875] * 16, rel=0.15)
    table = torch.zeros(7, 16).index_put((way, eps), torch.ones(()), accumulate=True)
    assert int(table.min()) > 70  # all of the two together: 125 each
    assert EPS[0] == 1 / 255 and EPS[-1] == 16 / 255


def test_labels_are_the_networks_own_answers() -> None:
    """The gradient is that of the answer's loss: a step lowers the answer's own logit share."""
    x = images(12)
    delta = signed_steps([A], x, torch.full((12,), 1e-4, dtype=torch.float64), 1)
    with torch.no_grad():
        net = network(1).eval()
        clean, moved = net(x).log_softmax(1), net(x + delta).log_softmax(1)
    y = clean.argmax(1, keepdim=True)
    assert bool((moved.gather(1, y) < clean.gather(1, y)).all())


def test_the_list_for_one_network_and_a_held_out_set() -> None:
    assert [w.attack for w in ways(["A"])] == ["noop", "noise", "FGSM", "I-FGSM-2", "I-FGSM-4"]
    assert {w.source for w in ways(["A"])} == {"", "A"}
    held = AttackSet({"C": network(3, torch.float32)}, (0.2,), (("I-FGSM-10", "C"),))
    pairs = held(images(3))
    assert set(pairs.made) == {Way("I-FGSM-10", "C")} and pairs.eps.tolist() == [0.2] * 3
    assert pairs.adv.dtype == torch.float64 and pairs.spent == (33, 30)


def test_pairs_are_read_back(tmp_path: Path) -> None:
    pairs = AttackSet(SOURCES)(images(6), torch.arange(20, 26), seed=1)
    pairs.save(tmp_path / "set")
    again = Pairs.read(tmp_path / "set")
    assert again.made == pairs.made and len(again) == 6
    for name in ("x", "adv", "ids", "eps"):
        assert torch.equal(getattr(again, name), getattr(pairs, name))
    lines = (tmp_path / "set" / "pairs.csv").read_text().splitlines()
    assert lines[0] == "id,attack,source,eps" and len(lines) == 7
    way, eps = pairs.made[0], float(pairs.eps[0])
    assert lines[1] == f"20,{way.attack},{way.source},{eps}"
    (tmp_path / "set" / "pairs.npz").write_bytes(b"PK and no more")
    for folder in ("set", "none"):
        with pytest.raises(FileError, match="build it again"):
            Pairs.read(tmp_path / folder)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"eps": ()}, InputError, "input units"),
        ({"eps": (4,)}, InputError, "input units"),
        ({"sources": {}}, InputError, "at least one"),
        ({"sources": {}, "ways": (("FGSM", "ensemble"),)}, InputError, "at least one"),
        ({"sources": {"ensemble": A}}, InputError, "all together"),
        ({"ways": ()}, InputError, "one way"),
        ({"ways": (("FGSM", "C"),)}, UnknownName, "source 'C'"),
        ({"ways": (("PGD", "A"),)}, UnknownName, "attack 'PGD'"),
        ({"ways": (("I-FGSM-0", "A"),)}, UnknownName, "I-FGSM-2"),
    ],
    ids=["none", "eps", "sources", "nobody", "named", "no ways", "source", "attack", "no steps"],
)
def test_what_cannot_be_meant_is_refused(
    given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        AttackSet(**{"sources": SOURCES, **given})
    assert said in str(caught.value)
