"""Selective scan on the compiled CUDA kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transmamba_kernels import native
from transmamba_kernels.selective_scan.sizes import count_groups

_SHORT = 256  # steps that are cut into chunks on no device


def checkpoint_shape(u: Tensor, A: Tensor, B: Tensor, C: Tensor, sequences: int | None) -> tuple[int, ...]:
    """Of the memory for the states that the backward pass starts its chunks from, as in csrc/selective_scan/cuda.h.

    Args:
        sequences: The number of packed ones, or None.
    """
    batch, d_inner, length = u.shape
    step = native.load_cuda().scan_checkpoint
    chunks = -(-length // step) if sequences is None else length // step + sequences
    return batch, chunks, d_inner, A.shape[1]


def scan_forward(
    u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, out, last_state, checkpoints,
    *, addend=None, order=None, permute=True,
) -> None:  # fmt: skip
    """Fill ``out`` and, where they are given, ``last_state`` and ``checkpoints``; as :func:`.cpp.scan_forward`.

    ``offsets`` and ``order`` are int32 on the device.
    """
    native.load_cuda().selective_scan_forward(
        u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, *native.cuda_stream(u.device),
        out, last_state, checkpoints, addend, order, permute, _chunk(u, A, B, C) if offsets is None else 0,
        lambda count: torch.empty(count, dtype=torch.float32, device=u.device),
    )  # fmt: skip


def scans_forward(scans: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
    """Run scans in turn, each of which may add to what the one before has written; in one launch where that is faster.

    Args:
        scans: Arguments of :func:`scan_forward`, and those by name. None is packed.
    """
    (u, _, A, B, C, *_), _ = scans[0]
    groups = {count_groups(arguments[3], arguments[4]) for arguments, _ in scans}
    if len(groups) > 1 or _chunk(u, A, B, C):
        for arguments, options in scans:
            scan_forward(*arguments, **options)
        return
    each = [(*tensors, more["addend"], more["order"], more["permute"]) for tensors, more in scans]
    native.load_cuda().selective_scans_forward(each, *native.cuda_stream(u.device))


def _chunk(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> int:
    """Time steps of the chunks that sequences are cut into, or 0."""
    if u.shape[2] < _SHORT:
        return 0
    return native.load_cuda().selective_scan_chunk(u, A, B, C, native.multiprocessors(u.device))


def scan_backward(
    u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, checkpoints, dout, dlast_state,
    du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state,
    *, add_u=False, add_delta=False, add_z=False, order=None, permute=True,
) -> None:  # fmt: skip
    """Fill or, with ``add_*``, add to the gradients that are given; as :func:`.cpp.scan_backward`."""
    native.load_cuda().selective_scan_backward(
        u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, *native.cuda_stream(u.device),
        checkpoints, dout, dlast_state, du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state,
        add_u, add_delta, add_z, order, permute, native.multiprocessors(u.device),
        lambda count: torch.empty(count, dtype=torch.float32, device=u.device),
    )  # fmt: skip
