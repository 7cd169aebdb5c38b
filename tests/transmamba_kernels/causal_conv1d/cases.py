"""Inputs of the causal convolution, and both results to compare."""

import torch

from tests.transmamba_kernels.sequences import sequence
from transmamba_kernels import causal_conv1d


def make_inputs(
    batch=2,
    d_inner=20,
    length=70,
    width=4,
    *,
    layout="channel_last",
    dtype=torch.float32,
    param_dtype=None,
    without=(),
):
    param = dtype if param_dtype is None else param_dtype
    inputs = {
        "x": sequence(batch, d_inner, length, layout, dtype),
        "weight": torch.randn(d_inner, width, dtype=param) / width**0.5,
        "bias": torch.randn(d_inner, dtype=param),
        "initial_state": torch.randn(batch, d_inner, width - 1, dtype=param),
    }
    return {name: None if name in without else tensor for name, tensor in inputs.items()}


def run(inputs, backend, *, dtype=None, activation="silu", reverse=False, upstream_layout="channel_first"):
    """Outputs and every gradient, by name, under random upstream gradients of both outputs."""
    leaves = {
        name: None if t is None else (t.detach() if dtype is None else t.detach().to(dtype)).requires_grad_()
        for name, t in inputs.items()
    }
    out, final_state = causal_conv1d(
        **leaves, activation=activation, return_final_state=True, reverse=reverse, backend=backend
    )
    torch.manual_seed(1)
    dout = sequence(*out.shape, upstream_layout, inputs["x"].dtype)  # not of `dtype`: equal in every comparison
    dfinal_state = torch.randn(final_state.shape, dtype=inputs["x"].dtype)
    torch.autograd.backward((out, final_state), (dout.to(out.dtype), dfinal_state.to(out.dtype)))
    results = {"out": out.detach(), "final_state": final_state.detach()}
    for name, leaf in leaves.items():
        if leaf is not None:
            assert leaf.grad is not None, f"no gradient for {name}"
            assert leaf.grad.dtype == leaf.dtype
            results[f"d{name}"] = leaf.grad
    return results
