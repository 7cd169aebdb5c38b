"""Inputs of the bidirectional scan, and both results to compare."""

import torch

from tests.transmamba_kernels.selective_scan import cases
from transmamba_kernels import bidirectional_scan

OWN = ("u", "delta", "A", "B", "C", "D", "delta_bias", "initial_state")


def make_inputs(*shape, own=OWN, **options):
    """Tensors by name; ``own`` are those that the reverse direction has for itself."""
    inputs = cases.make_inputs(*shape, **options)
    second = cases.make_inputs(*shape, **options)
    return {**inputs, **{f"{name}_reverse": second[name] for name in own}}


def run(inputs, backend, *, dtype=None, merge="sum", seed=1):
    """Outputs and every gradient, by name, under random upstream gradients of both outputs."""
    leaves = {
        name: None if t is None else (t.detach() if dtype is None else t.detach().to(dtype)).requires_grad_()
        for name, t in inputs.items()
    }
    out, last_state = bidirectional_scan(
        **leaves, delta_softplus=True, return_last_state=True, merge=merge, backend=backend
    )
    generator = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in (out, last_state)]
    torch.autograd.backward((out, last_state), upstream)
    results = {"out": out.detach(), "last_state": last_state.detach()}
    for name, leaf in leaves.items():
        if leaf is not None:
            assert leaf.grad is not None, f"no gradient for {name}"
            assert leaf.grad.dtype == leaf.dtype
            results[f"d{name}"] = leaf.grad
    return results
