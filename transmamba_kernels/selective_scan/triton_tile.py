"""What both passes of the Triton scan share: how tensors are described to a kernel, and where a program stands in them.

A program is one warp that walks along one sequence with the states of one tile of channels, ``(PADDED, BLOCK)``, in
registers. Channels and states beyond the tensors' own are zero and stay zero, and a step beyond the last changes
nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from transmamba_kernels.triton_math import softplus


class Sequence(NamedTuple):
    """``(batch, d_inner, length)``: memory, and strides in elements."""

    data: Any
    batch: Any
    channel: Any
    time: Any


class Coefficients(NamedTuple):
    """B or C: memory, and strides in elements; 0 along what it does not have."""

    data: Any
    batch: Any
    group: Any
    channel: Any
    state: Any
    time: Any


class States(NamedTuple):
    """``(entries, d_inner, d_state)``, or A with an entry stride of 0."""

    data: Any
    entry: Any
    channel: Any
    state: Any


class Channels(NamedTuple):
    """``(batch, d_inner)``, or ``(d_inner,)`` with a batch stride of 0."""

    data: Any
    batch: Any
    channel: Any


class Tile(NamedTuple):
    """Where a program stands."""

    entry: Any  # a batch entry, or a packed sequence
    batch: Any
    group: Any
    index: Any  # of the tile within its group
    group_tiles: Any  # their number
    channels: Any  # (BLOCK,)
    inside: Any  # (BLOCK,): which of them exist
    states: Any  # (PADDED,)
    exist: Any  # (PADDED,)
    start: Any  # of the sequence, and its end
    end: Any


class Step(NamedTuple):
    """Where a step of the walk stands."""

    token: Any  # row of u, z and out
    time: Any  # row of delta, B and C
    there: Any  # whether there is such a step


class Inputs(NamedTuple):
    """Of one step, in float32."""

    step: Any
    u: Any  # (BLOCK,)
    delta: Any  # (BLOCK,)
    B: Any  # (PADDED, 1) or (PADDED, BLOCK)


@triton.jit
def this_tile(offsets, length, groups, group_channels, BLOCK: tl.constexpr, STATES: tl.constexpr, PADDED: tl.constexpr):
    """The tile of this program; none has channels of two groups."""
    group_tiles = tl.cdiv(group_channels, BLOCK)
    program = tl.program_id(0)
    index = program % group_tiles
    group = program // group_tiles % groups
    entry = (program // group_tiles // groups).to(tl.int64)
    within = index * BLOCK + tl.arange(0, BLOCK)
    channels = (group * group_channels + within).to(tl.int64)
    states = tl.arange(0, PADDED)
    batch, start, end = entry, (entry * 0).to(tl.int32), (entry * 0).to(tl.int32) + length
    if offsets is not None:
        batch, start, end = entry * 0, tl.load(offsets + entry), tl.load(offsets + entry + 1)
    return Tile(
        entry,
        batch,
        group,
        index,
        group_tiles,
        channels,
        within < group_channels,
        states.to(tl.int64),
        states < STATES,
        start,
        end,
    )


@triton.jit
def step_at(position, tile, order, REVERSE: tl.constexpr, PERMUTE: tl.constexpr):
    """The step at a position of the walk."""
    there = position < tile.end - tile.start
    time = tile.end - 1 - position if REVERSE else tile.start + position
    token = time
    if order is not None:
        token = tl.load(order + time, mask=there, other=0)
        time = token if PERMUTE else time
    return Step(token, time, there)


@triton.jit
def sequence_pointers(x, tile, row):
    """Of the tile's channels in one row, ``(BLOCK,)``."""
    return x.data + tile.batch * x.batch + tile.channels * x.channel + row.to(tl.int64) * x.time


@triton.jit
def load_sequence(x, tile, row, there):
    """One row of the tile's channels, ``(BLOCK,)``; 0 where it is not given or there is none."""
    if x is None:
        return 0.0
    else:
        return tl.load(sequence_pointers(x, tile, row), mask=tile.inside & there, other=0.0).to(tl.float32)


@triton.jit
def load_channels(x, tile):
    """``(BLOCK,)``; 0 where it is not given."""
    if x is None:
        return 0.0
    else:
        pointers = x.data + tile.batch * x.batch + tile.channels * x.channel
        return tl.load(pointers, mask=tile.inside, other=0.0).to(tl.float32)


