"""One face for certificates from Lipschitz constants."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.core.norms import L1, L2, Linf, Norm, name_of
from torchproof.core.threats import Threat
from torchproof.verify.bounds import graph_of
from torchproof.verify.graph import Graph
from torchproof.verify.lipschitz.fast_lip import FAST_LIP
from torchproof.verify.lipschitz.op_norm import OpNorm
from torchproof.verify.lipschitz.recur_jac import CHORDS, RECUR_JAC


class Certifier(Protocol):
    """Radii, and whether a given one is certified, for x (B, ...) with labels y (B,)."""

    def radius(self, graph: Graph, x: Tensor, y: Tensor, norm: Norm) -> Tensor: ...

    def certified_at(
        self, graph: Graph, x: Tensor, y: Tensor, norm: Norm, eps: float
    ) -> Tensor: ...


METHODS: dict[str, Certifier] = {
    "op-norm": OpNorm(),
    "fast-lip": FAST_LIP,
    "recur-jac": RECUR_JAC,
    "recur-jac-chords": CHORDS,
}
"""op-norm: the product of operator norms, with certified spectral norms; fast-lip: Weng et al.
2018; recur-jac: Zhang et al. 2019; recur-jac-chords: the same with the lines of Shi et al. 2022.
"""


def radius(
    model: nn.Module | Graph, x: Tensor, y: Tensor, norm: Norm, method: str = "fast-lip"
) -> Tensor:
    """(B,) certified radii, input units: no perturbation shorter than this, within the pixel box or
    without, makes the class of x (B, C, H, W) another than y; 0 where it is another already.

    norm: Linf(), L2() or L1(). Computed in the dtype of the model; float rounding is not accounted
    for, but in the spectral norms. Raises InputError for another norm, UnknownName for a method,
    ModelError for operations without a rule or, for op-norm, without a Lipschitz constant.
    """
    graph = model if isinstance(model, Graph) else graph_of(model, x)
    return _chosen(norm, method).radius(graph, x, y, norm)


def certified_at(
    model: nn.Module | Graph, x: Tensor, y: Tensor, threat: Threat, method: str = "fast-lip"
) -> Tensor:
    """(B,) is the class of x certified to be y throughout the threat's ball? Its pixel box is not
    used. As `radius`, with one pass of the local methods instead of a search.
    """
    graph = model if isinstance(model, Graph) else graph_of(model, x)
    chosen = _chosen(threat.norm, method)
    return chosen.certified_at(graph, x, y, threat.norm, threat.eps)


def _chosen(norm: Norm, method: str) -> Certifier:
    if not isinstance(norm, (Linf, L2, L1)):
        raise InputError(
            f"a Lipschitz constant in {name_of(norm)}",
            "Linf(), L2() or L1()",
            "use bounds by propagation, which know L0",
        )
    if method not in METHODS:
        raise unknown("Lipschitz method", method, METHODS)
    return METHODS[method]
