"""Inputs of a decoding step, and both results to compare."""

import torch

from tests.transmamba_kernels.sequences import on
from transmamba_kernels import state_update


def make_inputs(
    batch=2, channels=(20,), d_state=16, *, groups=None, rows=None, dtype=torch.float32, state_dtype=None, without=()
):
    """``channels`` is ``(d_inner,)`` or ``(heads, head_dim)``; ``rows`` of the state, picked by an index."""

    def random(*shape):
        return torch.randn(*shape, dtype=dtype)

    coefficients = (batch, d_state) if groups is None else (batch, groups, d_state)
    inputs = {
        "state": torch.randn(batch if rows is None else rows, *channels, d_state, dtype=state_dtype or dtype),
        "x": random(batch, *channels),
        "dt": random(batch, *channels),
        "A": -torch.rand(*channels, d_state, dtype=dtype) - 0.1,
        "B": random(*coefficients),
        "C": random(*coefficients),
        "D": random(*channels),
        "z": random(batch, *channels),
        "dt_bias": random(*channels),
    }
    if rows is not None:
        inputs["state_batch_indices"] = torch.randperm(rows)[:batch]
    return {name: None if name in without else tensor for name, tensor in inputs.items()}


def mamba2_inputs(batch=2, heads=6, head_dim=16, d_state=32, groups=2, dtype=torch.float32):
    """A, dt, D and their kin hold one number a head, expanded, as Mamba-2 passes them."""
    inputs = make_inputs(batch, (heads, head_dim), d_state, groups=groups, dtype=dtype)
    inputs["A"] = -torch.rand(heads, dtype=dtype)[:, None, None].expand(heads, head_dim, d_state)
    inputs["dt"] = torch.randn(batch, heads, dtype=dtype)[..., None].expand(batch, heads, head_dim)
    for name in ("D", "dt_bias"):
        inputs[name] = torch.randn(heads, dtype=dtype)[:, None].expand(heads, head_dim)
    return inputs


def run(inputs, backend, *, dtype=None, device="cpu", softplus=True):
    """``out`` and the state after the step; the state of ``inputs`` is left as it is, its strides kept.

    Computed on ``device``; inputs and results are on the CPU.
    """
    given = {
        name: None if t is None else on(device, t if dtype is None or not t.is_floating_point() else t.to(dtype))
        for name, t in inputs.items()
    }
    state = given.pop("state")
    memory = torch.empty_strided(state.shape, state.stride(), dtype=state.dtype, device=device).copy_(state)
    out = state_update(memory, **given, dt_softplus=softplus, backend=backend)
    return {"out": out.cpu(), "state": memory.cpu()}
