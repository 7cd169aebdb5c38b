"""The memory that a scan's kernels fill with gradients, and from its layout to that of the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transmamba_kernels.selective_scan.sizes import compute_dtype, count_groups


def allocate(tensors: tuple[Any, ...], needed: Sequence[bool]) -> list[Tensor | None]:
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
