"""What the tensors of a scan say about it."""

from __future__ import annotations

import torch
from torch import Tensor


def count_groups(B: Tensor, C: Tensor) -> int:
    """Groups of channels that share coefficients."""
    return max(M.shape[1] if M.dim() == 4 else 1 for M in (B, C))


def compute_dtype(u: Tensor) -> torch.dtype:
    """Of states and sums."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32
