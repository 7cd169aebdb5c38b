"""The forward pass of the selective scan in Triton; ``csrc/selective_scan/selective_scan.h`` has the mathematics."""

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
    load_sequence,
    load_states,
    sequence_pointers,
    step_at,
    step_size,
    store_states,
    this_tile,
    whole_tile,
)
from transmamba_kernels.triton_math import LOG2_E, sigmoid


class Inputs(NamedTuple):
    """Of one step, in float32."""

    step: Any
    u: Any
    delta: Any
    B: Any
    C: Any
    z: Any
    addend: Any


@triton.jit
def scan_forward(
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    initial_state,
    offsets,
    order,
    addend,
    out,
    last_state,
    checkpoints,
    length,
    groups,
    group_channels,
    chunks,
    REVERSE: tl.constexpr,
    PERMUTE: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    B_KIND: tl.constexpr,
    C_KIND: tl.constexpr,
    STATES: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    STEPS: tl.constexpr,
):
    """Walk along one sequence with one tile of channels.

    The loads of STEPS steps are issued together, so that their latency is waited for once.
    """
    tile = this_tile(offsets, length, groups, group_channels, BLOCK, STATES, PADDED)
    a = load_states(A, 0, tile) * LOG2_E
    h = load_states(initial_state, tile.entry, tile)
    constant_B = load_constant(B, tile, B_KIND)
    constant_C = load_constant(C, tile, C_KIND)
    D_e = load_channels(D, tile)
    bias = load_channels(delta_bias, tile)
    tiles, first_checkpoint = checkpoint_places(tile, groups, chunks, CHUNK)

    steps = tile.end - tile.start
    for chunk in range(0, steps, CHUNK):
        if checkpoints is not None:
            tl.store(whole_tile(checkpoints, first_checkpoint + chunk // CHUNK * tiles, PADDED, BLOCK), h)
        for first in range(chunk, tl.minimum(chunk + CHUNK, steps), STEPS):
            loaded = ()
            for j in tl.static_range(STEPS):
                step = step_at(first + j, tile, order, REVERSE, PERMUTE)
                loaded += (
                    Inputs(
                        step,
                        load_sequence(u, tile, step.token, step.there),
                        load_sequence(delta, tile, step.time, step.there),
                        constant_B if B_KIND != "time" else load_coefficients(B, tile, step.time, step.there),
                        constant_C if C_KIND != "time" else load_coefficients(C, tile, step.time, step.there),
                        load_sequence(z, tile, step.token, step.there),
                        load_sequence(addend, tile, step.token, step.there),
                    ),
                )
            for j in tl.static_range(STEPS):
                x = loaded[j]
                dt, _ = step_size(x.delta, bias, x.step.there, SOFTPLUS)
                h = advance(h, dt, x.u, x.B, a)
                y = tl.sum(h * x.C, axis=0)
                if D is not None:
                    y += D_e * x.u
                if addend is not None:
                    y += x.addend
                if z is not None:
                    y *= x.z * sigmoid(x.z)
                pointers = sequence_pointers(out, tile, x.step.token)
                tl.store(pointers, y.to(out.data.dtype.element_ty), mask=tile.inside & x.step.there)
    if last_state is not None:
        store_states(last_state, tile.entry, tile, h)
