"""Bad input ends with one message that names the argument."""

import pytest
import torch

from tests.transmamba_kernels.causal_conv1d.cases import make_inputs
from transmamba_kernels import causal_conv1d


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x must be a tensor, got list"),
        ({"weight": None}, TypeError, "weight must be a tensor, got NoneType"),
        ({"bias": 1.0}, TypeError, "bias must be a tensor or None, got float"),
        ({"x": torch.zeros(2, 20, 70, dtype=torch.int64)}, TypeError, "x must be float32.*got int64"),
        ({"x": torch.zeros(20, 70)}, ValueError, r"x must have shape \(batch, d_inner, length\), got \(20, 70\)"),
        ({"weight": torch.zeros(21, 4)}, ValueError, r"weight must have shape .* d_inner = 20 .*got \(21, 4\)"),
        ({"weight": torch.zeros(20, 0)}, ValueError, "weight must have shape .* width of at least 1"),
        ({"weight": torch.zeros(20, 1, 4)}, ValueError, "weight must have shape"),
        ({"bias": torch.zeros(1, 20)}, ValueError, "bias must have shape"),
        ({"initial_state": torch.zeros(2, 20, 4)}, ValueError, r"initial_state .* width - 1\) = \(2, 20, 3\), got"),
        ({"bias": torch.zeros(20, device="meta")}, ValueError, "bias must be on the device of x, cpu, got meta"),
        ({"activation": "relu"}, ValueError, "activation must be None or 'silu', got 'relu'"),
        ({"activation": True}, ValueError, "activation must be None or 'silu', got True"),
        ({"reverse": None}, TypeError, "reverse must be True or False"),
        ({"return_final_state": 1}, TypeError, "return_final_state must be True or False, got 1"),
        ({"backend": "cudnn"}, ValueError, "backend must be one of 'cpp', 'reference' or None, got 'cudnn'"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        causal_conv1d(**{**make_inputs(), **change})


def test_a_backend_that_cannot_says_why():
    inputs = make_inputs()
    with pytest.raises(NotImplementedError, match="backend 'cpp' cannot run causal_conv1d here.*x is on meta"):
        causal_conv1d(**{k: t.to("meta") for k, t in inputs.items()}, backend="cpp")
    with pytest.raises(NotImplementedError, match="empty"):
        causal_conv1d(**make_inputs(length=0), backend="cpp")
