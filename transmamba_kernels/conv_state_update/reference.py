"""The causal convolution of new tokens and its state in plain PyTorch: the oracle of every other backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def conv_state_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """Return ``out`` and update ``conv_state`` in place.

    Shapes are those of :func:`transmamba_kernels.conv_state_update`. A float64 ``x`` is computed in float64,
    everything else in float32.
    """
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    tokens = x.unsqueeze(-1) if x.dim() == 2 else x
    rows = None if conv_state_indices is None else conv_state_indices.long()
    old = conv_state if rows is None else conv_state[rows]
    length, width, entries = tokens.shape[-1], weight.shape[1], old.shape[-1]

    if cache_seqlens is None:
        past = old[..., entries - (width - 1) :]
        new = torch.cat([old, tokens.to(old.dtype)], dim=-1)[..., length:]
    else:
        past = old.gather(2, _entries(1 - width, 0, cache_seqlens, old))
        first = max(length - entries, 0)  # of the tokens that stay
        new = old.scatter(2, _entries(first, length, cache_seqlens, old), tokens[..., first:].to(old.dtype))

    seen = torch.cat([past.to(real), tokens.to(real)], dim=-1)
    y = torch.zeros(tokens.shape, dtype=real, device=x.device)
    if bias is not None:
        y = y + bias.to(real).unsqueeze(-1)
    for tap in range(width):
        y = y + weight[:, tap, None].to(real) * seen[..., tap : tap + length]
    if silu:
        y = F.silu(y)

    if rows is None:
        conv_state.copy_(new)
    else:
        conv_state.index_copy_(0, rows, new)
    return y.to(x.dtype).reshape(x.shape)


def _entries(first: int, end: int, cache_seqlens: Tensor, state: Tensor) -> Tensor:
    """Where a circular ``state`` has the tokens from ``first`` to ``end``, counted from the first new one."""
    token = torch.arange(first, end, device=state.device)
    entry = (cache_seqlens.long().unsqueeze(1) + token) % state.shape[-1]
    return entry.unsqueeze(1).expand(-1, state.shape[1], -1)
