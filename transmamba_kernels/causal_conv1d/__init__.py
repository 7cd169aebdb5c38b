"""Depthwise causal convolution."""

from __future__ import annotations

from torch import Tensor

from transmamba_kernels.causal_conv1d import reference


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    backend: str | None = None,
):
    out, final = reference.causal_conv1d(x, weight, bias, initial_state, activation, reverse)
    return (out, final) if return_final_state else out
