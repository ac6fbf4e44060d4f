"""Detectors as estimators of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import Tensor, nn

from torchproof.anomaly.baselines import fit_baseline
from torchproof.attack.catalogue import pgd
from torchproof.core.errors import InputError
from torchproof.core.keys import permutation
from torchproof.core.threats import parse
from torchproof.detect.calibrate import calibrate
from torchproof.detect.detector import Clean, Detector, Fitted
from torchproof.detect.sklearn_like import OfDetector, Outliers

RNG = np.random.default_rng(0)
X = np.clip(RNG.normal(0.5, 0.1, (200, 1, 3, 3)), 0, 1)
Y = (X.mean((1, 2, 3)) > 0.5).astype(np.int64)
FAR = np.ones((5, 1, 3, 3))


class Distance(Fitted):
    """How far the mean of an image is from what was seen."""

    def __init__(self, model: nn.Module, data: Clean, seed: int) -> None:
        super().__init__(model)
        self.data, self.seed = data, seed
        self.register_buffer("centre", data.x.mean())

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean((1, 2, 3)) - self.centre).abs()


@dataclass(frozen=True)
class Far(Detector):
    name: ClassVar[str] = "far"
    source: ClassVar[str] = "here"

    def fit(self, model: nn.Module, data: Clean, seed: int = 0) -> Fitted:
        self.check(data)
        return Distance(model, data, seed)


class Supervised(Far):
    supervised: ClassVar[bool] = True


def model() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).eval()
    net[1].weight.data = torch.tensor([[-1.0], [1.0]]).expand(2, 9) / 9
    net[1].bias.data = torch.tensor([0.5, -0.5])
    return net


def test_fitted_calibrated_and_asked() -> None:
    made = Outliers(OfDetector(Far(), model()), fpr=0.1, held=0.25, seed=4)
    assert made.fit(X, Y) is made
    order = permutation(200, 4, "calibrate")
    x = torch.from_numpy(X).float()
    centre = float(x[order[50:]].mean())
    wanted = (x.mean((1, 2, 3)) - centre).abs().double()
    scores = made.score_samples(X)
    assert scores.dtype == np.float64 and np.allclose(-scores, wanted.numpy(), atol=1e-6)
    threshold = calibrate(wanted[order[:50]], 0.1)
    assert made.offset_ == pytest.approx(-threshold.value, abs=1e-6)
    assert made.threshold_.n == 50 and made.threshold_.fpr == 0.1
    assert np.array_equal(made.predict(X), np.where(made.decision_function(X) < 0, -1, 1))
    assert made.predict(FAR).tolist() == [-1] * 5 and made.predict(X).mean() > 0.5


def seen(made: Outliers) -> Clean:
    """What the detector was fitted to."""
    owner: Any = made.scorer_.__self__  # type: ignore[attr-defined]
    assert isinstance(owner, Distance) and owner.seed == made.seed
    return owner.data


def test_labels_are_those_given_or_the_classifiers_answers() -> None:
    order = permutation(200, 0, "calibrate")[60:]
    with_labels = Outliers(OfDetector(Far(), model())).fit(X, 1 - Y)
    assert torch.equal(seen(with_labels).y, torch.from_numpy(1 - Y)[order])
    without = Outliers(OfDetector(Far(), model())).fit(X)
    assert torch.equal(seen(without).y, torch.from_numpy(Y)[order])


def test_a_supervised_detector_learns_from_an_attack() -> None:
    threat = parse("linf:0.1")
    with pytest.raises(InputError, match="without adversarial images"):
        Outliers(OfDetector(Supervised(), model())).fit(X, Y)
    data = seen(Outliers(OfDetector(Supervised(), model(), pgd(threat, 3))).fit(X, Y))
    assert data.adversarial is not None
    moved = (data.adversarial - data.x).abs().amax((1, 2, 3))
    assert float(moved.max()) <= 0.1 + 1e-6 and float(moved.median()) > 0.01
    lost = model()(data.adversarial).argmax(1) != data.y
    assert float(lost.float().mean()) > 0.9


def test_it_is_an_estimator_of_scikit_learn() -> None:
    made = Outliers(OfDetector(Far(), model()), seed=2)
    twin = clone(made).set_params(fpr=0.2)
    assert twin.get_params()["seed"] == 2 and made.fpr == 0.05 and not hasattr(twin, "offset_")
    with pytest.raises(NotFittedError):
        twin.predict(X)
    assert set(made.fit_predict(X)) <= {-1, 1}
    flat = Outliers(OfDetector(Far(), model()), seed=2, shape=(1, 3, 3))
    line = make_pipeline(FunctionTransformer(lambda a: a.reshape(len(a), -1)), flat)
    assert np.array_equal(line.fit(X).predict(X), made.predict(X))
    assert np.array_equal(made.predict(X[:, 0]), made.predict(X))  # no axis of channels


def test_anomaly_detectors_too() -> None:
    made = Outliers(lambda x, y, seed: fit_baseline("isolation-forest", x, seed=seed).suspicion)
    made.fit(X[:80])
    assert made.predict(FAR).tolist() == [-1] * 5 and (made.predict(X[80:]) == 1).mean() > 0.7


BAD = {
    "bytes as floats": X * 255,
    "bytes": (X * 255).astype(np.uint8),
    "five axes": X[:, :, :, :, None],
    "flat": X.reshape(200, 9),
    "not a number": np.full_like(X, np.nan),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_arrays_that_cannot_be_meant_are_refused(bad: Any) -> None:
    with pytest.raises(InputError, match="an array of"):
        Outliers(OfDetector(Far(), model())).fit(bad)


def test_settings_that_cannot_be_meant_are_refused() -> None:
    made = OfDetector(Far(), model())
    with pytest.raises(InputError, match=r"held = 0\.0"):
        Outliers(made, held=0.0).fit(X)
    with pytest.raises(InputError, match="false-alarm rate"):
        Outliers(made, fpr=0.001).fit(X)
    with pytest.raises(InputError, match="labels of float64"):
        Outliers(made).fit(X, Y.astype(float))
    with pytest.raises(InputError, match="rows of 9 numbers"):
        Outliers(made, shape=(1, 2, 2)).fit(X.reshape(200, 9))
