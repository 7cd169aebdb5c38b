"""Directions that the compiled CPU kernel runs as one: decays, half of the work, are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transmamba_kernels import native

PARAMETERS = 7  # of the tensors of a direction, (u, delta, A, B, C, D, delta_bias, initial_state)
_GATE = 6  # where the kernels take z


def takes(directions: Sequence[Sequence[Any]], permute: bool) -> bool:
    """Whether the kernel runs these: short, and the same in everything but their order and initial state."""
    first = directions[0][:PARAMETERS]
    shared = all(t is f for other in directions[1:] for t, f in zip(other[:PARAMETERS], first, strict=True))
    return shared and permute and first[0].shape[-1] <= native.load().whole_sequence


def scan_forward(directions: Sequence[Sequence[Any]], z: Tensor | None, orders, softplus, out, last_state) -> None:
    """Fill the outputs; ``orders`` ``(K, length)`` of int32."""
    native.load().multi_scan_forward(
        *_inputs(directions, z), orders, softplus, torch.get_num_threads(), out, last_state
    )


def scan_backward(
    directions: Sequence[Sequence[Any]], z: Tensor | None, orders, softplus, dout, dlast_state, gradients, dz, dstates
) -> None:
    """Fill the gradients that are given.

    Args:
        gradients: Of what the directions share, in the order of a direction's tensors.
        dstates: Of the initial states, ``(batch, K, d_inner, d_state)``.
    """
    native.load().multi_scan_backward(
        *_inputs(directions, z), orders, softplus, torch.get_num_threads(), dout, dlast_state,
        *gradients[:_GATE], dz, *gradients[_GATE:], dstates,
    )  # fmt: skip


def _inputs(directions: Sequence[Sequence[Any]], z: Tensor | None) -> tuple[Tensor | None, ...]:
    first = directions[0]
    return (*first[:_GATE], z, *first[_GATE:PARAMETERS], _initial_states([d[PARAMETERS] for d in directions]))


def _initial_states(states: Sequence[Tensor | None]) -> Tensor | None:
    """``(batch, K, d_inner, d_state)``."""
    first = states[0]
    if first is None:
        return None
    if all(state is first for state in states):
        return first.unsqueeze(1).expand(-1, len(states), -1, -1)
    return torch.stack([state for state in states if state is not None], dim=1)
