"""Inputs of a decoding step of the convolution, and both results to compare."""

import torch

from tests.transmamba_kernels.sequences import on
from transmamba_kernels import conv_state_update


def make_inputs(
    batch=2,
    d_inner=20,
    length=None,
    width=4,
    entries=None,
    *,
    rows=None,
    circular=False,
    dtype=torch.float32,
    state_dtype=None,
    param_dtype=None,
    without=(),
):
    """``length`` is None for one token without an axis; ``rows`` of the state, picked by an index."""
    param, entries = param_dtype or dtype, width if entries is None else entries
    inputs = {
        "x": torch.randn(*((batch, d_inner) if length is None else (batch, d_inner, length)), dtype=dtype),
        "conv_state": torch.randn(batch if rows is None else rows, d_inner, entries, dtype=state_dtype or dtype),
        "weight": torch.randn(d_inner, width, dtype=param) / width**0.5,
        "bias": torch.randn(d_inner, dtype=param),
        "cache_seqlens": torch.arange(batch, dtype=torch.int32) * 5 + 1 if circular else None,
        "conv_state_indices": None if rows is None else torch.randperm(rows)[:batch],
    }
    return {name: None if name in without else tensor for name, tensor in inputs.items()}


def run(inputs, backend, *, dtype=None, device="cpu", activation="silu"):
    """``out`` and the state after the step; the state of ``inputs`` is left as it is, its strides kept.

    Computed on ``device``; inputs and results are on the CPU.
    """
    given = {
        name: None if t is None else on(device, t if dtype is None or not t.is_floating_point() else t.to(dtype))
        for name, t in inputs.items()
    }
    state = given["conv_state"]
    memory = torch.empty_strided(state.shape, state.stride(), dtype=state.dtype, device=device).copy_(state)
    out = conv_state_update(**{**given, "conv_state": memory}, activation=activation, backend=backend)
    return {"out": out.cpu(), "conv_state": memory.cpu()}
