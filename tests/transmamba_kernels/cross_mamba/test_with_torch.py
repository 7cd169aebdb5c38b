"""The op inside torch, and its errors."""

import pytest
import torch

from tests.tolerances import assert_close
from tests.transmamba_kernels.cross_mamba.cases import make_inputs
from transmamba_kernels import cross_mamba


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("of_last_state", [True, False])
def test_gradcheck(of_last_state, bidirectional):
    inputs = make_inputs(2, 4, 4, 2, image="time", gate=(), dtype=torch.float64)
    if of_last_state:
        inputs["D"] = None
    inputs = {name: t for name, t in inputs.items() if t is not None}

    def call(*tensors):
        named = dict(zip(inputs, tensors, strict=True))
        options = {"bidirectional": bidirectional, "of_last_state": of_last_state}
        return cross_mamba(**named, delta_softplus=True, backend="cpp", **options)

    assert torch.autograd.gradcheck(call, [t.requires_grad_() for t in inputs.values()])


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("of_last_state", [True, False])
def test_compile(of_last_state, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(cross_mamba, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for length in (9, 70):
        inputs = make_inputs(length=length, image="time", gate=())
        if of_last_state:
            inputs["D"] = None
        mask = torch.arange(length).expand(2, -1) < 5
        results = []
        for call in (cross_mamba, compiled):
            leaves = {k: None if t is None else t.detach().clone().requires_grad_() for k, t in inputs.items()}
            out = call(**leaves, mask=mask, delta_softplus=True, of_last_state=of_last_state)
            out.sin().sum().backward()
            results.append({name: leaf.grad for name, leaf in leaves.items() if leaf is not None})
        for name, gradient in results[0].items():
            torch.testing.assert_close(results[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("of_last_state", [True, False])
def test_a_row_of_padding_alone_where_nothing_checks_it(of_last_state):
    """Compiled here, as on a GPU: it reads the initial state."""
    torch._dynamo.reset()
    inputs = make_inputs(length=9, without=("D", "z"))
    compiled = torch.compile(cross_mamba, fullgraph=True, backend="aot_eager")
    out = compiled(**inputs, mask=torch.zeros(2, 9).bool(), delta_softplus=True, of_last_state=of_last_state)
    read = 2 * inputs["initial_state"].double() @ inputs["C_text"].double()  # by both directions
    assert_close(out, read.expand(out.shape), torch.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"u": [1.0]}, TypeError, "u must be a tensor, got list"),
        ({"C_text": None}, ValueError, "C_text or C must be given"),
        ({"C_text": 1.0}, TypeError, "C_text must be a tensor or None, got float"),
        ({"C_text": torch.zeros(2, 6, 1)}, ValueError, "C_text must have shape"),
        ({"C_text": torch.zeros(2, 5, 69)}, ValueError, "C_text must have shape"),
        ({"gate": torch.zeros(())}, ValueError, "gate weighs C_text against C, but C is not given"),
        ({"gate": torch.zeros(3), "C": torch.zeros(2, 5, 70)}, ValueError, r"gate must have shape .* got \(3,\)"),
        ({"C": torch.zeros(2, 6, 70)}, ValueError, "C and C_text must agree"),
        ({"initial_state": torch.zeros(2, 5, 20)}, ValueError, "initial_state must have shape"),
        ({"mask": [True]}, TypeError, "mask must be a tensor of bool, got list"),
        ({"mask": torch.ones(2, 70)}, TypeError, "mask must be a tensor of bool, got float32"),
        ({"mask": torch.ones(2, 69, dtype=torch.bool)}, ValueError, r"mask must have shape \(batch, length\)"),
        ({"mask": torch.ones(2, 70, device="meta").bool()}, ValueError, "mask must be on the device of u, cpu"),
        (
            {"mask": torch.tensor([[True], [False]]).expand(2, 70)},
            ValueError,
            "mask must leave at least one token in every row, but row 1 is all False",
        ),
        ({"of_last_state": True}, ValueError, "D must be None with of_last_state"),
        ({"of_last_state": True, "D": None, "z": torch.zeros(2, 20, 3)}, ValueError, "z must have shape"),
        ({"of_last_state": True, "D": None, "C_text": torch.zeros(2, 6, 3)}, ValueError, "C_text must have shape"),
        ({"bidirectional": 1}, TypeError, "bidirectional must be True or False, got 1"),
        (
            {"backend": "cudnn"},
            ValueError,
            "backend must be one of 'cpp', 'cuda', 'triton', 'reference' or None, got 'cudnn'",
        ),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        cross_mamba(**{**make_inputs(), **change})
