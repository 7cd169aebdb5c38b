"""The ops on GPU backends inside torch: opcheck, compile, autocast, and what they refuse."""

import pytest
import torch

from tests.gpu.operators import ALL, SEQUENCES, STEPS
from tests.tolerances import assert_close
from tests.transmamba_kernels import inside_torch
from transmamba_kernels import selective_scan

OPERATORS = torch.ops.transmamba
NAMES_OF_BIDIRECTIONAL = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
NAMES_OF_BIDIRECTIONAL += tuple(f"{name}_reverse" for name in NAMES_OF_BIDIRECTIONAL if name != "z")


def operator(op, backend, tensors, options, count):
    """Check the operator of an op, then the one of its backward pass.

    Args:
        tensors: In the order of the schema, the ones that have no gradient last.
        options: Between the backend's name and the flags that say what is asked for.
        count: Of the tensors that have a gradient.
    """
    forward, backward = getattr(OPERATORS, op), getattr(OPERATORS, f"{op}_backward")
    arguments = (*tensors, backend, *options)
    torch.library.opcheck(forward.default, (*arguments, True, True))
    out, state, *kept = forward(*arguments, True, True)
    upstream = torch.randn_like(out), torch.randn_like(state)
    needed = [t is not None for t in tensors[:count]]
    torch.library.opcheck(backward.default, (*arguments, *kept, *upstream, needed))


def test_opcheck_selective_scan(target):
    tensors = (*SEQUENCES["selective_scan"].inputs(target.device).values(), None)
    operator("selective_scan", target.backend, tensors, (True, False), 9)


def test_opcheck_bidirectional_scan(target):
    inputs = SEQUENCES["bidirectional_scan"].inputs(target.device)
    tensors = tuple(inputs.get(name) for name in NAMES_OF_BIDIRECTIONAL)
    operator("bidirectional_scan", target.backend, tensors, (True, True), 17)


def test_opcheck_multi_scan(target):
    inputs = SEQUENCES["multi_scan"].inputs(target.device)
    orders = inputs.pop("orders")
    operator("multi_scan", target.backend, (*inputs.values(), orders), (True, True, True), 9)


def test_opcheck_causal_conv1d(target):
    tensors = (*SEQUENCES["causal_conv1d"].inputs(target.device).values(), None)
    operator("causal_conv1d", target.backend, tensors, (True, False), 4)


@pytest.mark.parametrize("name", STEPS)
def test_opcheck_one_token(target, name):
    inputs = STEPS[name].inputs(target.device)
    if name.startswith("state_update"):
        inputs.setdefault("state_batch_indices", None)
    chosen = getattr(OPERATORS, STEPS[name].function.__name__)
    torch.library.opcheck(chosen.default, (*inputs.values(), target.backend, True))


@pytest.mark.parametrize("name", [name for name in SEQUENCES if "," not in name])
def test_compile(target, name):
    op = SEQUENCES[name]
    cases = (op.inputs(target.device, length) for length in (3, 5))
    inside_torch.check_compiled(op.function, cases, dynamic=True, backend=target.backend, **op.options)


@pytest.mark.parametrize("name", SEQUENCES)
def test_compile_without_gradients(target, name):
    op, options = SEQUENCES[name], {"backend": target.backend, **SEQUENCES[name].options}
    torch._dynamo.reset()
    inputs = op.inputs(target.device)
    with torch.no_grad():
        results = torch.compile(op.function, fullgraph=True, backend="aot_eager")(**inputs, **options)
        expected = op.function(**inputs, **options)
    for actual, one in zip(*((t,) if torch.is_tensor(t) else t for t in (results, expected)), strict=True):
        assert torch.equal(actual, one)


@pytest.mark.parametrize("name", STEPS)
def test_compile_one_token(target, name):
    op, options = STEPS[name], {"backend": target.backend, **STEPS[name].options}
    torch._dynamo.reset()
    compiled = torch.compile(op.function, fullgraph=True, backend="aot_eager", dynamic=True)
    inputs = op.inputs(target.device)
    results = []
    for call in (op.function, compiled):
        given = {**inputs, op.state: inputs[op.state].clone()}
        results.append((call(**given, **options), given[op.state]))
    for eager, one in zip(*results, strict=True):
        assert torch.equal(eager, one)
    assert not torch.equal(results[0][1], inputs[op.state])


def test_autocast(target):
    layer = torch.nn.Linear(4, 4, device=target.device)
    op = SEQUENCES["selective_scan"]
    inputs = {**op.inputs(target.device), "initial_state": None}
    with torch.autocast(target.device, dtype=torch.bfloat16):
        u = layer(inputs["u"].transpose(1, 2)).transpose(1, 2)
        out = selective_scan(**{**inputs, "u": u}, delta_softplus=True, backend=target.backend)
    assert u.dtype == out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.weight.grad.isfinite().all()
    expected = selective_scan(**{**inputs, "u": u.detach().double()}, delta_softplus=True, backend="reference")
    assert_close(out.detach(), expected.double(), torch.bfloat16)


def test_functional_gradient(target):
    inputs = SEQUENCES["selective_scan"].inputs(target.device)
    inside_torch.check_functional_gradient(
        selective_scan, inputs, ("u", "A"), delta_softplus=True, backend=target.backend
    )


@pytest.mark.parametrize("name", SEQUENCES)
def test_second_derivative_is_refused(target, name):
    op = SEQUENCES[name]
    options = {key: value for key, value in op.options.items() if not key.startswith("return_")}
    inputs = op.inputs(target.device)
    inside_torch.check_second_derivative_is_refused(op.function, inputs, backend=target.backend, **options)


@pytest.mark.parametrize("name", ALL)
def test_float64_is_refused(target, name):
    op = ALL[name]
    inputs = op.inputs(target.device, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="takes float32, bfloat16 and float16, .* is float64"):
        op.function(**inputs, backend=target.backend, **op.options)


@pytest.mark.parametrize("name", ALL)
def test_tensors_on_another_device_are_refused(target, name):
    op = ALL[name]
    inputs = op.inputs("meta" if target.device == "cpu" else "cpu")
    with pytest.raises(NotImplementedError, match="runs on (a GPU|the CPU, in emulation), .* is on (meta|cpu)"):
        op.function(**inputs, backend=target.backend, **op.options)


def test_complex_is_refused(target):
    inputs = SEQUENCES["selective_scan"].inputs(target.device)
    with pytest.raises(NotImplementedError, match="A is complex"):
        selective_scan(**{**inputs, "A": inputs["A"].to(torch.complex64)}, backend=target.backend)


@pytest.mark.parametrize("name", ALL)
def test_served_without_being_asked_for(target, name):
    """On a GPU the best backend runs; on the CPU that is the one for CPUs, not what stands in for a GPU."""
    if target.device == "cpu":
        pytest.skip("stands in for a GPU")
    op = ALL[name]
    results = []
    for backend in (None, target.backend):
        torch.manual_seed(1)
        results.append(op.function(**op.inputs(target.device), backend=backend, **op.options))
    for first, second in zip(*((t,) if torch.is_tensor(t) else t for t in results), strict=True):
        assert_close(first, second.double(), torch.float32)
