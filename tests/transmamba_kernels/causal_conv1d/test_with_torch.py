"""The op inside torch: gradcheck, opcheck, compile, export, transforms, autocast, forks."""

import pytest
import torch

from tests.tolerances import assert_close
from tests.transmamba_kernels import inside_torch
from tests.transmamba_kernels.causal_conv1d.cases import check_operators, make_inputs, run
from transmamba_kernels import causal_conv1d

OPTIONS = [
    {},
    {"reverse": True},
    {"activation": None, "width": 2},
    {"width": 1},
    {"width": 7},
    {"without": ("bias", "initial_state")},
    {"layout": "strided"},
    {"layout": "channel_first", "reverse": True},
]


def split(options):
    """Options of the inputs, activation, reverse."""
    options = dict(options)
    return options, options.pop("activation", "silu"), options.pop("reverse", False)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck(options):
    options, activation, reverse = split(options)
    inputs = make_inputs(2, 4, 5, dtype=torch.float64, **options)
    names = [name for name, t in inputs.items() if t is not None]

    def call(*tensors):
        return causal_conv1d(
            **dict(zip(names, tensors, strict=True)),
            activation=activation,
            return_final_state=True,
            reverse=reverse,
            backend="cpp",
        )

    assert torch.autograd.gradcheck(call, [inputs[name].requires_grad_() for name in names])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_opcheck(options):
    options, activation, reverse = split(options)
    silu = activation is not None
    tensors = tuple(make_inputs(2, 6, 9, **options).values())
    check_operators((*tensors, None), silu, reverse)


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic, with_state):
    cases = (make_inputs(length=length) for length in (9, 70, 33))
    inside_torch.check_compiled(causal_conv1d, cases, dynamic, activation="silu", return_final_state=with_state)


def test_compile_without_gradients():
    torch._dynamo.reset()
    inputs = make_inputs()
    with torch.no_grad():
        compiled = torch.compile(causal_conv1d, fullgraph=True, backend="aot_eager")(**inputs, activation="silu")
        assert torch.equal(compiled, causal_conv1d(**inputs, activation="silu"))


def test_export():
    class Conv(torch.nn.Module):
        def forward(self, x, weight, bias):
            return causal_conv1d(x, weight, bias, activation="silu")

    arguments = tuple(list(make_inputs().values())[:3])
    exported = torch.export.export(Conv(), arguments)
    assert any("transmamba.causal_conv1d" in str(node.target) for node in exported.graph.nodes)
    assert torch.equal(exported.module()(*arguments), Conv()(*arguments))


def test_functional_gradient():
    inputs = make_inputs()
    inside_torch.check_functional_gradient(causal_conv1d, inputs, ("x", "weight"), activation="silu")


def test_second_derivative_is_refused():
    inside_torch.check_second_derivative_is_refused(causal_conv1d, make_inputs(), activation="silu", backend="cpp")


def test_second_derivative_through_the_reference():
    inputs = make_inputs(1, 2, 4, dtype=torch.float64)
    x = inputs.pop("x").requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x: causal_conv1d(x, **inputs, activation="silu", backend="reference"), [x]
    )


def test_autocast():
    layer = torch.nn.Linear(8, 8)
    inputs = make_inputs(2, 8, 30, layout="channel_first")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = layer(inputs["x"].transpose(1, 2)).transpose(1, 2)
        out = causal_conv1d(**{**inputs, "x": x}, activation="silu")
    assert x.dtype == out.dtype == torch.bfloat16
    expected = causal_conv1d(**{**inputs, "x": x.float()}, activation="silu")
    assert_close(out, expected.double(), torch.bfloat16)


def test_subclasses_and_parameters():
    class Named(torch.Tensor):
        pass

    inputs = make_inputs()
    expected = causal_conv1d(**inputs)
    actual = causal_conv1d(**{**inputs, "x": inputs["x"].as_subclass(Named)})
    assert torch.equal(actual.as_subclass(torch.Tensor), expected)
    assert causal_conv1d(**{**inputs, "weight": torch.nn.Parameter(inputs["weight"])}).requires_grad


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_forked_child_on_one_thread(threads):
    inside_torch.check_forked_child(lambda: run(make_inputs(), "cpp")["dx"].sum().item())
