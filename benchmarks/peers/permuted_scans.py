"""Four directions where there is no scan over orders: a selective scan each, on copies picked out in its order."""

from __future__ import annotations

import torch
from torch import Tensor

from transmamba_kernels import selective_scan


def multi_scan(u, delta, A, B, C, D, z, delta_bias, orders) -> Tensor:
    """Everything but ``u`` and ``z`` is shared, or has an axis of directions."""
    own = A.dim() == 3
    total = None
    for k, order in enumerate(orders):
        dt, b, c = (t[:, k] if own else t for t in (delta, B, C))
        a, d, bias = (t[k] if own else t for t in (A, D, delta_bias))
        picked = (t.index_select(2, order) for t in (u, dt))
        b, c = b.index_select(2, order), c.index_select(2, order)
        y = selective_scan(*picked, a, b, c, d, None, bias, True).index_select(2, order.argsort())
        total = y if total is None else total + y
    return total * torch.nn.functional.silu(z)
