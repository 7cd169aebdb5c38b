"""Selective scan on the compiled CPU kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from transmamba_kernels import native
from transmamba_kernels.selective_scan.sizes import count_groups

_TILE = 16  # channels that the kernels take at once; checkpoints are stored in such tiles


def checkpoint_shape(u: Tensor, A: Tensor, B: Tensor, C: Tensor, sequences: int | None) -> tuple[int, ...]:
    """Of the memory for the states that the backward pass starts its chunks from.

    Args:
        sequences: The number of packed ones, or None.
    """
    batch, d_inner, length = u.shape
    groups, step = count_groups(B, C), native.load().scan_checkpoint
    tiles = groups * -(-(d_inner // groups) // _TILE)  # none has channels of two groups
    chunks = -(-length // step) if sequences is None else length // step + sequences
    return batch, chunks, tiles * A.shape[1] * _TILE


def scan_forward(
    u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, out, last_state, checkpoints,
    *, addend=None, order=None, permute=True,
) -> None:  # fmt: skip
    """Fill ``out`` and, where they are given, ``last_state`` and ``checkpoints``.

    Args:
        u, delta, A, B, C, D, z, delta_bias, initial_state: As in the public function.
        offsets: Of packed sequences: a list, for kernels on a device int32 there; or None.
        softplus, reverse: As in the public function.
        addend: ``(batch, d_inner, length)``, added before the gate; may be ``out`` itself.
        order: ``(length,)`` of int32: the step t stands on token ``order[t]``; not with ``reverse``.
        permute: Whether ``delta``, ``B`` and ``C`` are walked in the order too.
    """
    native.load().selective_scan_forward(
        u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, torch.get_num_threads(),
        out, last_state, checkpoints, addend, order, permute,
    )  # fmt: skip


def scan_backward(
    u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, checkpoints, dout, dlast_state,
    du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state,
    *, add_u=False, add_delta=False, add_z=False, order=None, permute=True,
) -> None:  # fmt: skip
    """Fill the gradients that are given, laid out as :func:`.gradients.allocate` does.

    Args:
        u, ..., reverse, order, permute: As in :func:`scan_forward`, which filled ``checkpoints``.
        dout, dlast_state: The upstream gradients; the latter may be None.
        add_u, add_delta, add_z: Add to what the gradient's memory holds, such as another direction's.
    """
    native.load().selective_scan_backward(
        u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, torch.get_num_threads(),
        checkpoints, dout, dlast_state, du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state,
        add_u, add_delta, add_z, order, permute,
    )  # fmt: skip
