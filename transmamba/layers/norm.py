"""Normalisation: RMSNorm as Vim has it, LayerNorm as a cloned ViT needs it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    r"""Root-mean-square normalisation over the last dimension, computed in float32 at least.

    .. math:: y = \frac{x}{\sqrt{\operatorname{mean}(x^2) + \epsilon}} \, g

    Eq. 4 of Zhang and Sennrich, "Root Mean Square Layer Normalization" (https://arxiv.org/abs/1910.07467). The weight
    ``g`` has shape ``(d_model,)``; there is no bias. Input and output are ``(..., d_model)``.
    """

    def __init__(self, d_model: int, eps: float = 1e-5, device=None, dtype=None):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"


def create_norm(kind: str, d_model: int, eps: float = 1e-5, device=None, dtype=None) -> RMSNorm | nn.LayerNorm:
    """Return a norm over ``d_model`` channels: ``kind`` is ``"rms"`` (:class:`RMSNorm`) or ``"layer"`` (with bias).

    Raises:
        ValueError: ``kind`` is neither.
    """
    if kind == "rms":
        return RMSNorm(d_model, eps, device=device, dtype=dtype)
    if kind == "layer":
        return nn.LayerNorm(d_model, eps=eps, device=device, dtype=dtype)
    raise ValueError(f"norm must be 'rms' or 'layer', got {kind!r}")
