"""Cross-Mamba in plain PyTorch: selective scans that read, start from or are read by another modality."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from transmamba_kernels.selective_scan import reference


def cross_mamba(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    bidirectional: bool,
    of_last_state: bool,
) -> Tensor:
    """Return the output; ``C`` is what reads the state, shapes are those of :func:`transmamba_kernels.cross_mamba`."""
    out = None
    for reverse in (False, True) if bidirectional else (False,):
        # Nothing of another length is read while the text is scanned.
        reader = B if of_last_state else C
        y, state = reference.selective_scan(
            u, delta, A, B, reader, D, None, delta_bias, initial_state, delta_softplus, reverse
        )
        if of_last_state:
            y = read(state, C)
        out = y.to(state.dtype) if out is None else out + y
    assert out is not None
    if z is not None:
        out = out * F.silu(z.to(out.dtype))
    return out.to(u.dtype)


def read(state: Tensor, C: Tensor) -> Tensor:
    """``<state, C_l>`` for every column of ``C``, ``(batch, d_inner, length)`` over channel-last memory."""
    C = C.to(state.dtype)
    if C.dim() == 3:
        return (C.transpose(1, 2) @ state.transpose(1, 2)).transpose(1, 2)
    groups = C.shape[1]
    rows = state.unflatten(1, (groups, -1)).transpose(2, 3)
    return (C.transpose(2, 3) @ rows).transpose(1, 2).flatten(2).transpose(1, 2)
