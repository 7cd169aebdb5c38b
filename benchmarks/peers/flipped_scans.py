"""Both directions where there is no reverse scan: two forward scans, the second one on flipped copies."""

from __future__ import annotations

from torch import Tensor

from transmamba_kernels import selective_scan


def bidirectional_scan(u, delta, A, B, C, D, z, delta_bias, A_reverse) -> Tensor:
    """The directions share everything but ``A``."""
    forward = selective_scan(u, delta, A, B, C, D, z, delta_bias, True)
    flipped = (t.flip(-1) for t in (u, delta))
    B, C, z = (t.flip(-1) for t in (B, C, z))
    return forward + selective_scan(*flipped, A_reverse, B, C, D, z, delta_bias, True).flip(-1)
