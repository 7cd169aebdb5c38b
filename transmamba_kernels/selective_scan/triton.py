"""Selective scan in Triton: describe the tensors to the kernels and launch them.

Where no CUDA compiler was at hand, and on GPUs of other makers. Imported only when a call needs it: Triton comes with
the GPU builds of torch and is not required otherwise.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from transmamba_kernels.selective_scan.triton_backward import GroupParts
from transmamba_kernels.selective_scan.triton_backward import scan_backward as _backward
from transmamba_kernels.selective_scan.triton_forward import scan_forward as _forward
from transmamba_kernels.selective_scan.triton_tile import Channels, Coefficients, Sequence, States

CHUNK = 64  # steps from one checkpoint to the next
FORWARD_STEPS = 4  # steps whose loads are issued together
BACKWARD_STEPS = 4  # steps whose states are held together; of a chunk
LANES = 32  # of a program: one channel each where it has 16 states or fewer
TILE = 16 * LANES  # states of a program


def new_checkpoints(u: Tensor, A: Tensor, B: Tensor, C: Tensor, sequences: int | None) -> Tensor:
    """The states at the start of each chunk, ``(chunks, tiles, PADDED, BLOCK)`` in float32.

    Of the chunks of packed sequences, whose number is ``sequences``, some are not used, and zero.
    """
    batch, _, length = u.shape
    cut = _Tiles(u, A, B, C)
    if sequences is None:
        return u.new_empty((batch * -(-length // CHUNK), *cut.shape), dtype=torch.float32)
    return u.new_zeros((length // CHUNK + sequences, *cut.shape), dtype=torch.float32)


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
            checkpoints,
            **plan.sizes,
            REVERSE=reverse,
            PERMUTE=permute,
            SOFTPLUS=softplus,
            STEPS=FORWARD_STEPS,
        )


def scan_backward(
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
    checkpoints: Tensor,
    dout: Tensor,
    dlast_state: Tensor | None,
    du: Tensor | None,
    ddelta: Tensor | None,
    dA: Tensor | None,
    dB: Tensor | None,
    dC: Tensor | None,
    dD: Tensor | None,
    dz: Tensor | None,
    ddelta_bias: Tensor | None,
    dinitial_state: Tensor | None,
    *,
    add_u: bool = False,
    add_delta: bool = False,
    add_z: bool = False,
    order: Tensor | None = None,
    permute: bool = True,
) -> None:
    """Fill the gradients, or with ``add_*`` add to them; those given as None are not wanted."""
    plan = _Plan(u, A, B, C, offsets)
    parts_A = _Parts(dA, plan.entries, 0)
    parts_B = plan.parts_of_coefficients(dB, plan.B_kind)
    parts_C = plan.parts_of_coefficients(dC, plan.C_kind)
    parts_D = _Parts(dD, plan.entries, 0)
    if ddelta_bias is not None and ddelta_bias.shape[0] == 1:  # else each entry has its own
        parts_bias = _Parts(ddelta_bias[0], plan.entries, 0)
    else:
        parts_bias = _Parts(ddelta_bias, 1, 0)
    shape = (plan.grid[0], CHUNK // BACKWARD_STEPS, plan.tiles.padded, plan.tiles.block)
    scratch = u.new_empty(shape, dtype=torch.float32)
    with torch.cuda.device_of(u):
        _backward[plan.grid](
            _sequence(u),
            _sequence(delta),
            _states(A),
            _coefficients(B, plan.B_kind),
            _coefficients(C, plan.C_kind),
            _channels(D),
            _sequence(z),
            _channels(delta_bias),
            offsets,
            order,
            checkpoints,
            _sequence(dout),
            _states(dlast_state),
            _sequence(du),
            _sequence(ddelta),
            _states(parts_A.whole),
            _gradient_of_coefficients(parts_B.whole),
            _gradient_of_coefficients(parts_C.whole),
            _channels(parts_D.whole),
            _sequence(dz),
            _channels(parts_bias.whole),
            _states(dinitial_state),
            scratch,
            **plan.sizes,
            REVERSE=reverse,
            PERMUTE=permute,
            SOFTPLUS=softplus,
            ADD_U=add_u,
            ADD_DELTA=add_delta,
            ADD_Z=add_z,
            STEPS=BACKWARD_STEPS,
        )
    for parts in (parts_A, parts_B, parts_C, parts_D, parts_bias):
        parts.add_up()


class _Tiles:
    """How the states of one sequence are cut into tiles, of 16 states a lane or fewer: a program each."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, C: Tensor):
        self.groups = max(M.shape[1] if M.dim() == 4 else 1 for M in (B, C))
        self.group_channels = u.shape[1] // self.groups
        self.padded = triton.next_power_of_2(A.shape[1])
        self.block = max(1, min(LANES, TILE // self.padded, triton.next_power_of_2(self.group_channels)))
        self.group_tiles = -(-self.group_channels // self.block)
        self.count = self.groups * self.group_tiles
        self.shape = (self.count, self.padded, self.block)


class _Plan:
    """What both passes are launched with."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor, C: Tensor, offsets: Tensor | None):
        self.batch, _, length = u.shape
        self.entries = self.batch if offsets is None else offsets.shape[0] - 1
        self.tiles = tiles = _Tiles(u, A, B, C)
        self.B_kind, self.C_kind = _kind(B, length), _kind(C, length)
        self.grid = (self.entries * tiles.count,)
        self.sizes = {
            "length": length,
            "groups": tiles.groups,
            "group_channels": tiles.group_channels,
            "chunks": 1 if offsets is not None else -(-length // CHUNK),
            "B_KIND": self.B_kind,
            "C_KIND": self.C_kind,
            "STATES": A.shape[1],
            "PADDED": tiles.padded,
            "BLOCK": tiles.block,
            "CHUNK": CHUNK,
            "num_warps": 1,
        }

    def parts_of_coefficients(self, gradient: Tensor | None, kind: str) -> _Parts:
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


def _gradient_of_coefficients(x: Tensor | None) -> GroupParts | States | None:
    return None if x is None else States(x, *x.stride()) if x.dim() == 3 else GroupParts(x, *x.stride())


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
