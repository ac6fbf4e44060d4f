"""An attack of torchproof where Foolbox, torchattacks or ART expect one of theirs.

The reverse is `attack.foreign`. The other library is imported when its function is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchproof.attack.combine import Attack, Chain
from torchproof.attack.run import Run
from torchproof.core.errors import InputError, MissingExtra
from torchproof.core.norms import L0, L1, L2, Linf, Norm
from torchproof.core.sites import Model
from torchproof.core.threats import Threat

Ours = Attack | Chain


def as_torchattacks(model: nn.Module, attack: Ours, seed: int = 0) -> Any:
    """A `torchattacks.attack.Attack`: call it on (images, labels), or save a loader's images.

    The device, mode and normalisation that torchattacks keeps are its own, as for its attacks.
    Raises MissingExtra without torchattacks.
    """
    base = _loaded("torchattacks.attack", "torchattacks").Attack

    class Adapted(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__("torchproof", model)

        def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
            x, y = (t.detach().to(self.device) for t in (inputs, labels))
            return _points(attack, self.get_logits, x, y, seed)

    return Adapted()


def as_foolbox(make: Callable[[Threat], Ours], norm: Norm = Linf(), seed: int = 0) -> Any:
    """A Foolbox attack of fixed eps: attack(fmodel, inputs, criterion, epsilons=[...]).

    make: the attack for a threat, such as `apgd_ce`; it is made for every eps, within the model's
    bounds. The criterion has to be `Misclassification`, or labels. Raises MissingExtra without
    Foolbox; InputError for other criteria and models of other frameworks.
    """
    attacks = _loaded("foolbox.attacks.base", "foolbox")
    lib = _loaded("foolbox", "foolbox")
    measure = {Linf: "linf", L2: "l2", L1: "l1", L0: "l0"}[type(norm)]

    class Adapted(attacks.FixedEpsilonAttack):  # type: ignore[misc, name-defined]
        distance = getattr(lib.distances, measure)

        def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **_: Any) -> Any:
            eager = importlib.import_module("eagerpy")
            x, back = eager.astensor_(inputs)
            asked = attacks.get_criterion(criterion)
            if not isinstance(asked, lib.criteria.Misclassification):
                given = f"the criterion {asked!r}"
                raise InputError(given, "Misclassification(labels)", "pass the labels")
            if not isinstance(x.raw, Tensor):
                given = f"inputs of {type(x.raw).__name__}"
                raise InputError(given, "torch tensors", "use foolbox.PyTorchModel")
            low, high = model.bounds
            threat = Threat(norm, epsilon, low=float(low), high=float(high))
            points = _points(make(threat), model, x.raw, asked.labels.raw, seed)
            return back(eager.astensor(points))

    return Adapted()


def as_art(estimator: Any, attack: Ours, seed: int = 0) -> Any:
    """An ART evasion attack on a PyTorchClassifier: generate(x, y) on arrays (N, C, H, W).

    y: classes (N,) or one-hot rows, by default what the estimator predicts. Raises MissingExtra
    without ART, InputError for an estimator of another framework or one that changes its inputs
    before the network sees them.
    """
    base = _loaded("art.attacks.attack", "art").EvasionAttack
    model: Any = getattr(estimator, "model", None)
    if not isinstance(model, nn.Module):
        given = f"an estimator of type {type(estimator).__name__}"
        raise InputError(given, "a PyTorchClassifier", "wrap the network in one")
    before = getattr(estimator, "preprocessing_operations", None) or []
    changed = [step for step in before if not _identity(step)]
    if changed:
        given = f"an estimator with {', '.join(type(d).__name__ for d in changed)} before it"
        raise InputError(
            given, "the network alone", "make the preprocessing a layer of the network"
        )

    class Adapted(base):  # type: ignore[misc, valid-type]
        attack_params = base.attack_params
        _estimator_requirements = ()

        def generate(self, x: Any, y: Any = None, **_: Any) -> Any:
            device = next(model.parameters()).device
            images = torch.as_tensor(x, dtype=torch.float32, device=device)
            classes = torch.as_tensor(self.estimator.predict(x) if y is None else y, device=device)
            classes = classes.argmax(1) if classes.ndim == 2 else classes
            return _points(attack, model, images, classes.long(), seed).cpu().numpy()

    return Adapted(estimator=estimator)


def _points(attack: Ours, model: Model, x: Tensor, y: Tensor, seed: int) -> Tensor:
    """What the attack found, on the device of x; the model stays as it was."""
    found = attack(model, x, y, run=Run(seed=seed))
    if not isinstance(found.value, Tensor):
        given = f"an attack on {type(attack.threat).__name__}"
        raise InputError(given, "an attack on images", "choose a threat such as linf:8/255")
    points: Tensor = x + found.value.to(x)
    return points.detach()


def _identity(step: Any) -> bool:
    """ART puts a standardisation by mean 0 and deviation 1 before every network."""
    mean, std = getattr(step, "mean", None), getattr(step, "std", None)
    return mean is not None and not np.any(mean) and bool(np.all(np.asarray(std) == 1))


def _loaded(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken installation raises anything
        remedy = f"run `pip install 'torchproof[{extra}]'`"
        raise MissingExtra(f"{module} ({error})", extra, remedy) from error
