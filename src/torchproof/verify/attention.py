"""torch's own attention with the batch as the first axis throughout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def batches_first(model: nn.Module) -> Iterator[None]:
    """Inside, every `nn.MultiheadAttention(batch_first=True)` of the model, of transformer layers
    too, answers the same without moving the batch, which torch's own code does; others, those that
    somebody has given another `forward`, and those that are given masks stay as they are.
    """
    known = [m for m in model.modules() if type(m) is nn.MultiheadAttention and m.batch_first]
    usual = [m for m in known if m.bias_k is None and not m.add_zero_attn]
    known = [m for m in usual if "forward" not in vars(m)]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # it is one operation
        for module in known:
            module.forward = partial(_attended, module)  # type: ignore[method-assign]
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module in known:
            del module.forward


def _attended(
    of: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor,
    key_padding_mask: Any = None, need_weights: bool = True, attn_mask: Any = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """As its forward, for queries (B, L, E), keys and values (B, S, E); answers (B, L, E)."""
    if key_padding_mask is not None or attn_mask is not None or is_causal or query.dim() != 3:
        return nn.MultiheadAttention.forward(
            of, query, key, value, key_padding_mask, need_weights, attn_mask,
            average_attn_weights, is_causal,
        )  # fmt: skip
    q, k, v = (_heads(of, i, x) for i, x in enumerate((query, key, value)))
    answer = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    weights = None
    if need_weights:
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        weights = weights.mean(1) if average_attn_weights else weights
    return F.linear(answer, of.out_proj.weight, of.out_proj.bias), weights


def _heads(of: nn.MultiheadAttention, part: int, x: Tensor) -> Tensor:
    """(B, heads, L, E / heads): the queries, keys or values."""
    rows, size = slice(part * of.embed_dim, (part + 1) * of.embed_dim), x.shape[:2]
    apart = (of.q_proj_weight, of.k_proj_weight, of.v_proj_weight)
    weight = of.in_proj_weight[rows] if of._qkv_same_embed_dim else apart[part]
    bias = None if of.in_proj_bias is None else of.in_proj_bias[rows]
    return F.linear(x, weight, bias).view(*size, of.num_heads, of.head_dim).transpose(1, 2)
