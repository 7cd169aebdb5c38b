"""The one table of tolerances: relative to the largest value of the tensor compared, per dtype of the computation.

A float32 recurrence over L steps rounds at every step; a 16-bit output is rounded once, at the end
(by up to 2^-9 of itself in bfloat16 and 2^-12 in float16, and again where a second direction is added to it).
"""

import torch

RELATIVE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}


def assert_close(actual, expected, dtype, name=""):
    """Compare with the float64 ``expected``: largest error over largest value."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if not expected.numel():
        return
    assert torch.isfinite(actual).all(), f"{name} holds values that are not finite"
    scale = expected.abs().max().clamp(min=1e-30)
    error = ((actual.double() - expected.double()).abs().max() / scale).item()
    assert error <= RELATIVE[dtype], f"{name}: relative error {error:.2e}, allowed {RELATIVE[dtype]:.0e}"


def assert_all_close(actual, expected, dtype=None):
    """Compare results by name, all of them; ``dtype`` is the lowest that took part, None each result's own."""
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        assert_close(value, expected[name], value.dtype if dtype is None else dtype, name)
