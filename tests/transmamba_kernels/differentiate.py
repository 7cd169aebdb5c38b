"""Run an op and its backward pass, for comparison by name."""

import torch

from tests.transmamba_kernels.sequences import on, sequence


def differentiate(
    op,
    inputs,
    outputs=("out", "last_state"),
    *,
    dtype=None,
    device="cpu",
    upstream_layout="channel_first",
    seed=1,
    **options,
):
    """Outputs and every gradient, by name, under random upstream gradients of all outputs.

    The upstream gradients are numbers of the first input's dtype and the same in every comparison.

    Args:
        op: Called with the inputs and options by name; returns a tuple.
        inputs: Tensors by name, or None; the floating-point ones are differentiated.
        outputs: Names of the results.
        dtype: Compute in this one instead of the inputs' own.
        device: Compute there; inputs and results are on the CPU.
        upstream_layout: Memory layout of the first output's gradient if it is a sequence.
    """
    leaves = {}
    for name, t in inputs.items():
        real = t is not None and t.is_floating_point()
        moved = None if t is None else on(device, t.detach())
        leaves[name] = moved.to(t.dtype if dtype is None else dtype).requires_grad_() if real else moved
    results = dict(zip(outputs, op(**leaves, **options), strict=True))

    given = next(iter(inputs.values())).dtype
    upstream = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i, t in enumerate(results.values()):
            layout = upstream_layout if i == 0 and t.dim() == 3 else None
            gradient = torch.randn(t.shape, dtype=given) if layout is None else sequence(*t.shape, layout, given)
            upstream.append(on(device, gradient.to(t.dtype)))
    torch.autograd.backward(tuple(results.values()), upstream)

    results = {name: t.detach().cpu() for name, t in results.items()}
    for name, leaf in leaves.items():
        if leaf is not None and leaf.requires_grad:
            assert leaf.grad is not None, f"no gradient for {name}"
            assert leaf.grad.dtype == leaf.dtype
            results[f"d{name}"] = leaf.grad.cpu()
    return results
