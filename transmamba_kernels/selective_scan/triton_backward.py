"""The backward pass of the selective scan in Triton; ``csrc/selective_scan/selective_scan.h`` has the mathematics."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from transmamba_kernels.selective_scan.triton_tile import (
    advance,
    checkpoint_places,
    load_channels,
    load_coefficients,
    load_constant,
    load_inputs,
    load_sequence,
    load_states,
    sequence_pointers,
    step_size,
    store_channels,
    store_states,
    this_tile,
    whole_tile,
)
from transmamba_kernels.triton_math import LN_2, LOG2_E, sigmoid


class GroupParts(NamedTuple):
    """What each part of the channels adds to dB or dC, ``(batch, groups, parts, length or 1, d_state)``."""

    data: Any
    batch: Any
    group: Any
    part: Any
    time: Any
    state: Any


class Held(NamedTuple):
    """What is known of a step before it is walked back over."""

    before: Any  # the state before it
    z: Any
    dout: Any


@triton.jit
def _store_part(parts, part, tile, time, there, values):
    """What this program's channels add to one row of dB or dC, ``(PADDED,)``."""
    pointers = parts.data + tile.batch * parts.batch + tile.group * parts.group + part.to(tl.int64) * parts.part
    pointers += time.to(tl.int64) * parts.time + tile.states * parts.state
    tl.store(pointers, values, mask=tile.exist & there)


@triton.jit
def _store_sequence(x, tile, step, row, values, ADD: tl.constexpr):
    """One row of du, ddelta or dz, or add to it."""
    if ADD:
        values += load_sequence(x, tile, row, step.there)
    pointers = sequence_pointers(x, tile, row)
    tl.store(pointers, values.to(x.data.dtype.element_ty), mask=tile.inside & step.there)


@triton.jit
def _store_constant(gradient, tile, values, KIND: tl.constexpr):
    """This sequence's sum over time of dB or dC."""
    if KIND == "channel":
        store_states(gradient, tile.entry, tile, values)
    else:
        part = (tile.entry - tile.batch) * tile.group_tiles + tile.index
        _store_part(gradient, part, tile, tile.start * 0, True, tl.sum(values, axis=1))


