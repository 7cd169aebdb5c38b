"""The field's reference: every step's decay and input at once, then a loop over the steps.

What mamba_ssm's ``selective_scan_ref`` computes (Gu and Dao, https://arxiv.org/abs/2312.00752), in our words, with the
steps taken by ``unbind``: slicing one out at a time has a gradient that is quadratic in the length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """The scan with softplus, skip and gate; ``B`` and ``C`` are ``(batch, d_state, length)``."""
    dt = F.softplus(delta + delta_bias[:, None])
    decays = torch.exp(torch.einsum("bdl,dn->bdln", dt, A))
    inputs = torch.einsum("bdl,bnl,bdl->bdln", dt, B, u)
    h = torch.zeros_like(inputs[:, :, 0])
    outputs = []
    for decay, entering, C_t in zip(decays.unbind(2), inputs.unbind(2), C.unbind(2), strict=True):
        h = decay * h + entering
        outputs.append(torch.einsum("bdn,bn->bd", h, C_t))
    return (torch.stack(outputs, dim=2) + D[:, None] * u) * F.silu(z)
