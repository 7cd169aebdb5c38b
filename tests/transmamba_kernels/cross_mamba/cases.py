"""Inputs of the cross-Mamba scan, and how it is run to compare."""

import torch

from tests.transmamba_kernels.differentiate import differentiate
from tests.transmamba_kernels.selective_scan import cases
from tests.transmamba_kernels.selective_scan.cases import coefficients
from transmamba_kernels import cross_mamba


def make_inputs(*shape, text="constant", image=None, gate=None, **options):
    """Tensors by name.

    Args:
        text, image: Kind of ``C_text`` and of ``C``, as in the selective scan's cases, or None.
        gate: Its shape, or None.
    """
    inputs = cases.make_inputs(*shape, **options)
    batch, d_inner, length = inputs["u"].shape
    d_state, dtype = inputs["A"].shape[1], inputs["u"].dtype

    def reader(kind):
        return None if kind is None else coefficients(kind, batch, d_inner, d_state, length, 2, dtype=dtype)

    inputs["C_text"], inputs["C"] = reader(text), reader(image)
    inputs["gate"] = None if gate is None else torch.randn(gate, dtype=torch.float64).to(dtype)
    return inputs


def run(inputs, backend, *, device="cpu", **options):
    """Output and every gradient, by name; see :func:`differentiate`."""

    def call(**tensors):
        return (cross_mamba(**tensors, delta_softplus=True, backend=backend, **options),)

    return differentiate(call, inputs, ("out",), dtype=torch.float64 if backend == "reference" else None, device=device)
