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
    load_inputs,
    load_sequence,
    load_states,
    sequence_pointers,
    store_states,
    this_tile,
    whole_tile,
)
from transmamba_kernels.triton_math import LOG2_E, sigmoid


class Loaded(NamedTuple):
    """Of one step, in float32."""

    inputs: Any
    C: Any  # (PADDED, 1) or (PADDED, BLOCK)
    z: Any  # (BLOCK,)
    addend: Any  # (BLOCK,)


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
                x = load_inputs(u, delta, B, constant_B, tile, first + j, order, REVERSE, PERMUTE, B_KIND)
                step = x.step
                C_t = constant_C if C_KIND != "time" else load_coefficients(C, tile, step.time, step.there)
                z_t = load_sequence(z, tile, step.token, step.there)
                loaded += (Loaded(x, C_t, z_t, load_sequence(addend, tile, step.token, step.there)),)
            for j in tl.static_range(STEPS):
                x, C_t, z_t, addend_t = loaded[j]
                h = advance(h, x, bias, a, SOFTPLUS)
                y = tl.sum(h * C_t, axis=0)
                if D is not None:
                    y += D_e * x.u
                if addend is not None:
                    y += addend_t
                if z is not None:
                    y *= z_t * sigmoid(z_t)
                pointers = sequence_pointers(out, tile, x.step.token)
                tl.store(pointers, y.to(out.data.dtype.element_ty), mask=tile.inside & x.step.there)
    if last_state is not None:
        store_states(last_state, tile.entry, tile, h)
