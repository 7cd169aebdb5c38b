"""Scans over the same tokens on the compiled CPU kernels, direction by direction: allocate the outputs, fill them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transmamba_kernels import native
from transmamba_kernels.selective_scan.cpp import (
    TILE,
    allocate_gradients,
    compute_dtype,
    count_groups,
    finish,
    tiles_of,
)

Z = 6  # of the tensors of a selective scan, the one that all directions share
STATE = 7  # of the tensors of a direction, those of a selective scan without z
PER_TOKEN = 2  # its first tensors, u and delta: gradients that directions share are added up in the kernel
Direction = tuple[Any, ...]


def are_shared(directions: Sequence[Direction]) -> bool:
    """Whether the directions differ in nothing but their order and initial state."""
    first = directions[0][:STATE]
    return all(t is f for other in directions[1:] for t, f in zip(other[:STATE], first, strict=True))


def allocate(
    directions: Sequence[Direction], permute: bool, merge: bool, with_state: bool, for_backward: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """``(out, last_state, checkpoints)``; the latter two are None where they are not asked for."""
    u, _, A = directions[0][:3]
    batch, d_inner, length = u.shape
    count, d_state, real = len(directions), A.shape[1], compute_dtype(u)
    if merge:
        out = torch.empty_like(u)
    elif u.stride(1) == 1:  # channel-last stays channel-last
        out = u.new_empty((batch, count, length, d_inner)).transpose(2, 3)
    else:
        out = u.new_empty((batch, count, d_inner, length))
    last_state = u.new_empty((batch, count, d_inner, d_state), dtype=real) if with_state else None
    module, checkpoints = native.load(), None
    if for_backward and not (permute and are_shared(directions) and length <= module.whole_sequence):
        tiles, windows = tiles_of(d_inner, _groups(directions)), -(-length // module.scan_checkpoint)
        checkpoints = u.new_empty((batch, count, windows, tiles * d_state * TILE), dtype=real)
    return out, last_state, checkpoints


def scan(
    directions: Sequence[Direction],
    z: Tensor | None,
    orders: Tensor,
    softplus: bool,
    permute: bool,
    merge: bool,
    with_state: bool,
    for_backward: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run the scans; ``orders`` are int32 and contiguous."""
    outputs = allocate(directions, permute, merge, with_state, for_backward)
    shared, threads = are_shared(directions), torch.get_num_threads()
    native.load().multi_scan_forward(directions, z, orders, softplus, permute, shared, threads, *outputs)
    return outputs


class Gradients:
    """The gradients of all directions: what the kernel fills, and then what the inputs get.

    Args:
        directions: Tensors of each; one that several share is the same object in all of them.
        z: The gate or None.
        needed: For every tensor of every direction, whether its gradient is needed.
        need_z: The same for ``z``.
    """

    def __init__(
        self, directions: Sequence[Direction], z: Tensor | None, needed: Sequence[Sequence[bool]], need_z: bool
    ):
        self.directions, self.z = directions, z
        self.shared = are_shared(directions)
        groups = _groups(directions)
        self.filled: list[list[Tensor | None]] = []
        for k, tensors in enumerate(directions):
            wanted = [n and not (k and self._is_in_the_first(k, i)) for i, n in enumerate(needed[k])]
            row = allocate_gradients(*_with_z(tensors, wanted), groups)
            del row[Z]
            for i in range(PER_TOKEN):
                if k and self._is_in_the_first(k, i):
                    row[i] = self.filled[0][i]
            self.filled.append(row)
        self.dz = torch.empty_like(z) if need_z and z is not None else None

    def _is_in_the_first(self, direction: int, i: int) -> bool:
        """Whether the kernel adds this gradient to the first direction's."""
        same = self.directions[direction][i] is self.directions[0][i]
        return same and (i < PER_TOKEN or (self.shared and i < STATE))

    def fill(self, orders: Tensor, softplus: bool, permute: bool, checkpoints, dout: Tensor, dlast_state) -> None:
        """Run the kernel."""
        if checkpoints is not None and not checkpoints.numel():  # as an operator has it, where there are none
            checkpoints = None
        native.load().multi_scan_backward(
            self.directions,
            self.z,
            orders,
            softplus,
            permute,
            self.shared,
            torch.get_num_threads(),
            checkpoints,
            dout,
            dlast_state,
            self.dz,
            self.filled,
        )

    def finish(self) -> list[list[Tensor | None]]:
        """Per direction, in shape and dtype of the tensors; of what is shared the sum, with the first direction."""
        results: list[list[Tensor | None]] = []
        for k, tensors in enumerate(self.directions):
            filled = [None if k and self._is_in_the_first(k, i) else g for i, g in enumerate(self.filled[k])]
            row = list(finish(tensors, filled))
            for i, gradient in enumerate(row):
                if k and gradient is not None and tensors[i] is self.directions[0][i]:
                    so_far = results[0][i]
                    results[0][i] = gradient if so_far is None else so_far + gradient
                    row[i] = None
            results.append(row)
        return results


def _groups(directions: Sequence[Direction]) -> int:
    return max(count_groups(direction[3], direction[4]) for direction in directions)


def _with_z(tensors: Direction, wanted: Sequence[bool]) -> tuple[tuple[Any, ...], tuple[bool, ...]]:
    return (*tensors[:Z], None, *tensors[Z:]), (*wanted[:Z], False, *wanted[Z:])
