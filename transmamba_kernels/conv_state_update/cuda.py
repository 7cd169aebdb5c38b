"""The causal convolution of new tokens on the compiled CUDA kernel."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import increment_version

from transmamba_kernels import native
from transmamba_kernels.conv_state_update.cpp import allocate

__all__ = ["allocate", "update"]


def update(x, conv_state, weight, bias, cache_seqlens, conv_state_indices, silu) -> Tensor:
    """Update ``conv_state`` in place and return the output; shapes as in the public function."""
    out = allocate(x, conv_state, weight, bias, cache_seqlens, conv_state_indices, silu)
    native.load_cuda().conv_state_update(
        x, conv_state, weight, bias, silu, cache_seqlens, conv_state_indices, *native.cuda_stream(x.device), out
    )
    increment_version(conv_state)
    return out
