"""The compiled convolution against the float64 reference: values and every gradient."""

import pytest
import torch
import torch.nn.functional as F

from tests.tolerances import assert_all_close, assert_close
from tests.transmamba_kernels.causal_conv1d.cases import make_inputs, run
from tests.transmamba_kernels.sequences import sequence
from transmamba_kernels import causal_conv1d

pytestmark = pytest.mark.usefixtures("poison")

LAYOUTS = ["channel_last", "channel_first", "chunk", "strided", "batch_last"]


def check(inputs, **options):
    expected = run(inputs, "reference", dtype=torch.float64, **options)
    actual = run(inputs, "cpp", **options)
    assert_all_close(actual, expected)


def test_the_reference_is_the_convolution_of_torch():
    inputs = make_inputs(dtype=torch.float64, without=("initial_state",))
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    expected = F.conv1d(x, weight.unsqueeze(1), bias, padding=3, groups=x.shape[1])[..., : x.shape[2]]
    actual = causal_conv1d(x, weight, bias, backend="reference")
    torch.testing.assert_close(actual, expected)
    flipped = causal_conv1d(x.flip(-1), weight, bias, backend="reference").flip(-1)
    torch.testing.assert_close(causal_conv1d(x, weight, bias, reverse=True, backend="reference"), flipped)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1),
        (1, 1, 1, 4),
        (3, 16, 2, 5),
        (2, 17, 3, 4),
        (2, 40, 65, 2),
        (1, 33, 129, 3),
        (2, 15, 197, 4),
        (1, 64, 31, 1),
        (1, 7, 40, 33),
        (5, 16, 1, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", ["channel_last", "channel_first"])
@pytest.mark.parametrize("reverse", [False, True])
def test_shapes(shape, layout, reverse, isa):
    check(make_inputs(*shape, layout=layout), reverse=reverse, upstream_layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_layouts_and_dtypes(layout, reverse, dtype, isa):
    check(make_inputs(2, 37, 71, layout=layout, dtype=dtype), reverse=reverse, upstream_layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("upstream_layout", LAYOUTS)
def test_upstream_gradient_of_another_layout(layout, upstream_layout, threads):
    check(make_inputs(2, 37, 71, layout=layout), upstream_layout=upstream_layout)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 40])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_widths(width, activation):
    check(make_inputs(width=width), activation=activation, upstream_layout="channel_last")


@pytest.mark.parametrize("without", [(), ("bias",), ("initial_state",), ("bias", "initial_state")])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_optional_arguments(without, activation):
    check(make_inputs(without=without), activation=activation)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_threads_share_one_long_sequence(layout, reverse, threads):
    check(make_inputs(1, 3, 2601, layout=layout), reverse=reverse, upstream_layout=layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["channel_last", "channel_first", "strided"])
@pytest.mark.parametrize("reverse", [False, True])
def test_every_16_bit_number_is_read_exactly_and_rounded_to_nearest(dtype, layout, reverse, isa):
    x = sequence(1, 256, 256, layout, dtype)
    x.copy_(torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype).view(x.shape))
    # The first copies; the second gives ties, the others numbers beyond the range and below the normal ones.
    for weight in (1.0, 1 + 2**-8, 1 + 2**-11, 3.0, -1 / 3, 2**-9 + 2**-14):
        out = causal_conv1d(x, torch.full((256, 1), weight), reverse=reverse, backend="cpp")
        torch.testing.assert_close(out, (x.float() * weight).to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "dtypes",
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixed_dtypes(dtypes, layout):
    check(make_inputs(dtype=dtypes[0], param_dtype=dtypes[1], layout=layout), upstream_layout=layout)


def test_not_a_number_spreads_as_in_the_reference():
    for name in ("x", "weight", "initial_state"):
        inputs = make_inputs(1, 4, 10)
        inputs[name] = inputs[name].contiguous()
        inputs[name].view(-1)[5] = float("nan")
        expected = causal_conv1d(**inputs, activation="silu", backend="reference")
        actual = causal_conv1d(**inputs, activation="silu", backend="cpp")
        assert torch.equal(actual.isnan(), expected.isnan()), name


def test_range_of_the_silu(isa):
    x = torch.linspace(-100, 100, 400).reshape(1, 1, 400)
    out = causal_conv1d(x, torch.ones(1, 1), activation="silu", backend="cpp")
    torch.testing.assert_close(out, F.silu(x.double()).float(), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("name", ["x", "weight", "bias", "initial_state"])
def test_gradients_that_are_not_needed_are_not_computed(name):
    results = []
    for backend in ("cpp", "reference"):
        torch.manual_seed(0)
        inputs = make_inputs()
        inputs[name].requires_grad_()
        causal_conv1d(**inputs, activation="silu", backend=backend).sum().backward()
        assert all(t.grad is None for other, t in inputs.items() if other != name)
        results.append(inputs[name].grad)
    assert_close(results[0], results[1].double(), torch.float32, name)


@pytest.mark.parametrize("which", [0, 1], ids=["out", "final_state"])
@pytest.mark.parametrize("length", [2, 70])
def test_one_upstream_gradient(which, length):
    results = []
    for backend, dtype in (("cpp", torch.float32), ("reference", torch.float64)):
        torch.manual_seed(0)
        leaves = {k: v.to(dtype).requires_grad_() for k, v in make_inputs(length=length).items()}
        causal_conv1d(**leaves, return_final_state=True, backend=backend)[which].sum().backward()
        results.append({k: v.grad for k, v in leaves.items()})
    for name, actual in results[0].items():
        expected = results[1][name]
        if expected is None:  # the final state does not see the weights
            assert actual is None or not actual.any()
        else:
            assert_close(actual, expected, torch.float32, name)


@pytest.mark.parametrize("shape", [(0, 8, 5), (2, 8, 0), (0, 8, 0)], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_empty(shape, reverse):
    inputs = {name: t.requires_grad_() for name, t in make_inputs(*shape).items()}
    out, final_state = causal_conv1d(**inputs, return_final_state=True, reverse=reverse)
    assert out.shape == shape
    assert final_state.shape == (shape[0], 8, 3)
    if shape[2] == 0:
        assert torch.equal(final_state, inputs["initial_state"])
    (out.sum() + final_state.sum()).backward()
    assert inputs["initial_state"].grad is not None


def test_states_join_the_pieces_of_a_sequence():
    inputs = make_inputs(length=50)
    whole, last = causal_conv1d(**inputs, activation="silu", return_final_state=True)
    x, state, pieces = inputs.pop("x"), inputs.pop("initial_state"), []
    for piece in x.split([1, 2, 30, 17], dim=-1):
        out, state = causal_conv1d(piece, **inputs, activation="silu", initial_state=state, return_final_state=True)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, dim=-1), whole, rtol=1e-6, atol=1e-6)
    assert torch.equal(state, last)


@pytest.mark.parametrize("layout", ["channel_last", "channel_first", "strided"])
def test_same_bits_from_run_to_run(layout, threads):
    inputs = make_inputs(4, 50, 700, layout=layout)
    first, second = (run(inputs, "cpp", upstream_layout=layout) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_channel_last_output_stays_channel_last():
    out = causal_conv1d(**make_inputs(layout="chunk"), activation="silu", backend="cpp")
    assert out.transpose(1, 2).is_contiguous()
