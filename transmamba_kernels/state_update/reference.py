"""One decoding step of the selective scan in plain PyTorch: the oracle of every other backend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    state_batch_indices: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """Return ``out`` and update ``state`` in place; shapes are those of :func:`transmamba_kernels.state_update`.

    A float64 ``x`` is computed in float64, everything else in float32.
    """
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = None if state_batch_indices is None else state_batch_indices.long()
    u = x.to(real)
    dt = dt.to(real)
    if dt_bias is not None:
        dt = dt + dt_bias.to(real)
    if dt_softplus:
        dt = F.softplus(dt)

    old = (state if rows is None else state[rows]).to(real)
    h = torch.exp(dt.unsqueeze(-1) * A.to(real)) * old + (dt * u).unsqueeze(-1) * _per_channel(B, x).to(real)
    y = (h * _per_channel(C, x).to(real)).sum(-1)
    if D is not None:
        y = y + D.to(real) * u
    if z is not None:
        y = y * F.silu(z.to(real))

    if rows is None:
        state.copy_(h)
    else:
        state.index_copy_(0, rows, h.to(state.dtype))
    return y.to(x.dtype)


def _per_channel(M: Tensor, x: Tensor) -> Tensor:
    """``B`` or ``C`` as ``(batch, 1 or E, N)`` or ``(batch, 1 or H, 1, N)``."""
    if M.dim() == 2:
        M = M.unsqueeze(1)
    elif M.shape[1] > 1:
        M = M.repeat_interleave(x.shape[1] // M.shape[1], dim=1)
    return M if x.dim() == 2 else M.unsqueeze(2)
