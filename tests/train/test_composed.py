"""Methods inside methods: they parse, run, resume, and note what they did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.nn.cosine import CosineHead
from torchproof.train import (
    AT,
    AWP,
    EMA,
    FAT,
    IAT,
    JSIGR,
    SPAT,
    TRADES,
    Record,
    Settings,
    Sum,
    fit,
    method,
)
from torchproof.train.method import Method, layers

THREAT = Threat(Linf(), 0.1)

# text -> kinds from the outside in, and the figures that are noted
COMPOSED: dict[str, tuple[tuple[type[Method], ...], set[str]]] = {
    "AWP(SPAT(beta=6, steps=2))": (
        (AWP, SPAT),
        {"weight_shift", "label_cosine", "rival_cosine"},
    ),
    "AWP(IAT(steps=2))": (
        (AWP, IAT),
        {"weight_shift", "mixing_ratio", "adv_mixing_ratio"},
    ),
    "EMA(AWP(IAT(steps=2, layers=('1', '3'))))": (
        (EMA, AWP, IAT),
        {"weight_shift", "mixing_ratio", "adv_mixing_ratio"},
    ),
    "FAT(IAT(steps=2), tau=1)": (
        (FAT, IAT),
        {"mixing_ratio", "adv_mixing_ratio", "friendly_steps", "tau"},
    ),
    "FAT(SPAT(steps=2), tau=0)": (
        (FAT, SPAT),
        {"label_cosine", "rival_cosine", "friendly_steps", "tau"},
    ),
    "AWP(FAT(TRADES(beta=6), tau=1))": (
        (AWP, FAT, TRADES),
        {"weight_shift", "friendly_steps", "tau"},
    ),
    "Sum(AT(), JSIGR(jacobian=0.1))": ((Sum, AT, JSIGR), {"salient_share"}),
}


def data() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (40,), generator=g)
    x = torch.rand(40, 1, 3, 3, generator=g) * 0.5
    x[torch.arange(40), 0, y] += 0.4
    return x, y


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(9, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2),
            CosineHead(8, 3, 4),
        )  # fmt: skip


def trained(
    text: str, out: Path, stop: Callable[[], bool] | None = None, resume: bool = False
) -> tuple[list[Record], dict[str, Tensor]]:
    settings = Settings.of(
        epochs=2, batch_size=10, lr=0.05, held_out=10, held_out_steps=2, checkpoint_steps=1
    )
    net = network()
    made = method(text, THREAT)
    records = list(fit(net, data(), made, settings, out=out, resume=resume, stop=stop))
    return records, net.state_dict()


@pytest.mark.parametrize("text", COMPOSED)
def test_runs_and_resumes(text: str, tmp_path: Path) -> None:
    kinds, figures = COMPOSED[text]
    assert tuple(type(part) for _, part in layers(method(text, THREAT))) == kinds
    records, weights = trained(text, tmp_path / "whole")
    assert set(records[-1].figures) == figures
    assert records[-1].backward > 0 and not torch.equal(weights["1.weight"], network()[1].weight)
    steps = iter(range(100))
    stopped, _ = trained(text, tmp_path / "cut", stop=lambda: next(steps) >= 3)
    assert len(stopped) < 2
    again, same = trained(text, tmp_path / "cut", resume=True)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    timeless = {"seconds": 0.0}
    first, second = (r.model_copy(update=timeless) for r in (records[-1], again[-1]))
    assert first == second


PLAIN = [
    ("AWP(SPAT(steps=2))", "SPAT(steps=2)"),
    ("AWP(IAT(steps=2))", "IAT(steps=2)"),
    ("FAT(IAT(steps=2), tau=0)", "IAT(steps=2)"),
    ("IAT(steps=2)", "IAT(steps=2, alpha=0)"),
    ("FAT(SPAT(steps=2), tau=0)", "SPAT(steps=2)"),
]


@pytest.mark.parametrize(("text", "plain"), PLAIN)
def test_every_layer_changes_the_weights(text: str, plain: str) -> None:
    nets = []
    for expression in (text, plain):
        net = network()
        settings = Settings.of(epochs=1, batch_size=10, lr=0.05, held_out=0)
        list(fit(net, data(), method(expression, THREAT), settings))
        nets.append(net.state_dict())
    assert not torch.equal(nets[0]["1.weight"], nets[1]["1.weight"])
