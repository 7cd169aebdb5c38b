"""Fast kernels for Mamba: selective scan and causal convolution, on compiled code of our own."""

from transmamba_kernels.bidirectional_scan import bidirectional_scan
from transmamba_kernels.causal_conv1d import causal_conv1d
from transmamba_kernels.selective_scan import selective_scan

__all__ = ["bidirectional_scan", "causal_conv1d", "selective_scan"]
