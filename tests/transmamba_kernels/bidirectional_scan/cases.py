"""Inputs of the bidirectional scan, and how it is run to compare."""

from tests.transmamba_kernels.differentiate import differentiate
from tests.transmamba_kernels.selective_scan import cases
from transmamba_kernels import bidirectional_scan

OWN = ("u", "delta", "A", "B", "C", "D", "delta_bias", "initial_state")


def make_inputs(*shape, own=OWN, **options):
    """Tensors by name; ``own`` are those that the reverse direction has for itself."""
    inputs = cases.make_inputs(*shape, **options)
    second = cases.make_inputs(*shape, **options)
    return {**inputs, **{f"{name}_reverse": second[name] for name in own}}


def run(inputs, backend, **options):
    """Outputs and every gradient, by name; see :func:`differentiate`."""
    return differentiate(
        bidirectional_scan, inputs, delta_softplus=True, return_last_state=True, backend=backend, **options
    )
