"""Causal convolution on the compiled CPU kernels: allocate the outputs, fill them."""

from __future__ import annotations

import torch
from torch import Tensor

from transmamba_kernels import native
from transmamba_kernels.checks import offsets


def allocate_forward(
    x, weight, bias, initial_state, cu_seqlens, silu, reverse, with_state, for_backward
) -> tuple[Tensor, Tensor | None]:
    """``(out, final_state)``; the latter is None where it is not asked for. The backward pass needs nothing else."""
    final_state = None
    if with_state:
        sequences = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        final_state = x.new_empty((sequences, x.shape[1], weight.shape[1] - 1))
    return torch.empty_like(x), final_state


def forward(
    x, weight, bias, initial_state, cu_seqlens, silu, reverse, with_state, for_backward
) -> tuple[Tensor, Tensor | None]:
    """Run the convolution; shapes as in the public function."""
    packed = None if cu_seqlens is None else offsets(cu_seqlens, x.shape[2])
    outputs = allocate_forward(x, weight, bias, initial_state, cu_seqlens, silu, reverse, with_state, for_backward)
    native.load().causal_conv1d_forward(
        x, weight, bias, initial_state, packed, silu, reverse, torch.get_num_threads(), *outputs
    )
    return outputs


def allocate_backward(
    x, weight, bias, initial_state, cu_seqlens, silu, reverse, dout, dfinal_state, needed
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs that can have one, in their order; None where not needed."""
    tensors = (x, weight, bias, initial_state)
    return tuple(torch.empty_like(t) if n and t is not None else None for t, n in zip(tensors, needed, strict=False))


def backward(
    x, weight, bias, initial_state, cu_seqlens, silu, reverse, dout, dfinal_state, needed
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs that can have one, in their order; None where not needed."""
    tensors = (x, weight, bias, initial_state)
    packed = None if cu_seqlens is None else offsets(cu_seqlens, x.shape[2])
    gradients = allocate_backward(*tensors, cu_seqlens, silu, reverse, dout, dfinal_state, needed)
    threads = torch.get_num_threads()
    native.load().causal_conv1d_backward(*tensors, packed, silu, reverse, threads, dout, dfinal_state, *gradients)
    return gradients
