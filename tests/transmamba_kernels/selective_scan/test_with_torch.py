"""The op inside torch: gradcheck, opcheck, compile, export, transforms, autocast, forks."""

import pytest
import torch

from tests.tolerances import assert_close
from tests.transmamba_kernels import inside_torch
from tests.transmamba_kernels.selective_scan.cases import check_operators, make_inputs, run
from transmamba_kernels import selective_scan

OPTIONS = [
    {},
    {"reverse": True},
    {"B_kind": "groups", "C_kind": "constant_groups", "groups": 2},
    {"B_kind": "channel", "C_kind": "constant"},
    {"without": ("D", "z", "delta_bias", "initial_state")},
    {"per_sample_bias": True, "layout": "strided"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck(options):
    options = dict(options)
    reverse = options.pop("reverse", False)
    inputs = make_inputs(2, 4, 5, 3, dtype=torch.float64, **options)
    names = [name for name, t in inputs.items() if t is not None]

    def call(*tensors):
        return selective_scan(
            **dict(zip(names, tensors, strict=True)),
            delta_softplus=True,
            return_last_state=True,
            reverse=reverse,
            backend="cpp",
        )

    assert torch.autograd.gradcheck(call, [inputs[name].requires_grad_() for name in names])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_opcheck(options):
    options = dict(options)
    reverse = options.pop("reverse", False)
    tensors = (*make_inputs(2, 6, 9, 3, **options).values(), None)
    check_operators(tensors, reverse)


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic, with_state):
    cases = (make_inputs(length=length) for length in (9, 70, 33))
    inside_torch.check_compiled(
        selective_scan, cases, dynamic, same_bits=True, delta_softplus=True, return_last_state=with_state
    )


def test_compile_without_gradients():
    torch._dynamo.reset()
    inputs = make_inputs()
    with torch.no_grad():
        compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager")(**inputs, delta_softplus=True)
        assert torch.equal(compiled, selective_scan(**inputs, delta_softplus=True))


def test_export():
    class Scan(torch.nn.Module):
        def forward(self, u, delta, A, B, C):
            return selective_scan(u, delta, A, B, C, delta_softplus=True)

    arguments = tuple(list(make_inputs().values())[:5])
    exported = torch.export.export(Scan(), arguments)
    assert any("transmamba.selective_scan" in str(node.target) for node in exported.graph.nodes)
    assert torch.equal(exported.module()(*arguments), Scan()(*arguments))


def test_functional_gradient():
    inputs = make_inputs(without=("initial_state",))
    inside_torch.check_functional_gradient(selective_scan, inputs, ("u", "A"), delta_softplus=True)


def test_second_derivative_is_refused():
    inside_torch.check_second_derivative_is_refused(selective_scan, make_inputs(), delta_softplus=True, backend="cpp")


def test_second_derivative_through_the_reference():
    inputs = make_inputs(1, 2, 4, 2, dtype=torch.float64)
    u = inputs.pop("u").requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda u: selective_scan(u, **inputs, delta_softplus=True, backend="reference"), [u]
    )


def test_autocast():
    layer = torch.nn.Linear(8, 8)
    inputs = make_inputs(2, 8, 30, 4, layout="channel_first")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u = layer(inputs["u"].transpose(1, 2)).transpose(1, 2)
        out = selective_scan(**{**inputs, "u": u}, delta_softplus=True)
    assert u.dtype == out.dtype == torch.bfloat16
    expected = selective_scan(**{**inputs, "u": u.float()}, delta_softplus=True)
    assert_close(out, expected.double(), torch.bfloat16)


def test_subclasses_and_parameters():
    class Named(torch.Tensor):
        pass

    inputs = make_inputs()
    expected = selective_scan(**inputs, delta_softplus=True)
    actual = selective_scan(**{**inputs, "u": inputs["u"].as_subclass(Named)}, delta_softplus=True)
    assert torch.equal(actual.as_subclass(torch.Tensor), expected)
    parameter = torch.nn.Parameter(inputs["A"])
    assert selective_scan(**{**inputs, "A": parameter}, delta_softplus=True).requires_grad


def test_checkpointing():
    inputs = make_inputs()
    u = inputs["u"].clone().requires_grad_()
    call = lambda u: selective_scan(**{**inputs, "u": u}, delta_softplus=True)  # noqa: E731
    torch.utils.checkpoint.checkpoint(call, u, use_reentrant=False).sum().backward()
    v = inputs["u"].clone().requires_grad_()
    call(v).sum().backward()
    assert torch.equal(u.grad, v.grad)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_forked_child_on_one_thread(threads):
    inside_torch.check_forked_child(lambda: run(make_inputs(), "cpp")["du"].sum().item())
