"""The scan that transformers runs where no kernel is installed: a loop that slices the steps out one by one."""

from __future__ import annotations

from torch import Tensor
from transformers.models.mamba.modeling_mamba import mamba_selective_scan


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """The scan with softplus, skip and gate; ``B`` and ``C`` are ``(batch, d_state, length)``."""
    return mamba_selective_scan(u, delta, A, B, C, D, z=z, delta_bias=delta_bias, delta_softplus=True)