@triton.jit
def store_channels(x, tile, values):
    """One row of ``(entries, d_inner)``."""
    tl.store(x.data + tile.entry * x.batch + tile.channels * x.channel, values, mask=tile.inside)


@triton.jit
def state_pointers(x, entry, tile):
    """``(PADDED, BLOCK)``.

    That neighbours may lie side by side in memory is hidden: the compiler would give a lane a few states of several
    channels to load them faster, once, and then compute dt for each channel in several lanes, at every step.
    """
    pointers = x.data + entry * x.entry + tile.channels[None, :] * x.channel + tile.states[:, None] * x.state
    return tl.max_contiguous(pointers, (1, 1))


@triton.jit
def load_states(x, entry, tile):
    """``(PADDED, BLOCK)``; 0 where it is not given."""
    if x is None:
        return tl.zeros((tile.states.shape[0], tile.channels.shape[0]), tl.float32)
    else:
        mask = tile.exist[:, None] & tile.inside[None, :]
        return tl.load(state_pointers(x, entry, tile), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_states(x, entry, tile, values):
    """``(PADDED, BLOCK)``, in the dtype of ``x``."""
    mask = tile.exist[:, None] & tile.inside[None, :]
    tl.store(state_pointers(x, entry, tile), values.to(x.data.dtype.element_ty), mask=mask)


@triton.jit
def whole_tile(x, index, PADDED: tl.constexpr, BLOCK: tl.constexpr):
    """``(PADDED, BLOCK)``: one of many tiles that are stored one after the other, padding and all.

    Its places are known to the compiler, where those of a strided tensor would take up registers.
    """
    within = tl.arange(0, PADDED)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    return x + index.to(tl.int64) * (PADDED * BLOCK) + tl.max_contiguous(within, (1, 1))


@triton.jit
def checkpoint_places(tile, groups, chunks, CHUNK: tl.constexpr):
    """From one chunk's checkpoint to the next one's, and where the first one is, in tiles.

    Each packed sequence has a place for every chunk that its rows touch, and the one before may have touched the same.
    """
    tiles = groups * tile.group_tiles
    return tiles, (tile.entry * chunks + tile.start // CHUNK) * tiles + tile.group * tile.group_tiles + tile.index


@triton.jit
def load_coefficients(M, tile, time, there):
    """B or C of one row: ``(PADDED, 1)``, for all channels."""
    pointers = M.data + tile.batch * M.batch + tile.group * M.group + tile.states * M.state
    pointers += time.to(tl.int64) * M.time
    return tl.load(pointers, mask=tile.exist & there, other=0.0).to(tl.float32)[:, None]


@triton.jit
def load_constant(M, tile, KIND: tl.constexpr):
    """B or C that is constant over time: ``(PADDED, 1)``, or ``(PADDED, BLOCK)`` where each channel has its own."""
    if KIND == "time":
        return 0.0
    elif KIND == "channel":
        pointers = M.data + tile.channels[None, :] * M.channel + tile.states[:, None] * M.state
        return tl.load(pointers, mask=tile.exist[:, None] & tile.inside[None, :], other=0.0).to(tl.float32)
    else:
        return load_coefficients(M, tile, tile.start, True)


@triton.jit
def load_inputs(
    u, delta, B, constant_B, tile, position, order, REVERSE: tl.constexpr, PERMUTE: tl.constexpr, B_KIND: tl.constexpr
):
    """What takes the state over the step at ``position`` of the walk."""
    step = step_at(position, tile, order, REVERSE, PERMUTE)
    return Inputs(
        step,
        load_sequence(u, tile, step.token, step.there),
        load_sequence(delta, tile, step.time, step.there),
        constant_B if B_KIND != "time" else load_coefficients(B, tile, step.time, step.there),
    )


@triton.jit
def step_size(x, bias, SOFTPLUS: tl.constexpr):
    """dt and its slope in delta; 0 where there is no step, which leaves the state as it is."""
    dt = x.delta + bias
    slope = tl.zeros_like(dt) + 1.0
    if SOFTPLUS:
        dt, slope = softplus(dt)
    return tl.where(x.step.there, dt, 0.0), tl.where(x.step.there, slope, 0.0)


@triton.jit
def advance(h, x, bias, a, SOFTPLUS: tl.constexpr):
    """The state after a step; a is in units of log2."""
    dt, _ = step_size(x, bias, SOFTPLUS)
    return tl.exp2(dt[None, :] * a) * h + (dt * x.u)[None, :] * x.B
