"""The decoding step of the selective scan on the compiled CUDA kernel."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import increment_version

from transmamba_kernels import native
from transmamba_kernels.state_update.cpp import allocate

__all__ = ["allocate", "update"]


def update(state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, dt_softplus) -> Tensor:
    """Update ``state`` in place and return the output; shapes as in the public function."""
    out = allocate(state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, dt_softplus)
    native.load_cuda().state_update(
        state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, state_batch_indices, *native.cuda_stream(x.device), out
    )
    increment_version(state)
    return out
