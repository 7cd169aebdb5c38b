"""Selective scan (S6): the recurrence at the heart of Mamba."""

from __future__ import annotations

from torch import Tensor

from transmamba_kernels.selective_scan import reference


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    reverse: bool = False,
    backend: str | None = None,
):
    out, last_state = reference.selective_scan(
        u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, reverse
    )
    return (out, last_state) if return_last_state else out
