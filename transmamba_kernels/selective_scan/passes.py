"""The two passes of a selective scan on any backend: allocate the outputs, have its kernels fill them.

A backend's module has ``checkpoint_shape``, ``scan_forward`` and ``scan_backward``, as
:mod:`transmamba_kernels.selective_scan.cpp` has them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from transmamba_kernels import backends
from transmamba_kernels.checks import device_offsets, offsets
from transmamba_kernels.selective_scan.gradients import allocate, finish
from transmamba_kernels.selective_scan.sizes import compute_dtype

TENSORS = 9  # that can have a gradient
kernels = partial(backends.kernels, "selective_scan")  # called with the name of a backend


def read_offsets(cu_seqlens: Tensor | None, u: Tensor, backend: str) -> Any:
    """The offsets of packed sequences, checked, as a backend takes them; None without."""
    if cu_seqlens is None:
        return None
    length = u.shape[2]
    return offsets(cu_seqlens, length) if backend == "cpp" else device_offsets(cu_seqlens, u.device, length)


def allocate_forward(
    u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens, backend, softplus, reverse, with_state, for_backward
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``(out, last_state, checkpoints)``; the latter two are None where they are not asked for."""
    last_state = checkpoints = None
    sequences = None if cu_seqlens is None else cu_seqlens.shape[0] - 1
    if with_state:
        entries = u.shape[0] if sequences is None else sequences
        last_state = u.new_empty((entries, u.shape[1], A.shape[1]), dtype=compute_dtype(u))
    if for_backward:
        shape = kernels(backend).checkpoint_shape(u, A, B, C, sequences)
        checkpoints = u.new_empty(shape, dtype=compute_dtype(u))
    return torch.empty_like(u), last_state, checkpoints


def forward(*arguments) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run the scan; arguments as in the operator's schema."""
    outputs = allocate_forward(*arguments)
    *tensors, cu_seqlens, backend, softplus, reverse, _, _ = arguments
    packed = read_offsets(cu_seqlens, tensors[0], backend)
    kernels(backend).scan_forward(*tensors, packed, softplus, reverse, *outputs)
    return outputs


def allocate_backward(*arguments) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operator's tensors but the offsets; None where not needed."""
    tensors, needed = arguments[:TENSORS], arguments[-1]
    return finish(tensors, allocate(tensors, needed[:TENSORS]))


def backward(*arguments) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operator's tensors but the offsets; None where not needed."""
    tensors = arguments[:TENSORS]
    cu_seqlens, backend, softplus, reverse, checkpoints, dout, dlast_state, needed = arguments[TENSORS:]
    packed = read_offsets(cu_seqlens, tensors[0], backend)
    filled = allocate(tensors, needed[:TENSORS])
    kernels(backend).scan_backward(*tensors, packed, softplus, reverse, checkpoints, dout, dlast_state, *filled)
    return finish(tensors, filled)
