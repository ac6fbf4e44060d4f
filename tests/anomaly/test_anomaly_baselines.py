"""Baselines say what scikit-learn says; pyod is optional."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor

from torchproof.anomaly.baselines import BASELINES, FILE, fit_baseline, load_baseline
from torchproof.core.errors import FileError, InputError, MissingExtra, UnknownName
from torchproof.core.ranking import auroc


def images() -> tuple[Tensor, Tensor]:
    """Dark images, and bright ones."""
    g = torch.Generator().manual_seed(0)
    return 0.3 * torch.rand(60, 1, 4, 4, generator=g), 0.6 + 0.4 * torch.rand(
        9, 1, 4, 4, generator=g
    )


@pytest.mark.parametrize("name", BASELINES)
def test_bright_images_among_dark_ones(name: str, tmp_path: Path) -> None:
    dark, bright = images()
    made = fit_baseline(name, dark[:40], dark[40:50], components=4, seed=1)
    test = torch.cat([dark[50:], bright])
    suspicion = made.suspicion(test)
    assert auroc(suspicion[:10], suspicion[10:]) > 0.95
    assert torch.equal(made.flags(test), suspicion > 0)
    held = made.suspicion(dark[40:50])
    assert float(held.quantile(0.9)) == pytest.approx(0, abs=1e-9)
    made.save(tmp_path)
    back = load_baseline(tmp_path)
    assert torch.equal(back.suspicion(test), suspicion) and back.threshold == made.threshold


def test_the_local_outlier_factor_of_scikit_learn() -> None:
    dark, bright = images()
    made = fit_baseline("lof", dark, components=4)
    few = PCA(4, whiten=True, svd_solver="full").fit(dark.flatten(1).double().numpy())
    lof = LocalOutlierFactor(n_neighbors=20, novelty=True)
    lof.fit(few.transform(dark.flatten(1).double().numpy()))
    expected = -lof.decision_function(few.transform(bright.flatten(1).double().numpy()))
    found = (made.suspicion(bright) + made.threshold).numpy()
    assert np.allclose(found, expected, rtol=1e-6)


def test_without_pyod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyod", None)
    with pytest.raises(MissingExtra, match="pyod:ECOD"):
        fit_baseline("pyod:ECOD", images()[0])


def pretend(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    """A package pyod that has this class only."""
    package, models, module = (types.ModuleType(n) for n in ("pyod", "models", "own"))
    setattr(module, kind.__name__, kind)
    own = f"pyod.models.{kind.__name__.lower()}"
    for name, one in ("pyod", package), ("pyod.models", models), (own, module):
        monkeypatch.setitem(sys.modules, name, one)


def test_pyod_draws_by_our_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Forest:
        def __init__(self, random_state: int | None = None) -> None:
            self.draw = np.random.default_rng(random_state)

        def fit(self, x: Any) -> Any:
            self.way = self.draw.normal(size=x.shape[1])

        def decision_function(self, x: Any) -> Any:
            return x @ self.way

    pretend(monkeypatch, Forest)
    dark, bright = images()
    made = fit_baseline("pyod:Forest", dark, components=4, seed=3)
    made.save(tmp_path)
    assert torch.equal(load_baseline(tmp_path).suspicion(bright), made.suspicion(bright))
    other = fit_baseline("pyod:Forest", dark, components=4, seed=4)
    assert not torch.equal(other.suspicion(bright), made.suspicion(bright))


def test_scores_of_pyod_rise_with_suspicion(monkeypatch: pytest.MonkeyPatch) -> None:
    class ECOD:
        def fit(self, x: Any) -> Any:
            return self

        def decision_function(self, x: Any) -> Any:
            return np.square(x).sum(1) / len(x)  # which depends on what else is asked about

    pretend(monkeypatch, ECOD)
    dark, bright = images()
    made = fit_baseline("pyod:ECOD", dark, components=4)
    assert float(made.suspicion(bright).min()) > float(made.suspicion(dark).max())
    assert torch.allclose(made.suspicion(bright)[2], made.suspicion(bright[2:3]))
    with pytest.raises(MissingExtra, match="ECOX"):
        fit_baseline("pyod:ECOX", dark)


def test_what_cannot_be_meant(tmp_path: Path) -> None:
    dark, _ = images()
    with pytest.raises(UnknownName, match="lof"):
        fit_baseline("log", dark)
    with pytest.raises(InputError, match="N >= 2"):
        fit_baseline("lof", dark[:1])
    with pytest.raises(FileError):
        load_baseline(tmp_path)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(FileError, match="fit it again"):
        load_baseline(tmp_path)
