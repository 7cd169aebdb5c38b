"""Inputs of the selective scan, and how it is run to compare."""

import torch

from tests.transmamba_kernels.differentiate import differentiate
from tests.transmamba_kernels.sequences import sequence
from transmamba_kernels import selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


def coefficients(kind, batch, d_inner, d_state, length, groups=1, layout="channel_last", dtype=torch.float32):
    """B or C: ``"time"``, ``"groups"``, ``"constant"``, ``"constant_groups"`` or ``"channel"``."""
    if kind == "channel":
        return torch.randn(d_inner, d_state, dtype=dtype)
    steps = 1 if kind.startswith("constant") else length
    if kind.endswith("groups"):
        flat = sequence(batch, groups * d_state, steps, layout, dtype)
        return flat.unflatten(1, (groups, d_state))
    return sequence(batch, d_state, steps, layout, dtype)


def make_inputs(
    batch=2,
    d_inner=20,
    length=70,
    d_state=5,
    *,
    groups=1,
    layout="channel_last",
    dtype=torch.float32,
    param_dtype=None,
    B_kind="time",
    C_kind="time",
    per_sample_bias=False,
    without=(),
    sequences=None,
):
    param = dtype if param_dtype is None else param_dtype
    inputs = {
        "u": sequence(batch, d_inner, length, layout, dtype),
        "delta": sequence(batch, d_inner, length, layout, dtype),
        "A": -torch.rand(d_inner, d_state, dtype=param) - 0.1,
        "B": coefficients(B_kind, batch, d_inner, d_state, length, groups, layout, dtype),
        "C": coefficients(C_kind, batch, d_inner, d_state, length, groups, layout, dtype),
        "D": torch.randn(d_inner, dtype=param),
        "z": sequence(batch, d_inner, length, layout, dtype),
        "delta_bias": torch.randn((batch, d_inner) if per_sample_bias else (d_inner,), dtype=param),
        "initial_state": torch.randn(sequences or batch, d_inner, d_state, dtype=param),
    }
    return {name: None if name in without else tensor for name, tensor in inputs.items()}


def make_packed(lengths, d_inner=20, d_state=5, **options):
    """Inputs of sequences packed in one row."""
    return make_inputs(1, d_inner, sum(lengths), d_state, sequences=len(lengths), **options)


def run(inputs, backend, *, softplus=True, **options):
    """Outputs and every gradient, by name; see :func:`differentiate`."""
    return differentiate(
        selective_scan, inputs, delta_softplus=softplus, return_last_state=True, backend=backend, **options
    )


def check_operators(tensors, reverse):
    """``opcheck`` of both passes, with and without what a backward pass needs."""
    scan, ops = ("cpp", True, reverse), torch.ops.transmamba
    torch.library.opcheck(ops.selective_scan.default, (*tensors, *scan, True, True))
    torch.library.opcheck(ops.selective_scan.default, (*tensors, *scan, False, False))
    out, last_state, checkpoints = ops.selective_scan(*tensors, *scan, True, True)
    upstream, needed = (torch.randn_like(out), torch.randn_like(last_state)), [t is not None for t in tensors]
    torch.library.opcheck(ops.selective_scan_backward.default, (*tensors, *scan, checkpoints, *upstream, needed))
