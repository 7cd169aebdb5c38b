"""The decoding step of the selective scan on the compiled CPU kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from transmamba_kernels import native
from transmamba_kernels.decoding import state_rows


def allocate(state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, dt_softplus) -> Tensor:
    """The output, of ``x``'s shape and dtype."""
    return torch.empty_like(x)


def update(state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, dt_softplus) -> Tensor:
    """Update ``state`` in place and return the output; shapes as in the public function."""
    rows = state_rows("state_batch_indices", state_batch_indices, state.shape[0])
    out = torch.empty_like(x)
    native.load().state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus, rows, torch.get_num_threads(), out)
    increment_version(state)
    return out
