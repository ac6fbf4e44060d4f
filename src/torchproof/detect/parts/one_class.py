"""One-class machines (Schoelkopf et al. 2001) on features of clean images, as torch modules."""

from __future__ import annotations

from torch import Tensor, nn

from torchproof.core.errors import InputError
from torchproof.detect.parts.principal import Principal
from torchproof.detect.parts.rbf_svm import SupportVectors
from torchproof.detect.parts.scaling import Scaling

Kind = tuple[float, float | str]
"""nu, a bound on the share of training rows left outside, and gamma of the radial kernel; "scale"
is 1 / (D variance) of the features, scikit-learn's default.
"""


def check_kind(kind: Kind, name: str) -> None:
    """Raises InputError unless 0 < nu <= 1 and gamma is above 0 or "scale"."""
    nu, gamma = kind
    fine = gamma == "scale" if isinstance(gamma, str) else gamma > 0
    if not 0 < nu <= 1 or not fine:
        given = f"{name} = {kind!r}"
        raise InputError(given, 'nu in (0, 1], gamma > 0 or "scale"', 'write (0.1, "scale")')


def one_class(features: Tensor, kind: Kind, scaling: Scaling | None = None) -> SupportVectors:
    """scikit-learn's OneClassSVM fitted on features (N, D), which go through `scaling` first;
    above 0: inlier.
    """
    from sklearn.svm import OneClassSVM  # late: a second of start-up time

    nu, gamma = kind
    known = features.double() if scaling is None else scaling(features)
    machine = OneClassSVM(nu=nu, gamma=gamma).fit(known.cpu().numpy())
    return SupportVectors.of(machine, scaling).to(features.device)


class Value(nn.Module):
    """What is usual in a layer (B, ...): a one-class machine, behind principal components where the
    layer has more entries than `components`. Answers (B,) in float64.
    """

    def __init__(self, known: Tensor, kind: Kind, components: int) -> None:
        super().__init__()
        flat = known.flatten(1)
        wide = flat.shape[1] > components
        self.principal = Principal.of(flat, components) if wide else nn.Flatten()
        self.machine = one_class(self.principal(flat), kind)
        self.training = False

    def forward(self, layer: Tensor) -> Tensor:
        found: Tensor = self.machine(self.principal(layer).double())
        return found
