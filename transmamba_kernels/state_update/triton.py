"""The decoding step of the selective scan in Triton: a program updates a few channels with all of their states."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from transmamba_kernels.state_update.cpp import allocate
from transmamba_kernels.triton_math import sigmoid, softplus

__all__ = ["allocate", "update"]

_NUMBERS = 512  # of the state, for one program: at least one per thread, so that none is read by two and written by one


@triton.jit
def _update(
    state, x, dt, A, B, C, D, z, dt_bias, row_of, out,
    state_stride, x_stride, dt_stride, A_stride, B_stride, C_stride, D_stride, z_stride, dt_bias_stride, out_stride,
    row_of_stride, rows, channels, head_dim, heads_per_group, d_state, tiles,
    SOFTPLUS: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    entry = (tl.program_id(0) // tiles).to(tl.int64)
    channel = (tl.program_id(0) % tiles) * CHANNELS + tl.arange(0, CHANNELS)
    inside = channel < channels
    head, p = (channel // head_dim).to(tl.int64), (channel % head_dim).to(tl.int64)
    n = tl.arange(0, STATES).to(tl.int64)[None, :]
    whole = inside[:, None] & (n < d_state)

    row, exists = entry, True
    if row_of is not None:
        row = tl.load(row_of + entry * row_of_stride).to(tl.int64)
        exists = (row >= 0) & (row < rows)
    held = state + _offset(state_stride, row, head, p)[:, None] + n * state_stride[3]
    group = (head // heads_per_group)[:, None]

    u = _read(x, x_stride, entry, head, p, inside)
    delta = _read(dt, dt_stride, entry, head, p, inside)
    if dt_bias is not None:
        delta += _read(dt_bias, dt_bias_stride, entry, head, p, inside)
    if SOFTPLUS:
        delta = softplus(delta)[0]
    a = tl.load(A + _offset(A_stride, entry, head, p)[:, None] + n * A_stride[3], mask=whole, other=0.0).to(tl.float32)
    b = tl.load(B + entry * B_stride[0] + group * B_stride[1] + n * B_stride[2], mask=whole, other=0.0).to(tl.float32)
    c = tl.load(C + entry * C_stride[0] + group * C_stride[1] + n * C_stride[2], mask=whole, other=0.0).to(tl.float32)
    h = tl.load(held, mask=whole & exists, other=0.0).to(tl.float32)

    h = tl.exp(delta[:, None] * a) * h + (delta * u)[:, None] * b
    y = tl.sum(h * c, axis=1)
    if D is not None:
        y += _read(D, D_stride, entry, head, p, inside) * u
    if z is not None:
        gate = _read(z, z_stride, entry, head, p, inside)
        y *= gate * sigmoid(gate)
    y = tl.where(exists, y, float("nan"))
    tl.store(out + _offset(out_stride, entry, head, p), y.to(out.dtype.element_ty), mask=inside)
    tl.store(held, h.to(state.dtype.element_ty), mask=whole & exists)


@triton.jit
def _offset(stride, entry, head, p):
    return entry * stride[0] + head * stride[1] + p * stride[2]


@triton.jit
def _read(tensor, stride, entry, head, p, mask):
    return tl.load(tensor + _offset(stride, entry, head, p), mask=mask, other=0.0).to(tl.float32)


def update(state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, dt_softplus) -> Tensor:
    """Update ``state`` in place and return the output; shapes as in the public function."""
    out = allocate(state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, dt_softplus)
    with_heads = x.dim() == 3
    heads, head_dim = x.shape[1], x.shape[2] if with_heads else 1
    per_entry = (_strides(t, with_heads) for t in (state, x, dt, z, out))
    state_stride, x_stride, dt_stride, z_stride, out_stride = per_entry
    A_stride, D_stride, dt_bias_stride = (_strides(t, with_heads, shared=True) for t in (A, D, dt_bias))
    B_stride, C_stride = (t.stride() if t.dim() == 3 else (t.stride(0), 0, t.stride(1)) for t in (B, C))

    d_state = state.shape[-1]
    states = triton.next_power_of_2(d_state)
    tile = max(_NUMBERS // states, 1)
    tiles = triton.cdiv(heads * head_dim, tile)
    with torch.cuda.device_of(x):
        _update[(x.shape[0] * tiles,)](
            state, x, dt, A, B, C, D, z, dt_bias, state_batch_indices, out,
            state_stride, x_stride, dt_stride, A_stride, B_stride, C_stride, D_stride, z_stride, dt_bias_stride,
            out_stride, 0 if state_batch_indices is None else state_batch_indices.stride(0),
            state.shape[0], heads * head_dim, head_dim, heads // (B.shape[1] if B.dim() == 3 else 1), d_state, tiles,
            SOFTPLUS=dt_softplus, CHANNELS=tile, STATES=states,
        )  # fmt: skip
    increment_version(state)
    return out


def _strides(tensor: Tensor | None, with_heads: bool, shared: bool = False) -> tuple[int, ...]:
    """Along batch, heads, head_dim and what follows; 0 along what ``tensor`` has not."""
    if tensor is None:
        return (0, 0, 0)
    stride = (0, *tensor.stride()) if shared else tensor.stride()
    return stride if with_heads else (*stride[:2], 0, *stride[2:])
