"""Bidirectional scan in plain PyTorch: two selective scans, one from each end, and their sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transmamba_kernels.selective_scan import reference


def bidirectional_scan(
    forward: tuple[Any, ...], reverse: tuple[Any, ...], delta_softplus: bool, merge: bool
) -> tuple[Tensor, Tensor]:
    """Return ``(out, last_state)``; ``forward`` and ``reverse`` are the tensors of one selective scan each.

    Shapes are those of :func:`transmamba_kernels.bidirectional_scan`.
    """
    results = [
        reference.selective_scan(*tensors, delta_softplus, backwards)  # type: ignore[call-arg]
        for tensors, backwards in ((forward, False), (reverse, True))
    ]
    out, last_state = (torch.stack(pair, dim=1) for pair in zip(*results, strict=True))
    return out.sum(1) if merge else out, last_state
