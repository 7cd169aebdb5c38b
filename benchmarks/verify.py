"""Correctness before speed: outputs and gradients of a variant beside those of the float64 reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Largest error over largest value, per dtype of the inputs. In float32 looser than the tests', which hold our own
# kernels to 2e-5: a peer may sum in any order. In 16 bits what counts is the rounding of each output.
ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-3}


def largest_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The worst relative error over all tensors; infinite where shapes differ or a value is not finite."""
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        if a.shape != e.shape or not torch.isfinite(a).all():
            return float("inf")
        scale = e.abs().max().clamp(min=1e-30)
        worst = max(worst, ((a.double() - e.double()).abs().max() / scale).item())
    return worst


def step(call, inputs: Sequence[Tensor], upstream: Tensor | None) -> list[Tensor]:
    """One forward of ``call(*inputs)`` without gradients or, given ``upstream``, one training step."""
    if upstream is None:
        with torch.no_grad():
            return [call(*inputs)]
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = call(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]
