"""Detectors of scikit-learn, and of pyod where that is installed, on flattened images."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from torchproof.anomaly.detector import fitting
from torchproof.core.errors import FileError, InputError, MissingExtra, unknown
from torchproof.core.files import write
from torchproof.core.keys import seed_of

if TYPE_CHECKING:  # slow to load
    from sklearn.decomposition import PCA

SCHEMA = "torchproof.anomaly-baseline/1"
FILE = "baseline.safetensors"


class Model(Protocol):
    """What scikit-learn and pyod fit."""

    def fit(self, x: Any) -> Any: ...


def _isolation_forest(seed: int) -> Model:
    from sklearn.ensemble import IsolationForest

    made: Model = IsolationForest(n_estimators=200, random_state=seed)
    return made


def _one_class_svm(seed: int) -> Model:
    from sklearn.svm import OneClassSVM

    made: Model = OneClassSVM(kernel="rbf", gamma="scale", nu=0.1)
    return made


def _lof(seed: int) -> Model:
    from sklearn.neighbors import LocalOutlierFactor

    made: Model = LocalOutlierFactor(n_neighbors=20, novelty=True)
    return made


BASELINES: Mapping[str, Callable[[int], Model]] = {
    "isolation-forest": _isolation_forest,
    "one-class-svm": _one_class_svm,
    "lof": _lof,
}
PYOD = "pyod:"
# These rank an image among all that are asked about with it; asked one by one, it is judged by the
# training images alone.
TOGETHER = ("pyod:ECOD", "pyod:COPOD")


@dataclass(frozen=True, eq=False)
class Baseline:
    """Principal components of the images, and a model of them. threshold: the quantile 0.9 of the
    suspicion of the images given for it.
    """

    name: str
    components: int
    seed: int
    x: Tensor
    threshold: float
    reduction: PCA
    model: Any

    def suspicion(self, x: Tensor) -> Tensor:
        """(N,), above 0 for an anomaly."""
        return self._raw(x) - self.threshold

    def flags(self, x: Tensor) -> Tensor:
        """(N,), bool: is the suspicion above 0?"""
        return self.suspicion(x) > 0

    def _raw(self, x: Tensor) -> Tensor:
        return _raw(self.name, self.model, self.reduction, fitting(x, self.x.shape[1:]))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """The images it was fitted to, and the settings: models of scikit-learn have no form on
        disk that runs no code, so `load` fits again, with the same seed.
        """
        about = {
            "schema": SCHEMA, "name": self.name, "components": str(self.components),
            "seed": str(self.seed), "threshold": repr(self.threshold),
        }  # fmt: skip
        kept = {"x": self.x.cpu().contiguous().clone()}
        write(Path(folder) / FILE, to_bytes(kept, metadata=about))


def fit_baseline(
    name: str, x: Tensor, held: Tensor | None = None, *, components: int = 32, seed: int = 0
) -> Baseline:
    """A detector of BASELINES, or `pyod:CLASS` (such as pyod:ECOD), on images x (N, C, H, W).

    held: images for the threshold; without them those of training. Raises UnknownName, InputError,
    MissingExtra where pyod is not there.
    """
    from sklearn.decomposition import PCA

    model = _made(name, seed)
    few = min(components, len(x) - 1, x[0].numel())
    if x.ndim != 4 or few < 1:
        raise InputError(f"images {tuple(x.shape)}", "(N, C, H, W), N >= 2", "give more images")
    # whitened, so that distances and kernels see all components alike
    reduction = PCA(few, whiten=True, svd_solver="full").fit(_flat(x))
    model.fit(reduction.transform(_flat(x)))
    found = _raw(name, model, reduction, x if held is None else held)
    return Baseline(name, components, seed, x, float(found.quantile(0.9)), reduction, model)


def load_baseline(folder: str | os.PathLike[str]) -> Baseline:
    """What `Baseline.save` wrote, fitted again; raises FileError."""
    path = Path(folder) / FILE
    try:
        with safe_open(path, framework="pt") as file:
            about, x = file.metadata() or {}, file.get_tensor("x")
        if about.get("schema") != SCHEMA:
            raise ValueError(f"schema {about.get('schema')!r}")
        components, seed = int(about["components"]), int(about["seed"])
        threshold, name = float(about["threshold"]), about["name"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        given = f"{path} ({error})"
        raise FileError(given, "a baseline that was fitted", "fit it again") from error
    made = fit_baseline(name, x, components=components, seed=seed)
    return Baseline(name, components, seed, x, threshold, made.reduction, made.model)


def _raw(name: str, model: Any, reduction: PCA, x: Tensor) -> Tensor:
    """Higher is more suspicious: scikit-learn's scores fall with suspicion, those of pyod rise."""
    reduced = reduction.transform(_flat(x))
    if name in TOGETHER:
        raw = np.concatenate([model.decision_function(row[None]) for row in reduced])
    else:
        raw = model.decision_function(reduced)
    return torch.as_tensor(raw if name.startswith(PYOD) else -raw, dtype=torch.float64)


def _flat(x: Tensor) -> np.ndarray[Any, Any]:
    return x.flatten(1).double().cpu().numpy()


def _made(name: str, seed: int) -> Model:
    number = seed_of(seed, "baseline") % 2**32
    if name.startswith(PYOD):
        return _of_pyod(name.removeprefix(PYOD), number)
    if name not in BASELINES:
        raise unknown("baseline", name, [*BASELINES, "pyod:ECOD"])
    return BASELINES[name](number)


def _of_pyod(name: str, seed: int) -> Model:
    """pyod keeps class ECOD in pyod.models.ecod, and so on; those that draw take a random_state."""
    try:
        kind = getattr(importlib.import_module(f"pyod.models.{name.lower()}"), name)
        draws = "random_state" in inspect.signature(kind).parameters
        made: Model = kind(random_state=seed) if draws else kind()
    except Exception as error:  # a package that is broken raises anything
        remedy = "pip install 'torchproof[pyod]', and look at the name of the class"
        raise MissingExtra(f"pyod:{name} ({error})", "a class of pyod.models", remedy) from error
    return made
