"""Fast kernels for Mamba: selective scans, causal convolution, their decoding steps, on compiled code of our own."""

from transmamba_kernels import scan_orders
from transmamba_kernels.bidirectional_scan import bidirectional_scan
from transmamba_kernels.causal_conv1d import causal_conv1d
from transmamba_kernels.conv_state_update import conv_state_update
from transmamba_kernels.cross_mamba import cross_mamba
from transmamba_kernels.multi_scan import multi_scan
from transmamba_kernels.selective_scan import selective_scan
from transmamba_kernels.state_update import state_update

__all__ = [
    "bidirectional_scan",
    "causal_conv1d",
    "conv_state_update",
    "cross_mamba",
    "multi_scan",
    "scan_orders",
    "selective_scan",
    "state_update",
]
