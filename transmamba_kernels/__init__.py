"""Fast kernels for Mamba: selective scan, causal convolution and their decoding steps, on compiled code of our own."""

from transmamba_kernels.bidirectional_scan import bidirectional_scan
from transmamba_kernels.causal_conv1d import causal_conv1d
from transmamba_kernels.conv_state_update import conv_state_update
from transmamba_kernels.selective_scan import selective_scan
from transmamba_kernels.state_update import state_update

__all__ = ["bidirectional_scan", "causal_conv1d", "conv_state_update", "selective_scan", "state_update"]
