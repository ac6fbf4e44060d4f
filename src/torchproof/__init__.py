"""torchproof: attack, train, certify, diagnose and guard PyTorch models, and leave evidence.

>>> import torch, torchproof
>>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
>>> x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
>>> report = torchproof.evaluate(model, (x, y), torchproof.parse("linf:8/255"), suite="quick")
>>> report.robust_accuracy <= report.clean_accuracy
True
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchproof.attack import Attack, Run
    from torchproof.core.errors import TorchproofError
    from torchproof.core.norms import L0, L1, L2, Linf
    from torchproof.core.threats import Threat, parse
    from torchproof.evaluate import Report, evaluate

__version__ = "0.1.0"

__all__ = [
    "L0",
    "L1",
    "L2",
    "Attack",
    "Linf",
    "Report",
    "Run",
    "Threat",
    "TorchproofError",
    "__version__",
    "evaluate",
    "parse",
]

_FROM = {
    "attack": ("Attack", "Run"),
    "core.errors": ("TorchproofError",),
    "core.norms": ("L0", "L1", "L2", "Linf"),
    "core.threats": ("Threat", "parse"),
    "evaluate": ("Report",),
}


class _Package(ModuleType):
    """torchproof itself: names and subpackages are imported when they are asked for, so that what
    needs no network, such as `torchproof --help`, does not wait for torch.

    `evaluate` is the function, whatever the subpackage of that name does: an import of that sets
    the attribute, which here has no effect.
    """

    def __getattr__(self, name: str) -> Any:
        for module, names in _FROM.items():
            if name in names:
                found = getattr(import_module(f"{__name__}.{module}"), name)
                setattr(self, name, found)
                return found
        if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})

    @property
    def evaluate(self) -> Any:
        return import_module(f"{__name__}.evaluate.evaluation").evaluate

    @evaluate.setter
    def evaluate(self, subpackage: ModuleType) -> None:
        """What an import of the subpackage does."""


sys.modules[__name__].__class__ = _Package
