"""torch's own prototype of a parallel scan, over pairs of decay and input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.associative_scan import associative_scan


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """The scan with softplus, skip and gate; ``B`` and ``C`` are ``(batch, d_state, length)``."""
    dt = F.softplus(delta + delta_bias[:, None])
    decays = torch.exp(dt.unsqueeze(-1) * A[:, None])
    inputs = (dt * u).unsqueeze(-1) * B.transpose(1, 2).unsqueeze(1)
    _, states = associative_scan(_combine, (decays, inputs), dim=2, combine_mode="generic")
    y = torch.einsum("bdln,bnl->bdl", states, C)
    return (y + D[:, None] * u) * F.silu(z)


def _combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return left[0] * right[0], right[0] * left[1] + right[1]
