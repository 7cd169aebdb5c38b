"""Multi-scan in plain PyTorch: one selective scan per direction on permuted tensors, put back and added up."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transmamba_kernels.multi_scan.arguments import directions
from transmamba_kernels.scan_orders import inverse
from transmamba_kernels.selective_scan import reference

Z = 6


def multi_scan(
    tensors: tuple[Any, ...], orders: Tensor, delta_softplus: bool, merge: bool, permute_params: bool
) -> tuple[Tensor, Tensor]:
    """Return ``(out, last_state)``; ``tensors`` are those of the op, from ``u`` to ``initial_state``.

    Shapes are those of :func:`transmamba_kernels.multi_scan`.
    """
    u, z = tensors[0], tensors[Z]
    real = torch.float64 if u.dtype == torch.float64 else torch.float32  # not rounded before the sum
    orders = orders.to(u.device, torch.int64)
    outputs, states = [], []
    scans = zip(orders.unbind(0), inverse(orders).unbind(0), directions(tensors, orders.shape[0]), strict=True)
    for order, back, (u, delta, A, B, C, D, delta_bias, initial_state) in scans:
        if permute_params:
            delta, B, C = (_walk(M, order) for M in (delta, B, C))
        u = _walk(u.to(real), order)
        y, state = reference.selective_scan(u, delta, A, B, C, D, None, delta_bias, initial_state, delta_softplus)
        outputs.append(_walk(y, back))
        states.append(state)

    y = torch.stack(outputs, dim=1)
    if merge:
        y = y.sum(1, keepdim=True)
    if z is not None:
        y = y * F.silu(z.to(real)).unsqueeze(1)
    return (y.squeeze(1) if merge else y).to(tensors[0].dtype), torch.stack(states, dim=1)


def _walk(M: Tensor, order: Tensor) -> Tensor:
    """The tokens of ``M`` in the sequence of ``order``; what is constant over time stays."""
    return M if M.shape[-1] == 1 else M.index_select(-1, order)
