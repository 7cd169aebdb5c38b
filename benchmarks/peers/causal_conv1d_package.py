"""The causal_conv1d package's CUDA kernels (https://github.com/Dao-AILab/causal-conv1d)."""

from __future__ import annotations

from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from torch import Tensor


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution with silu."""
    return causal_conv1d_fn(x, weight, bias, activation="silu")


def conv_state_update(x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One token of the convolution with silu."""
    return causal_conv1d_update(x, conv_state, weight, bias, "silu")
