"""Inputs of the causal convolution, and how it is run to compare."""

import torch

from tests.transmamba_kernels.differentiate import differentiate
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
    sequences=None,
):
    param = dtype if param_dtype is None else param_dtype
    inputs = {
        "x": sequence(batch, d_inner, length, layout, dtype),
        "weight": torch.randn(d_inner, width, dtype=param) / width**0.5,
        "bias": torch.randn(d_inner, dtype=param),
        "initial_state": torch.randn(sequences or batch, d_inner, width - 1, dtype=param),
    }
    return {name: None if name in without else tensor for name, tensor in inputs.items()}


def make_packed(lengths, d_inner=20, **options):
    """Inputs of sequences packed in one row."""
    return make_inputs(1, d_inner, sum(lengths), sequences=len(lengths), **options)


def run(inputs, backend, *, activation="silu", **options):
    """Outputs and every gradient, by name; see :func:`differentiate`."""
    return differentiate(
        causal_conv1d,
        inputs,
        ("out", "final_state"),
        activation=activation,
        return_final_state=True,
        backend=backend,
        **options,
    )


def check_operators(tensors, silu, reverse):
    """``opcheck`` of both passes, with and without the final state; the offsets or None are the last of ``tensors``."""
    convolution, ops = ("cpp", silu, reverse), torch.ops.transmamba
    torch.library.opcheck(ops.causal_conv1d.default, (*tensors, *convolution, True, True))
    torch.library.opcheck(ops.causal_conv1d.default, (*tensors, *convolution, False, False))
    out, final_state = ops.causal_conv1d(*tensors, *convolution, True, True)
    upstream, needed = (torch.randn_like(out), torch.randn_like(final_state)), [t is not None for t in tensors]
    torch.library.opcheck(ops.causal_conv1d_backward.default, (*tensors, *convolution, *upstream, needed))
