"""Bad input ends with one message that names the argument, and the state stays as it was."""

import pytest
import torch

from tests.transmamba_kernels.state_update.cases import make_inputs
from transmamba_kernels import state_update

INDICES = {"state": torch.zeros(4, 20, 16)}


def indexed(*values, dtype=torch.int64):
    return {**INDICES, "state_batch_indices": torch.tensor(values, dtype=dtype)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"state": None}, TypeError, "state must be a tensor, got NoneType"),
        ({"D": 1.0}, TypeError, "D must be a tensor or None, got float"),
        ({"x": torch.zeros(2, 20, dtype=torch.int64)}, TypeError, "x must be float32.*got int64"),
        ({"state": torch.zeros(2, 16)}, ValueError, r"state must have shape .* got \(2, 16\)"),
        ({"x": torch.zeros(2, 21)}, ValueError, r"x must have shape \(batch, d_inner,\) = \(2, 20\), got \(2, 21\)"),
        ({"x": torch.zeros(2, 20, 1)}, ValueError, "x must have shape"),
        ({"x": torch.tensor(1.0)}, ValueError, "x must have shape"),
        ({"dt": torch.zeros(2, 1)}, ValueError, "dt must have shape of x"),
        ({"A": torch.zeros(20, 15)}, ValueError, r"A must have shape of state, .* = \(20, 16\)"),
        ({"B": torch.zeros(2, 15)}, ValueError, r"B must have shape \(batch, d_state\) = \(2, 16\)"),
        ({"B": torch.zeros(2, 3, 16), "C": torch.zeros(2, 3, 16)}, ValueError, "B has 3 groups, which must divide 20"),
        ({"C": torch.zeros(2, 1, 16)}, ValueError, "C must have shape of B"),
        ({"D": torch.zeros(1, 20)}, ValueError, r"D must have shape \(d_inner,\) = \(20,\)"),
        ({"z": torch.zeros(20)}, ValueError, "z must have shape of x"),
        ({"dt_bias": torch.zeros(2, 20)}, ValueError, "dt_bias must have shape"),
        ({"dt_bias": torch.zeros(20, device="meta")}, ValueError, "dt_bias must be on the device of state, cpu"),
        ({"dt_softplus": 1}, TypeError, "dt_softplus must be True or False, got 1"),
        (
            {"backend": "tpu"},
            ValueError,
            "backend must be one of 'cpp', 'cuda', 'triton', 'reference' or None, got 'tpu'",
        ),
        ({"state": torch.zeros(1, 20, 16).expand(2, 20, 16)}, ValueError, "state is updated in place.*expanded"),
        (INDICES, ValueError, "state has 4 rows for a batch of 2: state_batch_indices must say"),
        ({**INDICES, "state_batch_indices": [0, 1]}, TypeError, "state_batch_indices must be an int32 .* got list"),
        (indexed(0, 1, dtype=torch.int16), TypeError, "state_batch_indices must be an int32 or int64 .* got int16"),
        (indexed(0, 1, 2), ValueError, r"state_batch_indices must have shape \(batch,\) = \(2,\), got \(3,\)"),
        (indexed(0, 4), ValueError, "state_batch_indices must hold rows of the state, from 0 to 3, got 4"),
        (indexed(-1, 0), ValueError, "state_batch_indices must hold rows of the state, from 0 to 3, got -1"),
        (indexed(2, 2), ValueError, "state_batch_indices must hold every row at most once, got 2 2 times"),
    ],
)
@pytest.mark.parametrize("backend", [None, "reference"])
def test_bad_arguments(change, error, message, backend):
    arguments = {**make_inputs(), "backend": backend, **change}
    before = arguments["state"].clone() if isinstance(arguments["state"], torch.Tensor) else None
    with pytest.raises(error, match=message):
        state_update(**arguments)
    if before is not None:
        assert torch.equal(arguments["state"], before)


@pytest.mark.parametrize("name", ["state", "x", "A", "dt_bias"])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_gradients_are_refused(name, backend):
    inputs = make_inputs()
    inputs[name].requires_grad_()
    with pytest.raises(RuntimeError, match=r"for decoding.*torch\.no_grad\(\).*selective_scan"):
        state_update(**inputs, backend=backend)
    with torch.no_grad():
        assert not state_update(**inputs, backend=backend).requires_grad


def test_a_state_that_a_gradient_needs_is_seen_to_have_changed():
    inputs, weight = make_inputs(), torch.ones(1, requires_grad=True)
    product = weight * inputs["state"]
    state_update(**inputs, backend="cpp")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_a_backend_that_cannot_says_why():
    with pytest.raises(NotImplementedError, match="backend 'cpp' cannot run state_update here.*empty"):
        state_update(**make_inputs(0), backend="cpp")
    inputs = {name: t.to("meta") for name, t in make_inputs().items()}
    with pytest.raises(NotImplementedError, match="state is on meta"):
        state_update(**inputs, backend="cpp")
