"""Our attacks inside other libraries find what they find by themselves; skipped, with the reason,
where a library is not installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchproof.attack.catalogue import pgd
from torchproof.compare.adapters import as_art, as_foolbox, as_torchattacks
from torchproof.core.errors import InputError, MissingExtra
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat

EPS = 0.05
THREAT = Threat(Linf(), EPS)
Data = tuple[Tensor, Tensor]


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} does not load here ({type(error).__name__})")


@pytest.fixture
def expected(model: nn.Module, data: Data) -> Tensor:
    x, y = data
    found = pgd(THREAT, 5)(model, x, y)
    assert isinstance(found.value, Tensor)
    return x + found.value


def test_as_torchattacks(model: nn.Module, data: Data, expected: Tensor) -> None:
    library("torchattacks")
    points = as_torchattacks(model, pgd(THREAT, 5))(*data)
    assert torch.allclose(points, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_as_foolbox(model: nn.Module, data: Data, expected: Tensor) -> None:
    lib = library("foolbox")
    attack = as_foolbox(lambda threat: pgd(threat, 5))
    wrapped = lib.PyTorchModel(model, bounds=(0, 1))
    x, y = data
    _, clipped, won = attack(wrapped, x, y, epsilons=[0.01, EPS])
    assert torch.allclose(clipped[1], expected, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(won[1], model(clipped[1]).argmax(1) != y)
    with pytest.raises(InputError, match="Misclassification"):
        attack(wrapped, x, lib.criteria.TargetedMisclassification(1 - y), epsilons=EPS)


@pytest.mark.filterwarnings("ignore")
def test_as_art(model: nn.Module, data: Data, expected: Tensor) -> None:
    estimators = library("art.estimators.classification")
    x, y = data
    estimator = estimators.PyTorchClassifier(
        model=model, loss=nn.CrossEntropyLoss(), input_shape=(1, 4, 4), nb_classes=2,
        clip_values=(0.0, 1.0), device_type="cpu",
    )  # fmt: skip
    attack = as_art(estimator, pgd(THREAT, 5))
    points = attack.generate(x.numpy(), y.numpy())
    assert isinstance(points, np.ndarray) and np.allclose(points, expected.numpy(), atol=1e-6)
    hot = np.eye(2, dtype=np.float32)[y.numpy()]
    assert np.allclose(attack.generate(x.numpy(), hot), points)
    with pytest.raises(InputError, match="PyTorchClassifier"):
        as_art(object(), pgd(THREAT, 5))


def test_a_library_that_is_missing_is_named(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise RuntimeError("broken wheel")

    monkeypatch.setattr("torchproof.compare.adapters.importlib.import_module", absent)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: as_torchattacks(model, pgd(THREAT, 5)),
        lambda: as_foolbox(lambda threat: pgd(threat, 5)),
        lambda: as_art(model, pgd(THREAT, 5)),
    )
    for call in calls:
        with pytest.raises(MissingExtra, match="broken wheel"):
            call()
