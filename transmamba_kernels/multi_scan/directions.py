"""Scans over the same tokens on any backend: allocate the outputs, have its kernels fill them.

A backend may have a kernel that runs some directions at once. All others are a selective scan each, in its order, that
adds to the one before; the last one gates the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from transmamba_kernels.multi_scan import cpp
from transmamba_kernels.selective_scan.gradients import allocate as allocate_gradients
from transmamba_kernels.selective_scan.gradients import finish
from transmamba_kernels.selective_scan.passes import kernels
from transmamba_kernels.selective_scan.sizes import compute_dtype

Z = 6  # of the tensors of a selective scan, the one that all directions share
STATE = 7  # of the tensors of a direction, those of a selective scan without z
PER_TOKEN = 2  # its first tensors, u and delta: gradients that directions share are added up in the kernel
Direction = tuple[Any, ...]
_AS_ONE = {"cpp": cpp}  # backends with kernels that run several directions at once


def run_as_one(backend: str, directions: Sequence[Direction], permute: bool) -> ModuleType | None:
    """The module with the kernel that takes all directions at once, if there is one for these."""
    module = _AS_ONE.get(backend)
    return module if module is not None and module.takes(directions, permute) else None


def allocate(
    backend: str, directions: Sequence[Direction], permute: bool, merge: bool, with_state: bool, for_backward: bool
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
    checkpoints = None
    if for_backward and run_as_one(backend, directions, permute) is None:
        shapes = [kernels(backend).checkpoint_shape(d[0], d[2], d[3], d[4], None) for d in directions]
        checkpoints = u.new_empty((count, *max(shapes)), dtype=real)  # they differ by the number of groups, if at all
    return out, last_state, checkpoints


def scan(
    backend: str,
    directions: Sequence[Direction],
    z: Tensor | None,
    orders: Tensor | None,
    softplus: bool,
    permute: bool,
    merge: bool,
    with_state: bool,
    for_backward: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Run the scans; ``orders`` are int32, contiguous, on the device of the tensors; None for there and back."""
    outputs = allocate(backend, directions, permute, merge, with_state, for_backward)
    out, last_state, checkpoints = outputs
    as_one = run_as_one(backend, directions, permute)
    if as_one is not None:
        as_one.scan_forward(directions, z, _as_tensor(orders, out), softplus, out, last_state)
        return outputs
    # Not gated and not rounded between the directions; where it has the right type the result's memory serves.
    real, last = compute_dtype(out), len(directions) - 1
    y = out if out.dtype == real or not merge else torch.empty_like(out, dtype=real)
    scans = []
    for k, (direction, (order, reverse)) in enumerate(zip(directions, _ways(orders), strict=True)):
        whole = not merge or k == last
        arguments = (
            *direction[:Z],
            z if whole else None,
            *direction[Z:],
            None,
            softplus,
            reverse,
            out[:, k] if not merge else out if whole else y,
            None if last_state is None else last_state[:, k],
            None if checkpoints is None else checkpoints[k],
        )
        scans.append((arguments, {"addend": y if merge and k else None, "order": order, "permute": permute}))
    run_in_turn(kernels(backend), scans)
    return outputs


def _ways(orders: Tensor | None) -> list[tuple[Tensor | None, bool]]:
    """For each direction its order, and whether it is reversed: the kernels take whole rows that lie side by side."""
    return [(None, False), (None, True)] if orders is None else [(order, False) for order in orders.unbind(0)]


def _as_tensor(orders: Tensor | None, out: Tensor) -> Tensor:
    return _there_and_back(out.shape[-1], out.device) if orders is None else orders


@lru_cache(maxsize=32)
def _there_and_back(length: int, device: torch.device) -> Tensor:
    steps = torch.arange(length, dtype=torch.int32, device=device)
    return torch.stack([steps, steps.flip(0)])


