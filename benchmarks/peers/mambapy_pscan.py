"""mambapy's parallel scan (https://github.com/alxndrTL/mamba.py), called as its Mamba block calls it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mambapy.pscan import pscan
from torch import Tensor


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """The scan with softplus, skip and gate; ``B`` and ``C`` are ``(batch, d_state, length)``."""
    x, dt = u.transpose(1, 2), F.softplus(delta.transpose(1, 2) + delta_bias)
    decays = torch.exp(dt.unsqueeze(-1) * A)
    inputs = (dt.unsqueeze(-1) * B.transpose(1, 2).unsqueeze(2)) * x.unsqueeze(-1)
    states = pscan(decays, inputs)
    y = (states @ C.transpose(1, 2).unsqueeze(-1)).squeeze(3) + D * x
    return y.transpose(1, 2) * F.silu(z)
