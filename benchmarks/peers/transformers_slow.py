"""What transformers runs where no kernel is installed: a scan that slices its steps out one by one, and one token."""

from __future__ import annotations

from torch import Tensor
from transformers.models.mamba import modeling_mamba as mamba


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """The scan with softplus, skip and gate; ``B`` and ``C`` are ``(batch, d_state, length)``."""
    return mamba.mamba_selective_scan(u, delta, A, B, C, D, z=z, delta_bias=delta_bias, delta_softplus=True)


def state_update(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor
) -> Tensor:
    """One token of the scan with softplus, skip and gate."""
    return mamba.mamba_selective_state_update(state, x, dt, A, B, C, D, dt_bias=dt_bias, dt_softplus=True, z=z)


def conv_state_update(x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One token of the convolution with silu."""
    return mamba.causal_conv1d_update(x.unsqueeze(-1), conv_state, weight, bias, "silu").squeeze(-1)
