"""Depthwise causal convolution in plain PyTorch: the oracle of every other backend."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from transmamba_kernels.checks import offsets


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    activation: str | None = None,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``(out, final_state)``; shapes are those of :func:`transmamba_kernels.causal_conv1d`."""
    if cu_seqlens is not None:
        lengths = [end - start for start, end in pairwise(offsets(cu_seqlens, x.shape[2]))]
        states = [None] * len(lengths) if initial_state is None else initial_state.split(1)
        sequences = zip(x.split(lengths, dim=-1), states, strict=True)
        outs, final_states = zip(
            *(causal_conv1d(x, weight, bias, state, activation, reverse) for x, state in sequences), strict=True
        )
        return torch.cat(outs, dim=-1), torch.cat(final_states)

    batch, d_inner, length = x.shape
    width = weight.shape[1]
    real = torch.float64 if x.dtype == torch.float64 else torch.float32

    past = torch.zeros(batch, d_inner, width - 1, dtype=real, device=x.device)
    if initial_state is not None:
        past = initial_state.to(real)
    seen = torch.cat([past, (x.flip(-1) if reverse else x).to(real)], dim=-1)

    y = torch.zeros(batch, d_inner, length, dtype=real, device=x.device)
    if bias is not None:
        y = y + bias.to(real).unsqueeze(-1)
    for tap in range(width):
        y = y + weight[:, tap, None].to(real) * seen[..., tap : tap + length]
    if activation == "silu":
        y = F.silu(y)
    if reverse:
        y = y.flip(-1)
    return y.to(x.dtype), seen[..., length:].to(x.dtype)
