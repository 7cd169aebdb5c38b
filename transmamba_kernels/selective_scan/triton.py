"""Selective scan in Triton: describe the tensors to the kernels and launch them.

Where no CUDA compiler was at hand, and on GPUs of other makers. Imported only when a call needs it: Triton comes with
the GPU builds of torch and is not required otherwise.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from transmamba_kernels.selective_scan.triton_forward import scan_forward as _forward
from transmamba_kernels.selective_scan.triton_tile import Channels, Coefficients, Sequence, States

CHUNK = 64  # steps from one checkpoint to the next
FORWARD_STEPS = 4  # steps whose loads are issued together
LANES = 32  # of a program: one channel each where it has 16 states or fewer
TILE = 16 * LANES  # states of a program


def new_checkpoints(u: Tensor, A: Tensor, B: Tensor, C: Tensor, sequences: int | None) -> Tensor:
    """The states at the start of each chunk, ``(batch * chunks, d_inner, d_state)`` in float32, channels side by side.

    Of packed sequences some are not used, and zero: ``sequences`` is their number.
    """
    batch, d_inner, length = u.shape
    if sequences is None:
        checkpoints = u.new_empty((batch * -(-length // CHUNK), A.shape[1], d_inner), dtype=torch.float32)
    else:
        checkpoints = u.new_zeros((length // CHUNK + sequences, A.shape[1], d_inner), dtype=torch.float32)
    return checkpoints.transpose(1, 2)


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    offsets: Tensor | None,
    softplus: bool,
    reverse: bool,
    out: Tensor,
    last_state: Tensor | None,
    checkpoints: Tensor | None,
    *,
    addend: Tensor | None = None,
    order: Tensor | None = None,
    permute: bool = True,
) -> None:
    """Fill ``out``, ``last_state`` and ``checkpoints``."""
    plan = _Plan(u, A, B, C, offsets)
    with torch.cuda.device_of(u):
        _forward[plan.grid](
            _sequence(u),
            _sequence(delta),
            _states(A),
            _coefficients(B, plan.B_kind),
            _coefficients(C, plan.C_kind),
            _channels(D),
            _sequence(z),
            _channels(delta_bias),
            _states(initial_state),
            offsets,
            order,
            _sequence(addend),
            _sequence(out),
            _states(last_state),
            _states(checkpoints),
            **plan.sizes,
            REVERSE=reverse,
            PERMUTE=permute,
            SOFTPLUS=softplus,
            STEPS=FORWARD_STEPS,
            **plan.constants,
        )


class _Plan:
    """How a scan is cut into programs: a tile of the channels of one group, one batch entry or packed sequence each."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, C: Tensor, offsets: Tensor | None):
        batch, d_inner, length = u.shape
        d_state = A.shape[1]
        padded = triton.next_power_of_2(d_state)
        self.groups = max(M.shape[1] if M.dim() == 4 else 1 for M in (B, C))
        group_channels = d_inner // self.groups
        block = max(1, min(LANES, TILE // padded, triton.next_power_of_2(group_channels)))
        self.group_tiles = triton.cdiv(group_channels, block)
        self.entries = batch if offsets is None else offsets.shape[0] - 1
        self.grid = (self.entries * self.groups * self.group_tiles,)
        self.B_kind, self.C_kind = _kind(B, length), _kind(C, length)
        self.sizes = {
            "length": length,
            "groups": self.groups,
            "group_channels": group_channels,
            "chunks": 1 if offsets is not None else triton.cdiv(length, CHUNK),
        }
        self.constants = {
            "B_KIND": self.B_kind,
            "C_KIND": self.C_kind,
            "STATES": d_state,
            "PADDED": padded,
            "BLOCK": block,
            "CHUNK": CHUNK,
            "num_warps": 1,
        }


def _sequence(x: Tensor | None) -> Sequence | None:
    return None if x is None else Sequence(x, *x.stride())


def _states(x: Tensor | None) -> States | None:
    return None if x is None else States(x, *(0, *x.stride())[-3:])


def _channels(x: Tensor | None) -> Channels | None:
    return None if x is None else Channels(x, *(0, *x.stride())[-2:])


def _kind(M: Tensor, length: int) -> str:
    """What B or C has a value for: each row of ``"time"``, each entry of the ``"batch"``, or each ``"channel"``."""
    if M.dim() == 2:
        return "channel"
    return "time" if M.shape[-1] == length else "batch"


def _coefficients(M: Tensor, kind: str) -> Coefficients:
    if kind == "channel":
        return Coefficients(M, 0, 0, *M.stride(), 0)
    group = M.stride(1) if M.dim() == 4 and M.shape[1] > 1 else 0
    return Coefficients(M, M.stride(0), group, 0, M.stride(-2), M.stride(-1) if kind == "time" else 0)
