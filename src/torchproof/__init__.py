"""torchproof: attack, train, certify, diagnose and guard PyTorch models, and leave evidence.

>>> import torch, torchproof
>>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
>>> x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
>>> report = torchproof.evaluate(model, (x, y), torchproof.parse("linf:8/255"), suite="quick")
>>> report.robust_accuracy <= report.clean_accuracy
True
"""

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
