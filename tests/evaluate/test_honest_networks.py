"""Networks whose robustness is real raise no flag at all: a false alarm costs more than a missed
one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchproof.attack.catalogue import apgd_ce, apgd_t, fab_t, pgd, square
from torchproof.attack.untouched import forked
from torchproof.core.norms import L2, Linf
from torchproof.core.threats import AnyThreat, Threat, parse
from torchproof.evaluate import Member, Suite, evaluate


def short_standard(threat: AnyThreat) -> Suite:
    """The members of `standard`, each a tenth as long."""
    return Suite(
        (
            Member("APGD-CE", apgd_ce(threat, 20)),
            Member("APGD-T", apgd_t(threat, 20, 2)),
            Member("FAB-T", fab_t(threat, 10, 2)),
            Member("Square", square(threat, 200)),
        )
    )


@pytest.fixture(scope="session")
def hardened(blobs: Any) -> nn.Module:
    """A float64 network trained by PGD at Linf 0.1 (Madry et al. 2018)."""
    with forked(1, torch.device("cpu")):
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 24), nn.Tanh(), nn.Linear(24, 4)).double()
    attack = pgd(Threat(Linf(), 0.1), 5)
    for _ in range(40):
        found = attack(net, blobs.x, blobs.y).value
        assert isinstance(found, torch.Tensor)
        loss = F.cross_entropy(net(blobs.x + found), blobs.y)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for p, g in zip(net.parameters(), grads, strict=True):
                p -= 0.3 * g
    return net.eval()


@pytest.mark.parametrize("suite", ["quick", "standard"])
@pytest.mark.parametrize("threat", [Threat(Linf(), 0.1), Threat(L2(), 0.4)], ids=str)
def test_a_hardened_network(hardened: nn.Module, blobs: Any, threat: AnyThreat, suite: str) -> None:
    chosen = short_standard(threat) if suite == "standard" else suite
    report = evaluate(hardened, blobs, threat, chosen)
    assert report.flags == [] and report.verdict == "ok" and report.labels == []
    assert 0.4 < report.robust_accuracy < report.clean_accuracy
    assert report.probes.examples > 20


@pytest.mark.parametrize("suite", ["quick", "standard"])
@pytest.mark.parametrize(
    ("name", "text"), [("cnn_a_adv", "linf:2/255"), ("mnist_fast_pgd", "linf:0.3")]
)
def test_trained_networks(data_dir: Path, networks: Any, name: str, text: str, suite: str) -> None:
    n, threat = 32, parse(text)
    with np.load(data_dir / ("mnist.npz" if "mnist" in name else "cifar10.npz")) as arrays:
        x, y = (torch.from_numpy(arrays[key][:n]) for key in ("x_test", "y_test"))
    images = x.reshape(n, *x.shape[1:3], -1).permute(0, 3, 1, 2).float() / 255
    chosen = short_standard(threat) if suite == "standard" else suite
    report = evaluate(networks(name), (images, y.long()), threat, chosen)
    assert report.flags == [] and report.verdict == "ok"
    assert report.robust_accuracy > 0.3 and report.probes.examples > 15
