"""The op inside torch, and its errors."""

import pytest
import torch

from tests.transmamba_kernels import inside_torch
from tests.transmamba_kernels.bidirectional_scan.cases import OWN, make_inputs
from transmamba_kernels import bidirectional_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state", *(f"{name}_reverse" for name in OWN))


@pytest.mark.parametrize("merge", ["sum", "none"])
@pytest.mark.parametrize("own", [(), ("A", "B"), OWN], ids=lambda own: "+".join(own) or "shared")
def test_gradcheck(own, merge):
    inputs = make_inputs(2, 3, 4, 2, own=own, dtype=torch.float64)

    def call(*tensors):
        named = dict(zip(inputs, tensors, strict=True))
        return bidirectional_scan(**named, delta_softplus=True, return_last_state=True, merge=merge, backend="cpp")

    assert torch.autograd.gradcheck(call, [t.requires_grad_() for t in inputs.values()])


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("own", [(), ("u", "A"), OWN], ids=lambda own: "+".join(own) or "shared")
def test_opcheck(own, merge):
    inputs = make_inputs(2, 6, 9, 3, own=own)
    tensors = tuple(inputs.get(name) for name in NAMES)
    ops = torch.ops.transmamba
    torch.library.opcheck(ops.bidirectional_scan.default, (*tensors, "cpp", True, merge, True, True))
    out, last_state, checkpoints = ops.bidirectional_scan(*tensors, "cpp", True, merge, True, True)
    upstream = torch.randn_like(out), torch.randn_like(last_state)
    arguments = (*tensors, "cpp", True, merge, checkpoints, *upstream, [t is not None for t in tensors])
    torch.library.opcheck(ops.bidirectional_scan_backward.default, arguments)


@pytest.mark.parametrize("merge", ["sum", "none"])
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("own", [(), OWN], ids=["shared", "own"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic, own, with_state, merge):
    cases = (make_inputs(length=length, own=own) for length in (9, 70))
    options = {"delta_softplus": True, "return_last_state": with_state, "merge": merge}
    inside_torch.check_compiled(bidirectional_scan, cases, dynamic, **options)


def test_functional_gradient():
    inputs = make_inputs(own=("A",))
    inside_torch.check_functional_gradient(bidirectional_scan, inputs, ("u", "A_reverse"), delta_softplus=True)


def test_second_derivative_is_refused():
    inside_torch.check_second_derivative_is_refused(
        bidirectional_scan, make_inputs(), delta_softplus=True, backend="cpp"
    )


def test_one_upstream_gradient():
    for merge in ("sum", "none"):
        inputs = make_inputs()
        u = inputs["u"].requires_grad_()
        _, last_state = bidirectional_scan(**inputs, delta_softplus=True, return_last_state=True, merge=merge)
        last_state[:, 0].sum().backward()
        assert u.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"u": [1.0]}, TypeError, "u must be a tensor, got list"),
        ({"A_reverse": 2.0}, TypeError, "A_reverse must be a tensor, got float"),
        ({"A_reverse": torch.zeros(20, 6)}, ValueError, "B_reverse must have shape|A_reverse must have"),
        ({"B_reverse": torch.zeros(2, 6, 70)}, ValueError, "B_reverse must have shape"),
        ({"C_reverse": torch.zeros(2, 3, 5, 70)}, ValueError, "C_reverse has 3 groups, which must divide"),
        ({"delta_reverse": torch.zeros(2, 20, 71)}, ValueError, "delta_reverse must have shape"),
        ({"D_reverse": torch.zeros(21)}, ValueError, "D_reverse must have shape"),
        ({"delta_bias_reverse": torch.zeros(3, 20)}, ValueError, "delta_bias_reverse must have shape"),
        ({"initial_state_reverse": torch.zeros(2, 5, 20)}, ValueError, "initial_state_reverse must have shape"),
        ({"u_reverse": torch.zeros(2, 20, 69)}, ValueError, "must have shape of u"),
        ({"z": torch.zeros(2, 70, 20)}, ValueError, "z must have shape"),
        ({"merge": "mean"}, ValueError, "merge must be 'sum' or 'none', got 'mean'"),
        ({"delta_softplus": 1}, TypeError, "delta_softplus must be True or False, got 1"),
        (
            {"backend": "cudnn"},
            ValueError,
            "backend must be one of 'cpp', 'cuda', 'triton', 'reference' or None, got 'cudnn'",
        ),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        bidirectional_scan(**{**make_inputs(), **change})


def test_a_backend_that_cannot_says_why():
    inputs = make_inputs()
    with pytest.raises(NotImplementedError, match="A_reverse is complex"):
        bidirectional_scan(**{**inputs, "A_reverse": inputs["A"].to(torch.complex64)}, backend="cpp")


def test_directions_on_different_devices():
    inputs = make_inputs(own=OWN)
    elsewhere = {name: t.to("meta") for name, t in inputs.items() if name.endswith("_reverse")}
    with pytest.raises(ValueError, match="u_reverse must be on the device of u, cpu, got meta"):
        bidirectional_scan(**{**inputs, "z": None, **elsewhere})