def run_in_turn(module: ModuleType, scans: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
    """Run scans one after the other, in one launch on a backend that can."""
    if hasattr(module, "scans_forward"):
        module.scans_forward(scans)
        return
    for arguments, options in scans:
        module.scan_forward(*arguments, **options)


class Gradients:
    """The gradients of all directions: what the kernel fills, and then what the inputs get.

    Args:
        backend: The one whose kernels fill them.
        directions: Tensors of each; one that several share is the same object in all of them.
        z: The gate or None.
        permute: Whether the parameters are walked over in the orders too.
        needed: For every tensor of every direction, whether its gradient is needed.
        need_z: The same for ``z``.
    """

    def __init__(
        self,
        backend: str,
        directions: Sequence[Direction],
        z: Tensor | None,
        permute: bool,
        needed: Sequence[Sequence[bool]],
        need_z: bool,
    ):
        self.backend, self.directions, self.z, self.permute = backend, directions, z, permute
        self.as_one = run_as_one(backend, directions, permute)
        self.filled: list[list[Tensor | None]] = []
        for k, tensors in enumerate(directions):
            wanted = [n and not self._is_in_the_first(k, i) for i, n in enumerate(needed[k])]
            row = allocate_gradients((*tensors[:Z], None, *tensors[Z:]), (*wanted[:Z], False, *wanted[Z:]))
            del row[Z]
            self.filled.append(row)
            for i in range(PER_TOKEN):
                if self._is_in_the_first(k, i):
                    row[i] = self.filled[0][i]
                elif row[i] is not None and self._is_in_the_first(len(directions) - 1, i):
                    row[i] = self._sum_of(tensors[i])
        self.sum_of_dz = self._sum_of(z) if need_z and z is not None else None
        self.states: Tensor | None = None
        if self.as_one is not None and any(row[STATE] is not None for row in self.filled):
            batch, d_inner, d_state = directions[0][STATE].shape
            shape = (batch, len(directions), d_inner, d_state)
            self.states = directions[0][0].new_empty(shape, dtype=compute_dtype(directions[0][0]))
            for row, state in zip(self.filled, self.states.unbind(1), strict=True):
                row[STATE] = state if row[STATE] is not None else None

    def _sum_of(self, tensor: Tensor) -> Tensor:
        """Memory for a gradient that scans add to one after the other: not rounded in between."""
        alone = self.as_one is not None or len(self.directions) == 1
        return torch.empty_like(tensor, dtype=tensor.dtype if alone else compute_dtype(tensor))

    @property
    def dz(self) -> Tensor | None:
        """The gradient of the gate."""
        return None if self.sum_of_dz is None or self.z is None else self.sum_of_dz.to(self.z.dtype)

    def _is_in_the_first(self, direction: int, i: int) -> bool:
        """Whether the kernel adds this gradient to the first direction's."""
        same = direction > 0 and self.directions[direction][i] is self.directions[0][i]
        return same and (i < PER_TOKEN or (self.as_one is not None and i < STATE))

    def fill(
        self, orders: Tensor | None, softplus: bool, checkpoints: Tensor | None, dout: Tensor, dlast_state: Any
    ) -> None:
        """Run the kernels; ``orders`` as in :func:`scan`."""
        if self.as_one is not None:
            filled = self.filled[0][:STATE]
            walked = _as_tensor(orders, dout)
            self.as_one.scan_backward(
                self.directions, self.z, walked, softplus, dout, dlast_state, filled, self.sum_of_dz, self.states
            )
            return
        assert checkpoints is not None
        for k, (direction, (order, reverse)) in enumerate(zip(self.directions, _ways(orders), strict=True)):
            filled = self.filled[k]
            kernels(self.backend).scan_backward(
                *direction[:Z],
                self.z,
                *direction[Z:],
                None,
                softplus,
                reverse,
                checkpoints[k],
                dout if dout.dim() == 3 else dout[:, k],
                None if dlast_state is None else dlast_state[:, k],
                *filled[:Z],
                self.sum_of_dz,
                *filled[Z:],
                add_u=self._is_in_the_first(k, 0),
                add_delta=self._is_in_the_first(k, 1),
                add_z=k > 0,
                order=order,
                permute=self.permute,
            )

    def finish(self) -> list[list[Tensor | None]]:
        """Per direction, in shape and dtype of the tensors; of what is shared the sum, with the first direction."""
        for k, tensors in enumerate(self.directions):
            for i, gradient in enumerate(self.filled[k]):
                if not k or gradient is None or tensors[i] is not self.directions[0][i]:
                    continue
                first = self.filled[0][i]
                if first is not None and first is not gradient:
                    if first.shape != gradient.shape:  # other groups, of what has none itself
                        first, gradient = first.sum(1, keepdim=True), gradient.sum(1, keepdim=True)
                    self.filled[0][i] = first + gradient  # before it is rounded to the dtype of the tensor
                self.filled[k][i] = None
        return [list(finish(*pair)) for pair in zip(self.directions, self.filled, strict=True)]
