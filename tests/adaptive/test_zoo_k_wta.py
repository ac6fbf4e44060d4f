"""k-winners-take-all: exactly the winners pass; its gradients mislead, differences do not."""

from __future__ import annotations

import pytest
import torch

from torchproof.adaptive.declaration import declaration
from torchproof.adaptive.defence import Material
from torchproof.adaptive.zoo import ZOO, k_wta
from torchproof.adaptive.zoo.k_wta import DEFENCE, Winners
from torchproof.core.errors import UnknownName
from torchproof.data import load


def material() -> Material:
    data, test = load("digits", split="train"), load("digits")
    return Material(data.take(1000), data.subset(torch.arange(1000, 1297)), test.take(40))


def test_the_winners_of_each_image_and_no_others() -> None:
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    kept = Winners(0.25)(x)
    for row, out in zip(x.flatten(1).tolist(), kept.flatten(1).tolist(), strict=True):
        least = sorted(row, reverse=True)[11]
        assert out == [v if v >= least else 0.0 for v in row]
        assert sum(v != 0 for v in out) == 12
    assert torch.equal(kept[2:3], Winners(0.25)(x[2:3]))
    few = Winners(0.001)(x)
    assert bool(((few != 0).flatten(1).sum(1) == 1).all())


def test_a_tiny_one_is_trained_and_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    data = material()
    monkeypatch.setattr(k_wta, "SHARE", 0.3)
    defended, base = DEFENCE.train(data, 0)
    x, y = data.test.x, data.test.y
    told = declaration(defended, x, y)
    assert told.holds and told.declared == told.measured.properties
    for model in (defended, base):
        assert float((model(x).argmax(1) == y).float().mean()) > 0.5
    assert sum(isinstance(m, Winners) for m in defended.modules()) == 2
    bare = defended.without("k-wta")
    assert not any(isinstance(m, Winners) for m in bare.modules())
    shares = [m.share for m in defended.modules() if isinstance(m, Winners)]
    assert shares == [0.3, 0.3]


def test_the_table_of_the_zoo() -> None:
    assert ZOO["k-wta"] is DEFENCE and DEFENCE.name == "k-wta"
    assert len(ZOO) == len(list(ZOO)) == 13
    with pytest.raises(UnknownName):
        ZOO["no-defence"]
