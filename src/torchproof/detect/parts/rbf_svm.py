"""Support vector machines fitted by scikit-learn, evaluated in torch, so that attacks see them.

A fitted machine is a weighted sum of kernel values between an input and the support vectors:
sum_s w_s k(x, v_s) + b. The kernels are exp(-gamma |x - v|^2) (rbf), tanh(gamma x.v + c) (sigmoid)
and x.v (linear). Everything is computed in float64, as scikit-learn does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.errors import InputError, unknown
from torchproof.detect.parts.distances import squared_distances
from torchproof.detect.parts.scaling import Scaling

STEEPNESS = 4.0  # of the sigmoid that stands for a vote in the gradient; margins are of size 1


def _rbf(x: Tensor, vectors: Tensor, gamma: Tensor, shift: Tensor) -> Tensor:
    return torch.exp(-gamma * squared_distances(x, vectors))


def _sigmoid(x: Tensor, vectors: Tensor, gamma: Tensor, shift: Tensor) -> Tensor:
    return torch.tanh(gamma * (x @ vectors.T) + shift)


def _linear(x: Tensor, vectors: Tensor, gamma: Tensor, shift: Tensor) -> Tensor:
    return x @ vectors.T


Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
KERNELS: dict[str, Kernel] = {"rbf": _rbf, "sigmoid": _sigmoid, "linear": _linear}


class SupportVectors(nn.Module):
    """The decision function of a fitted machine: features x (B, D) or (B, ...), which are
    flattened, to what scikit-learn's `decision_function` says, in the dtype of x.

    (B,) for two classes (above 0: the second of `classes_`) and for one class (above 0: inlier);
    (B, K) for K classes with decision_function_shape "ovr" or for a OneVsRestClassifier; (B, K (K -
    1) / 2), pair by pair, with "ovo".

    All is differentiable in x, exactly but for "ovr" of an SVC: scikit-learn counts there the votes
    of the pairs, and adds less than 1/3 by how clear they are. Forwards that is the exact count; in
    the gradient a vote is sigmoid(4 margin). `margins` is the smooth thing behind it. A
    OneVsRestClassifier has no votes.

    vectors (S, D), weights (M, S), bias (M,): one row for each machine; scaling: applied to x
    first; votes: the number K of classes whose pairs vote, 0 for none.
    """

    vectors: Tensor
    weights: Tensor
    bias: Tensor
    gamma: Tensor
    shift: Tensor

    def __init__(
        self,
        vectors: Tensor,
        weights: Tensor,
        bias: Tensor,
        kernel: str = "rbf",
        gamma: float = 1.0,
        shift: float = 0.0,
        votes: int = 0,
        scaling: Scaling | None = None,
    ) -> None:
        super().__init__()
        if kernel not in KERNELS:
            raise unknown("kernel", str(kernel), KERNELS)
        self.kernel, self.votes, self.scaling = kernel, votes, scaling
        numbers = {"vectors": vectors, "weights": weights, "bias": bias}
        for name, value in {**numbers, "gamma": gamma, "shift": shift}.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float64).clone())
        self.training = False

    @classmethod
    def of(cls, machine: Any, scaling: Scaling | None = None) -> SupportVectors:
        """From a fitted scikit-learn SVC, OneClassSVM, or OneVsRestClassifier of SVCs.

        scaling: what its training features went through, if anything. Raises UnknownName for
        another kernel, InputError for what is not fitted or not one of these.
        """
        if hasattr(machine, "estimators_"):
            return cls._one_vs_rest(machine.estimators_, scaling)
        if not hasattr(machine, "support_vectors_") or hasattr(machine.dual_coef_, "toarray"):
            given = f"{type(machine).__name__} without dense support vectors"
            remedy = "fit it first, on a dense array"
            raise InputError(given, "a fitted SVC, OneClassSVM or OneVsRestClassifier", remedy)
        count = len(machine.n_support_) if hasattr(machine, "classes_") else 1
        shape = getattr(machine, "decision_function_shape", "ovo")
        return cls(
            torch.from_numpy(machine.support_vectors_),
            _pairwise(torch.from_numpy(machine.dual_coef_), machine.n_support_.tolist(), count),
            torch.from_numpy(machine.intercept_),
            votes=count if count > 2 and shape == "ovr" else 0,
            scaling=scaling,
            **_kernel(machine),
        )

    @classmethod
    def _one_vs_rest(cls, machines: list[Any], scaling: Scaling | None) -> SupportVectors:
        """One machine for each class, all fitted on the same rows, which are kept once."""
        parts = [cls.of(machine, scaling) for machine in machines]
        kernels = [_kernel(machine) for machine in machines]
        if any(kernel != kernels[0] for kernel in kernels):
            raise InputError("machines of several kernels", "one kernel", "fit them alike")
        used = torch.cat([torch.from_numpy(machine.support_).long() for machine in machines])
        rows, place = torch.unique(used, return_inverse=True)
        vectors = torch.zeros(len(rows), parts[0].vectors.shape[1], dtype=torch.float64)
        vectors[place] = torch.cat([part.vectors for part in parts])
        weights = torch.zeros(len(parts), len(rows), dtype=torch.float64)
        sizes = [len(part.vectors) for part in parts]
        for row, part, where in zip(weights, parts, place.split(sizes), strict=True):
            row[where] = part.weights[0]
        bias = torch.cat([part.bias for part in parts])
        return cls(vectors, weights, bias, scaling=scaling, **kernels[0])

    def margins(self, x: Tensor) -> Tensor:
        """(B, M) float64: what each machine says, smooth in x."""
        x = x.flatten(1).double()
        x = x if self.scaling is None else self.scaling(x)
        gamma, shift = self.gamma.double(), self.shift.double()
        near = KERNELS[self.kernel](x, self.vectors.double(), gamma, shift)
        return near @ self.weights.double().T + self.bias.double()

    def forward(self, x: Tensor) -> Tensor:
        found = self.margins(x)
        found = _voted(found, self.votes) if self.votes else found
        return (found[:, 0] if found.shape[1] == 1 else found).to(x.dtype)


def _kernel(machine: Any) -> dict[str, Any]:
    # _gamma is the number behind gamma="scale" and "auto"
    return {"kernel": machine.kernel, "gamma": machine._gamma, "shift": machine.coef0}


def _pairwise(dual: Tensor, sizes: list[int], classes: int) -> Tensor:
    """(P, S) weights of the pairs i < j, above 0 for i, from scikit-learn's (K - 1, S): there a
    support vector of class i has its weight against j in row j - 1 if j > i, else in row j.
    """
    if classes <= 2:
        return dual
    blocks = torch.split(dual, sizes, dim=1)
    rows = []
    for i, j in itertools.combinations(range(classes), 2):
        row = [torch.zeros(size, dtype=dual.dtype) for size in sizes]
        row[i], row[j] = blocks[i][j - 1], blocks[j][i]
        rows.append(torch.cat(row))
    return torch.stack(rows)


def _voted(margins: Tensor, classes: int) -> Tensor:
    """(B, K) from the margins (B, P) of all pairs: votes, and c / (3 (|c| + 1)) with c the sum of
    a class's margins. A margin of exactly 0 is a vote for the first of the pair.
    """
    pairs = torch.tensor(list(itertools.combinations(range(classes), 2)), device=margins.device)
    first, second = (nn.functional.one_hot(c, classes).to(margins) for c in pairs.T)
    clear = margins @ (first - second)
    smooth = torch.sigmoid(STEEPNESS * margins)
    exact = (margins >= 0).to(margins)
    vote = exact + smooth - smooth.detach()
    return vote @ first + (1 - vote) @ second + clear / (3 * (clear.abs() + 1))
