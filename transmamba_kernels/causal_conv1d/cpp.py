"""Causal convolution on the compiled CPU kernels: allocate the outputs, fill them."""

from __future__ import annotations

import torch
from torch import Tensor

from transmamba_kernels import native


def allocate_forward(
    x, weight, bias, initial_state, silu, reverse, with_state, for_backward
) -> tuple[Tensor, Tensor | None]:
    """``(out, final_state)``; the latter is None where it is not asked for. The backward pass needs nothing else."""
    final_state = x.new_empty((x.shape[0], x.shape[1], weight.shape[1] - 1)) if with_state else None
    return torch.empty_like(x), final_state


def forward(x, weight, bias, initial_state, silu, reverse, with_state, for_backward) -> tuple[Tensor, Tensor | None]:
    """Run the convolution; shapes as in the public function."""
    outputs = allocate_forward(x, weight, bias, initial_state, silu, reverse, with_state, for_backward)
    native.load().causal_conv1d_forward(
        x, weight, bias, initial_state, silu, reverse, torch.get_num_threads(), *outputs
    )
    return outputs


def allocate_backward(
    x, weight, bias, initial_state, silu, reverse, dout, dfinal_state, needed
) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs, in their order; None where not needed."""
    tensors = (x, weight, bias, initial_state)
    return tuple(torch.empty_like(t) if n and t is not None else None for t, n in zip(tensors, needed, strict=True))


def backward(x, weight, bias, initial_state, silu, reverse, dout, dfinal_state, needed) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs, in their order; None where not needed."""
    gradients = allocate_backward(x, weight, bias, initial_state, silu, reverse, dout, dfinal_state, needed)
    native.load().causal_conv1d_backward(
        x, weight, bias, initial_state, silu, reverse, torch.get_num_threads(), dout, dfinal_state, *gradients
    )
    return gradients
