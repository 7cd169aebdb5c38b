"""Selective scan in plain PyTorch: readable, differentiable by autograd, and the oracle of every other backend."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transmamba_kernels.checks import offsets


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    delta_softplus: bool = False,
    reverse: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``(out, last_state)`` of the recurrence, computed one time step after the other.

    Shapes are those of :func:`transmamba_kernels.selective_scan`. A float64 ``u`` is computed in float64, a complex
    ``A`` in complex numbers, everything else in float32.
    """
    if cu_seqlens is not None:
        lengths = [end - start for start, end in pairwise(offsets(cu_seqlens, u.shape[2]))]
        states = [None] * len(lengths) if initial_state is None else initial_state.split(1)
        along_time = [_split(M, lengths) for M in (u, delta, B, C, z)]
        outs, last_states = zip(
            *(
                selective_scan(u, delta, A, B, C, D, z, delta_bias, state, delta_softplus, reverse)
                for u, delta, B, C, z, state in zip(*along_time, states, strict=True)
            ),
            strict=True,
        )
        return torch.cat(outs, dim=-1), torch.cat(last_states)

    batch, d_inner, length = u.shape
    real = torch.float64 if u.dtype == torch.float64 or A.dtype == torch.complex128 else torch.float32
    state = torch.promote_types(real, A.dtype) if A.is_complex() else real

    dt = delta.to(real)
    if delta_bias is not None:
        dt = dt + delta_bias.to(real).unsqueeze(-1)
    if delta_softplus:
        dt = F.softplus(dt)
    x = u.to(real)
    A = A.to(state)
    B = _per_channel(B, d_inner, length, state)
    C = _per_channel(C, d_inner, length, state)

    if initial_state is None:
        h = torch.zeros(batch, d_inner, A.shape[1], dtype=state, device=u.device)
    else:
        h = initial_state.to(state)
    # unbind, not x[:, :, t]: the gradient of slicing is quadratic in the length.
    steps = list(zip(dt.unbind(-1), (dt * x).unbind(-1), B.unbind(-1), C.unbind(-1), strict=True))
    if reverse:
        steps.reverse()
    outputs = []
    for dt_t, dtx_t, B_t, C_t in steps:
        h = torch.exp(dt_t.unsqueeze(-1) * A) * h + dtx_t.unsqueeze(-1) * B_t
        y_t = (h * C_t).sum(-1)
        # As in Gu and Dao's code, a complex system stands for itself and its conjugate: twice the real part.
        outputs.append(2 * y_t.real if y_t.is_complex() else y_t)
    if reverse:
        outputs.reverse()

    y = torch.stack(outputs, dim=-1) if outputs else torch.zeros_like(x)
    if D is not None:
        y = y + D.to(real).unsqueeze(-1) * x
    if z is not None:
        y = y * F.silu(z.to(real))
    return y.to(u.dtype), h.clone() if length == 0 else h


def _split(M: Any, lengths: list[int]) -> list[Any]:
    """``M`` in parts along time; what is constant over time, or missing, is the same in all."""
    if M is None or M.dim() == 2 or (M.shape[-1] == 1 and sum(lengths) != 1):
        return [M] * len(lengths)
    return list(M.split(lengths, dim=-1))


def _per_channel(M: Tensor, d_inner: int, length: int, dtype: torch.dtype) -> Tensor:
    """Expand ``B`` or ``C`` in any accepted layout to ``(batch or 1, d_inner or 1, d_state, length)``."""
    M = M.to(dtype)
    if M.dim() == 2:
        M = M[None, :, :, None]
    elif M.dim() == 3:
        M = M.unsqueeze(1)
    elif M.shape[1] > 1:
        M = M.repeat_interleave(d_inner // M.shape[1], dim=1)
    return M.expand(*M.shape[:-1], length)