@triton.jit
def scan_backward(
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    offsets,
    order,
    checkpoints,
    dout,
    dlast_state,
    du,
    ddelta,
    dA,
    dB,
    dC,
    dD,
    dz,
    ddelta_bias,
    dinitial_state,
    scratch,
    length,
    groups,
    group_channels,
    chunks,
    REVERSE: tl.constexpr,
    PERMUTE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    ADD_U: tl.constexpr,
    ADD_DELTA: tl.constexpr,
    ADD_Z: tl.constexpr,
    B_KIND: tl.constexpr,
    C_KIND: tl.constexpr,
    STATES: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Walk back along one sequence with one tile of channels.

    The states of a chunk are computed again from its checkpoint, and every STEPS-th is written to ``scratch``; the
    STEPS between two of these are computed once more and held in registers. dA, dD and ddelta_bias are sums of this
    sequence, dB and dC of this tile: they are added up afterwards, always in the same order.
    """
    tile = this_tile(offsets, length, groups, group_channels, BLOCK, STATES, PADDED)
    a = load_states(A, 0, tile) * LOG2_E
    adjoint = load_states(dlast_state, tile.entry, tile)  # exp(dt A) lambda of the step after
    constant_B = load_constant(B, tile, B_KIND)
    constant_C = load_constant(C, tile, C_KIND)
    D_e = load_channels(D, tile)
    bias = load_channels(delta_bias, tile)
    sum_A = tl.zeros((PADDED, BLOCK), tl.float32)
    sum_B = tl.zeros((PADDED, BLOCK), tl.float32)
    sum_C = tl.zeros((PADDED, BLOCK), tl.float32)
    sum_D = tl.zeros((BLOCK,), tl.float32)
    sum_bias = tl.zeros((BLOCK,), tl.float32)
    tiles, first_checkpoint = checkpoint_places(tile, groups, chunks, CHUNK)
    kept = tl.program_id(0).to(tl.int64) * (CHUNK // STEPS)

    steps = tile.end - tile.start
    chunk_count = tl.cdiv(steps, CHUNK)
    for c in range(0, chunk_count):
        chunk = (chunk_count - 1 - c) * CHUNK
        pieces = tl.cdiv(tl.minimum(CHUNK, steps - chunk), STEPS)
        h = tl.load(whole_tile(checkpoints, first_checkpoint + (chunk_count - 1 - c) * tiles, PADDED, BLOCK))
        for piece in range(0, pieces):
            tl.store(whole_tile(scratch, kept + piece, PADDED, BLOCK), h)
            loaded = ()
            for j in tl.static_range(STEPS):
                position = chunk + piece * STEPS + j
                loaded += (load_inputs(u, delta, B, constant_B, tile, position, order, REVERSE, PERMUTE, B_KIND),)
            for j in tl.static_range(STEPS):
                h = advance(h, loaded[j], bias, a, SOFTPLUS)
        tl.debug_barrier()  # no lane may read what another has not yet written
        for back in range(0, pieces):
            first = chunk + (pieces - 1 - back) * STEPS
            h = tl.load(whole_tile(scratch, kept + pieces - 1 - back, PADDED, BLOCK))
            held = ()
            for j in tl.static_range(STEPS):
                x = load_inputs(u, delta, B, constant_B, tile, first + j, order, REVERSE, PERMUTE, B_KIND)
                z_t = load_sequence(z, tile, x.step.token, x.step.there)
                held += (Held(h, z_t, load_sequence(dout, tile, x.step.token, x.step.there)),)
                h = advance(h, x, bias, a, SOFTPLUS)
            for j in tl.static_range(STEPS):
                before, z_t, dout_t = held[STEPS - 1 - j]
                # Loaded again rather than held: so are the decays computed again, for which there are no registers.
                position = first + STEPS - 1 - j
                x = load_inputs(u, delta, B, constant_B, tile, position, order, REVERSE, PERMUTE, B_KIND)
                step = x.step
                C_t = constant_C if C_KIND != "time" else load_coefficients(C, tile, step.time, step.there)
                dt, slope = step_size(x, bias, SOFTPLUS)

                g = dout_t
                if z is not None:
                    s = sigmoid(z_t)
                    g *= z_t * s
                    if dz is not None:  # silu'(z) = s (1 + z (1 - s))
                        y = tl.sum(h * C_t, axis=0)
                        if D is not None:
                            y += D_e * x.u
                        d = dout_t * y * s * (1.0 + z_t * (1.0 - s))
                        _store_sequence(dz, tile, step, step.token, d, ADD_Z)
                if dC is not None:
                    d_C = h * g[None, :]
                    if C_KIND == "time":
                        _store_part(dC, tile.index, tile, step.time, step.there, tl.sum(d_C, axis=1))
                    else:
                        sum_C += d_C
                sum_D += g * x.u

                costate = adjoint + g[None, :] * C_t
                along_B = tl.sum(costate * x.B, axis=0)
                if du is not None:
                    d = along_B * dt
                    if D is not None:
                        d += D_e * g
                    _store_sequence(du, tile, step, step.token, d, ADD_U)
                if dB is not None:
                    d_B = costate * (dt * x.u)[None, :]
                    if B_KIND == "time":
                        _store_part(dB, tile.index, tile, step.time, step.there, tl.sum(d_B, axis=1))
                    else:
                        sum_B += d_B

                adjoint = tl.exp2(dt[None, :] * a) * costate
                along_A = adjoint * before
                sum_A += along_A * dt[None, :]
                d = slope * (along_B * x.u + LN_2 * tl.sum(along_A * a, axis=0))
                sum_bias += d
                if ddelta is not None:
                    _store_sequence(ddelta, tile, step, step.time, d, ADD_DELTA)
                h = before
        tl.debug_barrier()  # nor write over what another has not yet read

    if dA is not None:
        store_states(dA, tile.entry, tile, sum_A)
    if dinitial_state is not None:
        store_states(dinitial_state, tile.entry, tile, adjoint)
    if dB is not None and B_KIND != "time":
        _store_constant(dB, tile, sum_B, B_KIND)
    if dC is not None and C_KIND != "time":
        _store_constant(dC, tile, sum_C, C_KIND)
    if dD is not None:
        store_channels(dD, tile, sum_D)
    if ddelta_bias is not None:
        store_channels(ddelta_bias, tile, sum_bias)
