"""The causal convolution of new tokens on the compiled CPU kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from transmamba_kernels import native
from transmamba_kernels.decoding import positions, state_rows


def allocate(x, conv_state, weight, bias, cache_seqlens, conv_state_indices, silu) -> Tensor:
    """The output, of ``x``'s shape and dtype."""
    return torch.empty_like(x)


def update(x, conv_state, weight, bias, cache_seqlens, conv_state_indices, silu) -> Tensor:
    """Update ``conv_state`` in place and return the output; shapes as in the public function."""
    seen = positions("cache_seqlens", cache_seqlens)
    rows = state_rows("conv_state_indices", conv_state_indices, conv_state.shape[0])
    out = torch.empty_like(x)
    threads = torch.get_num_threads()
    native.load().conv_state_update(x, conv_state, weight, bias, silu, seen, rows, threads, out)
    increment_version(conv_state)
    return out
