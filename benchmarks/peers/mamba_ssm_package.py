"""mamba_ssm's kernels (https://github.com/state-spaces/mamba): CUDA for the scan, Triton for one token."""

from __future__ import annotations

from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from torch import Tensor


def selective_scan(u, delta, A, B, C, D, z, delta_bias) -> Tensor:
    """The scan with softplus, skip and gate; ``B`` and ``C`` are ``(batch, d_state, length)``."""
    return selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, True)


def bidirectional_scan(u, delta, A, B, C, D, z, delta_bias, A_reverse) -> Tensor:
    """Two scans, the second one on flipped copies, as Vim does it."""
    forward = selective_scan(u, delta, A, B, C, D, z, delta_bias)
    u, delta, B, C, z = (t.flip(-1) for t in (u, delta, B, C, z))
    return forward + selective_scan(u, delta, A_reverse, B, C, D, z, delta_bias).flip(-1)


def state_update(state, x, dt, A, B, C, D, z, dt_bias) -> Tensor:
    """One token of the scan with softplus, skip and gate."""
    return selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, True)
