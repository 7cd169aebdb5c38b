"""One token in the fewest operations of torch, as Mamba layers without a kernel decode."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def state_update(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor
) -> Tensor:
    """One token of the scan with softplus, skip and gate."""
    dt = F.softplus(dt + dt_bias).unsqueeze(-1)
    state.mul_(torch.exp(dt * A)).addcmul_(dt * x.unsqueeze(-1), B.unsqueeze(1))
    return torch.addcmul((state @ C.unsqueeze(-1)).squeeze(-1), D, x) * F.silu(z)


def conv_state_update(x: Tensor, conv_state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One token of the convolution with silu."""
    conv_state.copy_(conv_state.roll(-1, dims=-1))
    conv_state[..., -1] = x
    return F.silu((conv_state * weight).sum(-1) + bias)
