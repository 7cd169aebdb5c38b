"""The causal convolution of new tokens in Triton: a program takes a few channels of one batch entry."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from transmamba_kernels.conv_state_update.cpp import allocate
from transmamba_kernels.triton_math import sigmoid

__all__ = ["allocate", "update"]

_NUMBERS = 512  # of the filters, for one program
_ENTRIES = 64  # of the state that it moves at a time


@triton.jit
def _update(
    x, state, weight, bias, seen, row_of, out,
    x_stride, state_stride, weight_stride, bias_stride, seen_stride, row_of_stride, out_stride,
    rows, channels, length, entries, width, tiles,
    SILU: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    channel = ((tl.program_id(0) % tiles) * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)[:, None]
    inside = channel < channels

    row, exists = batch, True
    if row_of is not None:
        row = tl.load(row_of + batch * row_of_stride).to(tl.int64)
        exists = (row >= 0) & (row < rows)
    first = 0  # the entry of the first new token, if the state is circular
    if seen is not None:
        count = tl.load(seen + batch * seen_stride).to(tl.int64)
        exists &= count >= 0
        first = (count % entries).to(tl.int32)
    x += batch * x_stride[0] + channel * x_stride[1]
    state += row * state_stride[0] + channel * state_stride[1]
    out += batch * out_stride[0] + channel * out_stride[1]

    tap = tl.arange(0, TAPS)[None, :]
    taps = inside & (tap < width)
    w = tl.load(weight + channel * weight_stride[0] + tap * weight_stride[1], mask=taps, other=0.0).to(tl.float32)
    for t in range(length):
        token = t + tap - (width - 1)  # counted from the first new one
        entry = ((first + entries + token) % entries).to(tl.int64)
        new = tl.load(x + token.to(tl.int64) * x_stride[2], mask=taps & (token >= 0), other=0.0).to(tl.float32)
        old = tl.load(state + entry * state_stride[2], mask=taps & exists & (token < 0), other=0.0).to(tl.float32)
        y = tl.sum(w * (new + old), axis=1, keep_dims=True)
        if bias is not None:
            y += tl.load(bias + channel * bias_stride, mask=inside, other=0.0).to(tl.float32)
        if SILU:
            y *= sigmoid(y)
        y = tl.where(exists, y, float("nan"))
        tl.store(out + t * out_stride[2], y.to(out.dtype.element_ty), mask=inside)

    for start in range(0, entries, ENTRIES):
        entry = (start + tl.arange(0, ENTRIES)[None, :]).to(tl.int64)
        held = inside & exists & (entry < entries)
        if seen is None:
            token = entry + length - entries
            old = tl.load(state + (entry + length) * state_stride[2], mask=held & (token < 0), other=0.0)
        else:
            token = (entry - first + entries) % entries
            held &= token < length
            token += (length - 1 - token) // entries * entries  # the last one that goes there
            old = 0.0
        new = tl.load(x + token * x_stride[2], mask=held & (token >= 0), other=0.0)
        kept = tl.where(token < 0, old, new.to(state.dtype.element_ty))
        # A thread writes what others read, this time and above; what is read later lies further on.
        tl.debug_barrier()
        tl.store(state + entry * state_stride[2], kept.to(state.dtype.element_ty), mask=held)


def update(x, conv_state, weight, bias, cache_seqlens, conv_state_indices, silu) -> Tensor:
    """Update ``conv_state`` in place and return the output; shapes as in the public function."""
    out = allocate(x, conv_state, weight, bias, cache_seqlens, conv_state_indices, silu)
    rows, channels, entries = conv_state.shape
    width = weight.shape[1]
    taps = triton.next_power_of_2(width)
    tile = max(_NUMBERS // taps, 1)
    tiles = triton.cdiv(channels, tile)
    with torch.cuda.device_of(x):
        _update[(x.shape[0] * tiles,)](
            x, conv_state, weight, bias, cache_seqlens, conv_state_indices, out,
            _with_length(x), conv_state.stride(), weight.stride(),
            *(0 if t is None else t.stride(0) for t in (bias, cache_seqlens, conv_state_indices)),
            _with_length(out),
            rows, channels, 1 if x.dim() == 2 else x.shape[2], entries, width, tiles,
            SILU=silu, CHANNELS=tile, TAPS=taps, ENTRIES=min(triton.next_power_of_2(entries), _ENTRIES),
        )  # fmt: skip
    increment_version(conv_state)
    return out


def _with_length(tensor: Tensor) -> tuple[int, ...]:
    return tensor.stride() if tensor.dim() == 3 else (*tensor.stride(), 0)
