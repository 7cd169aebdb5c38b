"""A text that takes part in a scan of an image where the scan reads one sequence: joined in front, cut off again."""

from __future__ import annotations

import torch
from torch import Tensor

from transmamba_kernels import selective_scan


def cross_mamba(u, delta, A, B, C, D, z, delta_bias, text_u, text_delta, text_B, text_C) -> Tensor:
    """Both directions over text and image, the second one on flipped copies; the image's outputs are kept."""
    u, delta = torch.cat([text_u, u], dim=-1), torch.cat([text_delta, delta], dim=-1)
    B, C = torch.cat([text_B, B], dim=-1), torch.cat([text_C, C], dim=-1)
    forward = selective_scan(u, delta, A, B, C, D, None, delta_bias, True)
    flipped = (t.flip(-1) for t in (u, delta))
    backward = selective_scan(*flipped, A, B.flip(-1), C.flip(-1), D, None, delta_bias, True).flip(-1)
    return (forward + backward)[..., text_u.shape[-1] :] * torch.nn.functional.silu(z)
