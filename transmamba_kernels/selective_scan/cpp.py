"""Selective scan on the compiled CPU kernels: allocate the outputs, fill them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transmamba_kernels import native
from transmamba_kernels.checks import offsets

TENSORS = 9  # that can have a gradient
_ALONE = (None, None, True)  # adds to no other direction, has no order
_ADD_NOTHING = (False, False, False, None, True)
TILE = 16  # channels that the kernels take at once; checkpoints are stored in such tiles


def allocate_forward(
    u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens, delta_softplus, reverse, with_state, for_backward
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``(out, last_state, checkpoints)``; the latter two are None where they are not asked for."""
    last_state = checkpoints = None
    if with_state or for_backward:
        batch, d_inner, length = u.shape
        sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if with_state:
        last_state = u.new_empty((sequences, d_inner, A.shape[1]), dtype=compute_dtype(u))
    if for_backward:  # states that the backward pass starts its chunks from
        tiles, step = tiles_of(d_inner, count_groups(B, C)), native.load().scan_checkpoint
        chunks = -(-length // step) if cu_seqlens is None else length // step + sequences
        checkpoints = u.new_empty((batch, chunks, tiles * A.shape[1] * TILE), dtype=compute_dtype(u))
    return torch.empty_like(u), last_state, checkpoints


def forward(
    u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens, delta_softplus, reverse, with_state, for_backward
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run the scan; shapes as in the public function."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    packed = None if cu_seqlens is None else offsets(cu_seqlens, u.shape[2])
    outputs = allocate_forward(*tensors, cu_seqlens, delta_softplus, reverse, with_state, for_backward)
    native.load().selective_scan_forward(
        *tensors, packed, delta_softplus, reverse, torch.get_num_threads(), *outputs, *_ALONE
    )
    return outputs


def allocate_backward(*arguments) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operator's tensors but the offsets; None where not needed."""
    tensors, needed = arguments[:TENSORS], arguments[-1]
    return finish(tensors, allocate_gradients(tensors, needed[:TENSORS]))


def backward(*arguments) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operator's tensors but the offsets; None where not needed.

    Arguments as in the operator's schema.
    """
    tensors = arguments[:TENSORS]
    cu_seqlens, delta_softplus, reverse, checkpoints, dout, dlast_state, needed = arguments[TENSORS:]
    packed = None if cu_seqlens is None else offsets(cu_seqlens, dout.shape[2])
    filled = allocate_gradients(tensors, needed[:TENSORS])
    native.load().selective_scan_backward(
        *tensors,
        packed,
        delta_softplus,
        reverse,
        torch.get_num_threads(),
        checkpoints,
        dout,
        dlast_state,
        *filled,
        *_ADD_NOTHING,
    )
    return finish(tensors, filled)


def allocate_gradients(tensors: tuple[Any, ...], needed: Sequence[bool]) -> list[Tensor | None]:
    """What the kernel fills: parameters' gradients in the compute type, dB and dC with the states last."""
    u, _, A, B, C, D, _, delta_bias, initial_state = tensors
    real, groups = compute_dtype(u), count_groups(B, C)
    shapes: list[tuple[int, ...] | None] = [
        None,
        None,
        A.shape,
        _coefficient_shape(B, groups),
        _coefficient_shape(C, groups),
        None if D is None else D.shape,
        None,
        None if delta_bias is None else (1, *delta_bias.shape)[-2:],
        None if initial_state is None else initial_state.shape,
    ]
    filled: list[Tensor | None] = []
    for tensor, shape, need in zip(tensors, shapes, needed, strict=True):
        if not need or tensor is None:
            filled.append(None)
        elif shape is None:
            filled.append(torch.empty_like(tensor))
        else:
            filled.append(u.new_empty(shape, dtype=real))
    return filled


def _coefficient_shape(M: Tensor, groups: int) -> tuple[int, ...]:
    return M.shape if M.dim() == 2 else (M.shape[0], groups, M.shape[-1], M.shape[-2])


def finish(tensors: tuple[Any, ...], filled: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """From the kernel's layout to the inputs' shapes and dtypes."""
    return tuple(_finish(tensor, gradient) for tensor, gradient in zip(tensors, filled, strict=True))


def _finish(tensor: Any, gradient: Tensor | None) -> Tensor | None:
    if gradient is None:
        return None
    if gradient.dim() == 4:  # of B or C: (batch, groups, length, d_state)
        gradient = gradient.transpose(2, 3)
        if gradient.shape[1] > 1 and (tensor.dim() == 3 or tensor.shape[1] == 1):
            gradient = gradient.sum(1, keepdim=True)
    return gradient.reshape(tensor.shape).to(tensor.dtype)


def count_groups(B: Tensor, C: Tensor) -> int:
    """Groups of channels that share coefficients."""
    return max(M.shape[1] if M.dim() == 4 else 1 for M in (B, C))


def tiles_of(d_inner: int, groups: int) -> int:
    """Tiles of channels; none has channels of two groups."""
    return groups * -(-(d_inner // groups) // TILE)


def compute_dtype(u: Tensor) -> torch.dtype:
    """Of states and sums."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32
