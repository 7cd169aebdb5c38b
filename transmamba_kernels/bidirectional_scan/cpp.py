"""Bidirectional scan on the compiled CPU kernels: the second direction adds to the first and gates both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transmamba_kernels import native
from transmamba_kernels.selective_scan.cpp import (
    allocate_checkpoints,
    allocate_gradients,
    compute_dtype,
    fill_gradients,
    finish,
)

SCAN = 9  # tensors of one scan, z among them
Z = 6
ADDED = (0, 1, Z)  # u, delta, z: one value a time step, so that shared gradients are added up in the kernel


def split(tensors: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The tensors of each direction: what the reverse one does not have of its own it shares."""
    forward, own = tensors[:SCAN], list(tensors[SCAN:])
    own.insert(Z, None)  # the gate is always shared
    return forward, tuple(f if o is None else o for f, o in zip(forward, own, strict=True))


def allocate_forward(*arguments) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """``(out, last_state, checkpoints, checkpoints_reverse)``; the latter three are None where not asked for."""
    *tensors, _softplus, merge, with_state, for_backward = arguments
    forward, reverse = split(tuple(tensors))
    u, _, A = forward[:3]
    batch, d_inner, length = u.shape
    if merge:
        out = torch.empty_like(u)
    elif u.stride(1) == 1:  # channel-last stays channel-last
        out = u.new_empty((batch, 2, length, d_inner)).transpose(2, 3)
    else:
        out = u.new_empty((batch, 2, d_inner, length))
    last_state = u.new_empty((batch, 2, d_inner, A.shape[1]), dtype=compute_dtype(u)) if with_state else None
    if not for_backward:
        return out, last_state, None, None
    one, two = (allocate_checkpoints(t[0], t[2], t[3], t[4]) for t in (forward, reverse))
    return out, last_state, one, two


def forward(*arguments) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Run both scans; shapes as in the public function, arguments as in the operator's schema."""
    *tensors, softplus, merge, _with_state, _for_backward = arguments
    outputs = allocate_forward(*arguments)
    out, last_state, *checkpoints = outputs
    run, threads = native.load().selective_scan_forward, torch.get_num_threads()
    sides = split(tuple(tensors))
    states = (None, None) if last_state is None else last_state.unbind(1)
    if merge:
        # Not gated and not rounded between the directions; where it has the right type the result's memory serves.
        real = compute_dtype(out)
        y = out if out.dtype == real else torch.empty_like(out, dtype=real)
        first = (*sides[0][:Z], None, *sides[0][Z + 1 :])
        run(*first, softplus, False, threads, y, states[0], checkpoints[0], None)
        run(*sides[1], softplus, True, threads, out, states[1], checkpoints[1], y)
    else:
        for k, side in enumerate(sides):
            run(*side, softplus, k == 1, threads, out[:, k], states[k], checkpoints[k], None)
    return outputs


def allocate_backward(*arguments) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operator's tensors; None where not needed."""
    tensors, needed = arguments[: 2 * SCAN - 1], arguments[-1]
    forward, reverse = split(tensors)
    return _joined(
        finish(forward, allocate_gradients(forward, needed[:SCAN])),
        finish(reverse, allocate_gradients(reverse, _needed_reverse(needed))),
    )


def backward(*arguments) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operator's tensors; None where not needed."""
    *tensors, softplus, merge, checkpoints, checkpoints_reverse, dout, dlast_state, needed = arguments
    sides = split(tuple(tensors))
    douts = (dout, dout) if merge else dout.unbind(1)
    dstates = (None, None) if dlast_state is None else dlast_state.unbind(1)
    shared = [own is None for own in tensors[SCAN:]]
    shared.insert(Z, True)

    filled = allocate_gradients(sides[0], needed[:SCAN])
    fill_gradients(sides[0], softplus, False, checkpoints, douts[0], dstates[0], filled)
    needed_reverse = [n if s else o for n, s, o in zip(needed[:SCAN], shared, _needed_reverse(needed), strict=True)]
    add = [shared[at] and filled[at] is not None for at in ADDED]
    for at, added in zip(ADDED, add, strict=True):
        needed_reverse[at] = needed_reverse[at] and not added
    filled_reverse = allocate_gradients(sides[1], needed_reverse)
    for at, added in zip(ADDED, add, strict=True):
        if added:
            filled_reverse[at] = filled[at]
    fill_gradients(sides[1], softplus, True, checkpoints_reverse, douts[1], dstates[1], filled_reverse, add)
    gradients = list(finish(sides[0], filled))
    own = list(finish(sides[1], filled_reverse))
    for at in range(SCAN):
        if shared[at]:
            one, two = gradients[at], own[at]
            if one is not None and two is not None and filled[at] is not filled_reverse[at]:
                gradients[at] = one + two
            own[at] = None
    return _joined(tuple(gradients), tuple(own))


def _needed_reverse(needed: list[bool]) -> list[bool]:
    own = list(needed[SCAN:])
    own.insert(Z, False)
    return own


def _joined(forward: tuple[Tensor | None, ...], reverse: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return (*forward, *reverse[:Z], *reverse[Z + 1 :])
