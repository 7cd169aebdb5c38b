"""torch's grouped convolution, padded on both sides and cut, as Mamba blocks without a kernel do it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution with silu."""
    padded = F.conv1d(x, weight.unsqueeze(1), bias, padding=weight.shape[1] - 1, groups=x.shape[1])
    return F.silu(padded[..., : x.shape[2]])
