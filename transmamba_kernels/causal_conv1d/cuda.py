"""Causal convolution on the compiled CUDA kernels: allocate the outputs, fill them."""

from __future__ import annotations

import torch
from torch import Tensor

from transmamba_kernels import native
from transmamba_kernels.causal_conv1d.cpp import allocate_backward, allocate_forward
from transmamba_kernels.checks import device_offsets

__all__ = ["allocate_backward", "allocate_forward", "backward", "forward"]


def forward(
    x, weight, bias, initial_state, cu_seqlens, silu, reverse, with_state, for_backward
) -> tuple[Tensor, Tensor | None]:
    """Run the convolution; shapes as in the public function."""
    packed = None if cu_seqlens is None else device_offsets(cu_seqlens, x.device, x.shape[2])
    outputs = allocate_forward(x, weight, bias, initial_state, cu_seqlens, silu, reverse, with_state, for_backward)
    native.load_cuda().causal_conv1d_forward(
        x, weight, bias, initial_state, packed, silu, reverse, *native.cuda_stream(x.device), *outputs
    )
    return outputs


def backward(
    x, weight, bias, initial_state, cu_seqlens, silu, reverse, dout, dfinal_state, needed
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs that can have one, in their order; None where not needed."""
    tensors = (x, weight, bias, initial_state)
    packed = None if cu_seqlens is None else device_offsets(cu_seqlens, x.device, x.shape[2])
    gradients = allocate_backward(*tensors, cu_seqlens, silu, reverse, dout, dfinal_state, needed)
    module, partial = native.load_cuda(), None
    if gradients[1] is not None or gradients[2] is not None:
        parts = module.causal_conv1d_parts(*x.shape)
        partial = x.new_empty((parts, weight.shape[1] + 1, x.shape[1]), dtype=torch.float32)
    where = native.cuda_stream(x.device)
    module.causal_conv1d_backward(*tensors, packed, silu, reverse, *where, dout, dfinal_state, *gradients, partial)
    return gradients
