"""Selective scan in Triton: describe the tensors to the kernels and launch them.

Where no CUDA compiler was at hand, and on GPUs of other makers. Imported only when a call needs it: Triton comes with
the GPU builds of torch and is not required otherwise.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from transmamba_kernels.selective_scan.sizes import count_groups
from transmamba_kernels.selective_scan.triton_backward import GroupParts
from transmamba_kernels.selective_scan.triton_backward import scan_backward as _backward
from transmamba_kernels.selective_scan.triton_forward import scan_forward as _forward
from transmamba_kernels.selective_scan.triton_tile import Channels, Coefficients, Sequence, States

# Steps from one checkpoint to the next, and at a time of each pass, which divide it: as many as there are registers for
# on every GPU, which tests/gpu/test_triton_binaries.py reads from the binaries.
CHUNK = 60
FORWARD_STEPS = 3
BACKWARD_STEPS = 2
# The backward pass may take all registers that a thread can have; else NVIDIA's assembler spills some for more warps.
_BACKWARD_OPTIONS = {"num_warps": 1} if torch.version.hip else {"num_warps": 1, "maxnreg": 255}
LANES = 32  # of a warp, which is a program; a channel each where one lane holds all of its states


def checkpoint_shape(u: Tensor, A: Tensor, B: Tensor, C: Tensor, sequences: int | None) -> tuple[int, ...]:
    """Of the memory for the states that the backward pass starts its chunks from.

    Args:
        sequences: The number of packed ones, or None.
    """
    batch, _, length = u.shape
    tiles = _Tiles(u, A, B, C)
    chunks = batch * -(-length // CHUNK) if sequences is None else length // CHUNK + sequences
    return chunks, tiles.count * tiles.padded * tiles.block


def scan_forward(
    u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, out, last_state, checkpoints,
    *, addend=None, order=None, permute=True,
) -> None:  # fmt: skip
    """Fill ``out`` and, where they are given, ``last_state`` and ``checkpoints``; see :mod:`.cpp`."""
    plan = _Plan(u, A, B, C, offsets)
    with torch.cuda.device_of(u):
        _forward[plan.grid](
            _sequence(u), _sequence(delta), _states(A), plan.B, plan.C, _channels(D), _sequence(z),
            _channels(delta_bias), _states(initial_state), offsets, order, _sequence(addend), _sequence(out),
            _states(last_state), checkpoints,
            **plan.sizes, REVERSE=reverse, PERMUTE=permute, SOFTPLUS=softplus, STEPS=FORWARD_STEPS, num_warps=1,
        )  # fmt: skip


def scan_backward(
    u, delta, A, B, C, D, z, delta_bias, initial_state, offsets, softplus, reverse, checkpoints, dout, dlast_state,
    du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, dinitial_state,
    *, add_u=False, add_delta=False, add_z=False, order=None, permute=True,
) -> None:  # fmt: skip
    """Fill the gradients that are given, or with ``add_*`` add to them; see :mod:`.cpp`."""
    plan = _Plan(u, A, B, C, offsets)
    pieces = plan.grid[0] * CHUNK // BACKWARD_STEPS
    scratch = u.new_empty((pieces, plan.tiles.padded * plan.tiles.block), dtype=torch.float32)
    of_A, of_D = _Parts(dA, plan.entries, 0), _Parts(dD, plan.entries, 0)
    of_B, of_C = (plan.parts(gradient, kind) for gradient, kind in zip((dB, dC), plan.kinds, strict=True))
    if ddelta_bias is not None and ddelta_bias.shape[0] == 1:  # of all entries; else each has its own
        of_bias = _Parts(ddelta_bias[0], plan.entries, 0)
    else:
        of_bias = _Parts(ddelta_bias, 1, 0)
    with torch.cuda.device_of(u):
        _backward[plan.grid](
            _sequence(u), _sequence(delta), _states(A), plan.B, plan.C, _channels(D), _sequence(z),
            _channels(delta_bias), offsets, order, checkpoints, _sequence(dout), _states(dlast_state), _sequence(du),
            _sequence(ddelta), _states(of_A.whole), _group_parts(of_B.whole), _group_parts(of_C.whole),
            _channels(of_D.whole), _sequence(dz), _channels(of_bias.whole), _states(dinitial_state), scratch,
            **plan.sizes, REVERSE=reverse, PERMUTE=permute, SOFTPLUS=softplus, STEPS=BACKWARD_STEPS,
            ADD_U=add_u, ADD_DELTA=add_delta, ADD_Z=add_z, **_BACKWARD_OPTIONS,
        )  # fmt: skip
        for parts in (of_A, of_B, of_C, of_D, of_bias):
            parts.add_up()


class _Tiles:
    """How the states of one sequence are cut into tiles, a program each; none has channels of two groups."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, C: Tensor):
        self.groups = count_groups(B, C)
        self.group_channels = u.shape[1] // self.groups
        self.padded = triton.next_power_of_2(A.shape[1])
        # Sums over time of dB and dC take as many registers as the states, and so do B and C of each channel's own.
        kinds = [_kind(M, u.shape[2]) for M in (B, C)]
        states_of_a_lane = 4 if "channel" in kinds else 16 if self.padded <= 16 and "time" in kinds else 8
        widest = max(1, min(LANES, LANES * states_of_a_lane // self.padded))
        self.block = min(widest, triton.next_power_of_2(self.group_channels))
        self.group_tiles = -(-self.group_channels // self.block)
        self.count = self.groups * self.group_tiles


class _Plan:
    """What both passes are launched with."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, C: Tensor, offsets: Tensor | None):
        self.batch, _, length = u.shape
        self.entries = self.batch if offsets is None else offsets.shape[0] - 1
        self.tiles = tiles = _Tiles(u, A, B, C)
        self.kinds = _kind(B, length), _kind(C, length)
        self.B, self.C = (_coefficients(M, kind) for M, kind in zip((B, C), self.kinds, strict=True))
        self.grid = (self.entries * tiles.count,)
        self.sizes = {
            "length": length,
            "groups": tiles.groups,
            "group_channels": tiles.group_channels,
            "chunks": -(-length // CHUNK) if offsets is None else 1,
            "B_KIND": self.kinds[0],
            "C_KIND": self.kinds[1],
            "STATES": A.shape[1],
            "PADDED": tiles.padded,
            "BLOCK": tiles.block,
            "CHUNK": CHUNK,
        }

    def parts(self, gradient: Tensor | None, kind: str) -> _Parts:
        """Of dB or dC: ``(entries, d_inner, d_state)``, or ``(batch, groups, parts, length or 1, d_state)``."""
        if kind == "channel":
            return _Parts(gradient, self.entries, 0)
        return _Parts(gradient, self.tiles.group_tiles * (1 if kind == "time" else self.entries // self.batch), 2)


class _Parts:
    """A gradient that several programs contribute to, a part each, which are added up in their order afterwards.

    Args:
        gradient: What to fill, or None.
        count: Of parts; one is the gradient itself.
        dim: Where in the gradient's shape the parts are put.
    """

    def __init__(self, gradient: Tensor | None, count: int, dim: int):
        self.gradient, self.dim = gradient, dim
        self.whole: Tensor | None = None
        if gradient is not None and count == 1:
            self.whole = gradient.unsqueeze(dim)
        elif gradient is not None:
            self.whole = gradient.new_empty((*gradient.shape[:dim], count, *gradient.shape[dim:]))

    def add_up(self) -> None:
        """Fill the gradient."""
        if self.whole is not None and self.whole.shape[self.dim] > 1:
            torch.sum(self.whole, self.dim, out=self.gradient)


def _sequence(x: Tensor | None) -> Sequence | None:
    return None if x is None else Sequence(x, *x.stride())


def _states(x: Tensor | None) -> States | None:
    return None if x is None else States(x, *(0, *x.stride())[-3:])


def _channels(x: Tensor | None) -> Channels | None:
    return None if x is None else Channels(x, *(0, *x.stride())[-2:])


def _group_parts(x: Tensor | None) -> GroupParts | States | None:
    return None if x is None else States(x, *x.stride()) if x.dim() == 3 else GroupParts(x, *x.stride())


def _kind(M: Tensor, length: int) -> str:
    """What B or C has a value for: each row of ``"time"``, each entry of the ``"batch"``, or each ``"channel"``."""
    if M.dim() == 2:
        return "channel"
    return "time" if M.shape[-1] == length else "batch"


def _coefficients(M: Tensor, kind: str) -> Coefficients:
    if kind == "channel":
        return Coefficients(M, 0, 0, M.stride(0), M.stride(1), 0)
    group = M.stride(1) if M.dim() == 4 and M.shape[1] > 1 else 0
    return Coefficients(M, M.stride(0), group, 0, M.stride(-2), M.stride(-1) if kind == "time" else 0)
