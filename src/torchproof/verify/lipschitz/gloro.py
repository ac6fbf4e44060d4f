"""Globally robust networks (Leino et al. 2021): a logit more, which wins where an answer is not
certified.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchproof.core.norms import Norm
from torchproof.verify.graph import Graph
from torchproof.verify.lipschitz.op_norm import Constants


def pairwise(graph: Graph, norm: Norm, x: Tensor) -> Tensor:
    """(K, K) upper bounds of the Lipschitz constants of z_i - z_j, for inputs like x (B, ...), by
    the product of operator norms; differentiable in the weights.
    """
    constants = Constants.made(graph, norm, x)
    answer = constants.single[graph.output]
    classes = answer.shape[-1]
    unit = torch.eye(classes, dtype=answer.dtype, device=answer.device)
    first, second = torch.triu_indices(classes, classes, 1, device=answer.device).unbind(0)
    upper: Tensor = answer.new_zeros(classes, classes)
    upper = upper.index_put((first, second), constants.row(unit[first] - unit[second]))
    return upper + upper.T


def rejecting(logits: Tensor, constants: Tensor, eps: float) -> Tensor:
    """(B, K + 1) logits with max_{i != j} z_i + eps K_ij behind the others, j the answer (Leino et
    al. 2021, def. 2). Where the last one is not the largest, no perturbation up to eps changes j.
    """
    answer = logits.argmax(1)
    others = logits + eps * constants.to(logits.dtype)[answer]
    own = torch.nn.functional.one_hot(answer, logits.shape[1]).bool()
    last = others.masked_fill(own, -torch.inf).amax(1, keepdim=True)
    return torch.cat([logits, last], 1)
