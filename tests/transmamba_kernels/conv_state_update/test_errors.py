"""Bad input ends with one message that names the argument, and the state stays as it was."""

import pytest
import torch

from tests.transmamba_kernels.conv_state_update.cases import make_inputs
from transmamba_kernels import conv_state_update

ROWS = {"conv_state": torch.zeros(4, 20, 4)}


def indexed(*values, dtype=torch.int64):
    return {**ROWS, "conv_state_indices": torch.tensor(values, dtype=dtype)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": None}, TypeError, "x must be a tensor, got NoneType"),
        ({"bias": 1.0}, TypeError, "bias must be a tensor or None, got float"),
        ({"x": torch.zeros(2, 20, dtype=torch.int64)}, TypeError, "x must be float32.*got int64"),
        ({"x": torch.zeros(20)}, ValueError, r"x must have shape .* got \(20,\)"),
        ({"weight": torch.zeros(20, 0)}, ValueError, "weight must have shape .* width of at least 1"),
        ({"weight": torch.zeros(21, 4)}, ValueError, r"weight must have shape .* got \(21, 4\)"),
        ({"conv_state": torch.zeros(2, 20, 2)}, ValueError, r"conv_state .* at least 3 entries, got \(2, 20, 2\)"),
        ({"conv_state": torch.zeros(2, 21, 4)}, ValueError, "conv_state must have shape"),
        ({"conv_state": torch.zeros(20, 4)}, ValueError, "conv_state must have shape"),
        ({"bias": torch.zeros(1, 20)}, ValueError, "bias must have shape"),
        ({"bias": torch.zeros(20, device="meta")}, ValueError, "bias must be on the device of x, cpu, got meta"),
        ({"activation": "relu"}, ValueError, "activation must be None or 'silu', got 'relu'"),
        (
            {"backend": "tpu"},
            ValueError,
            "backend must be one of 'cpp', 'cuda', 'triton', 'reference' or None, got 'tpu'",
        ),
        ({"conv_state": torch.zeros(1, 20, 4).expand(2, 20, 4)}, ValueError, "conv_state is updated in place"),
        ({"cache_seqlens": torch.zeros(2)}, TypeError, "cache_seqlens must be an int32 .* got float32"),
        ({"cache_seqlens": torch.zeros(3, dtype=torch.int32)}, ValueError, "cache_seqlens must have shape"),
        ({"cache_seqlens": torch.tensor([3, -1])}, ValueError, "cache_seqlens must not be negative, got -1"),
        (ROWS, ValueError, "conv_state has 4 rows for a batch of 2: conv_state_indices must say"),
        (indexed(0, 1, dtype=torch.uint8), TypeError, "conv_state_indices must be an int32 .* got uint8"),
        (indexed(0), ValueError, r"conv_state_indices must have shape \(batch,\) = \(2,\), got \(1,\)"),
        (indexed(0, 4), ValueError, "conv_state_indices must hold rows of the state, from 0 to 3, got 4"),
        (indexed(-1, 0), ValueError, "conv_state_indices must hold rows of the state, from 0 to 3, got -1"),
        (indexed(2, 2), ValueError, "conv_state_indices must hold every row at most once, got 2 2 times"),
    ],
)
@pytest.mark.parametrize("backend", [None, "reference"])
def test_bad_arguments(change, error, message, backend):
    arguments = {**make_inputs(), "backend": backend, **change}
    before = arguments["conv_state"].clone()
    with pytest.raises(error, match=message):
        conv_state_update(**arguments)
    assert torch.equal(arguments["conv_state"], before)


@pytest.mark.parametrize("name", ["x", "conv_state", "weight", "bias"])
def test_gradients_are_refused(name):
    inputs = make_inputs()
    inputs[name].requires_grad_()
    with pytest.raises(RuntimeError, match=r"for decoding.*torch\.no_grad\(\).*causal_conv1d"):
        conv_state_update(**inputs)
    with torch.no_grad():
        assert not conv_state_update(**inputs).requires_grad


def test_a_state_that_a_gradient_needs_is_seen_to_have_changed():
    inputs, weight = make_inputs(), torch.ones(1, requires_grad=True)
    product = weight * inputs["conv_state"]
    conv_state_update(**inputs, backend="cpp")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_a_backend_that_cannot_says_why():
    with pytest.raises(NotImplementedError, match="backend 'cpp' cannot run conv_state_update here.*empty"):
        conv_state_update(**make_inputs(0), backend="cpp")
