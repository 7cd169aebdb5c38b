"""The compiled scan against the float64 reference: values and every gradient."""

import pytest
import torch

from tests.tolerances import assert_all_close, assert_close
from tests.transmamba_kernels.selective_scan.cases import make_inputs, run
from transmamba_kernels import selective_scan

pytestmark = pytest.mark.usefixtures("poison")


def check(inputs, **options):
    dtype = inputs["u"].dtype
    expected = run(inputs, "reference", dtype=torch.float64, **options)
    actual = run(inputs, "cpp", **options)
    assert_all_close(actual, expected, dtype)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1),
        (1, 1, 2, 3),
        (1, 16, 64, 16),
        (2, 17, 65, 16),
        (3, 40, 63, 1),
        (1, 33, 129, 2),
        (2, 15, 197, 8),
        (1, 7, 31, 33),
        (1, 3, 5, 256),
        (5, 16, 1, 4),
    ],
    ids=str,
)
@pytest.mark.parametrize("reverse", [False, True])
def test_shapes(shape, reverse, isa):
    check(make_inputs(*shape), reverse=reverse)


@pytest.mark.parametrize("layout", ["channel_last", "channel_first", "chunk", "strided", "batch_last"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_layouts_and_dtypes(layout, reverse, dtype, isa):
    check(make_inputs(2, 37, 71, 6, layout=layout, dtype=dtype), reverse=reverse)


@pytest.mark.parametrize("B_kind", ["time", "groups", "constant", "constant_groups", "channel"])
@pytest.mark.parametrize("C_kind", ["time", "groups", "constant", "constant_groups", "channel"])
def test_kinds_of_coefficients(B_kind, C_kind):
    check(make_inputs(2, 36, 67, 3, groups=2, B_kind=B_kind, C_kind=C_kind))


@pytest.mark.parametrize("groups", [1, 3, 24])
def test_groups(groups, threads):
    check(make_inputs(2, 24, 70, 4, groups=groups, B_kind="groups", C_kind="groups"))


@pytest.mark.parametrize("without", [(), ("D",), ("z",), ("delta_bias",), ("initial_state",), ("D", "z", "delta_bias")])
@pytest.mark.parametrize("softplus", [True, False])
def test_optional_arguments(without, softplus):
    inputs = make_inputs(without=without)
    if not softplus:
        inputs["delta"] = inputs["delta"].abs() * 0.3
        if inputs["delta_bias"] is not None:
            inputs["delta_bias"] = inputs["delta_bias"].abs() * 0.1
    check(inputs, softplus=softplus)


def test_bias_per_sample(threads):
    check(make_inputs(3, per_sample_bias=True))


@pytest.mark.parametrize("length", [5, 64 + 29])  # fewer steps than the lanes of some vectors; no multiple of any
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_channel_first_in_squares_and_rests(length, dtype, reverse, isa):
    check(make_inputs(2, 44, length, 6, layout="channel_first", dtype=dtype), reverse=reverse)


def test_float16_keeps_its_subnormal_numbers(isa):
    numbers = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
    u = numbers.where(numbers.isfinite(), 0).view(1, 256, 256)
    zeros, D = torch.zeros(1, 1, 256), torch.ones(256)
    for layout in (u, u.transpose(1, 2)):
        out = selective_scan(layout, torch.zeros_like(layout), -torch.ones(256, 1), zeros, zeros, D, backend="cpp")
        assert torch.equal(out, layout)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("parameters", [False, True])
def test_mixed_dtypes(half, parameters):
    dtypes = (torch.float32, half) if parameters else (half, torch.float32)
    inputs = make_inputs(dtype=dtypes[0], param_dtype=dtypes[1])
    expected, actual = run(inputs, "reference", dtype=torch.float64), run(inputs, "cpp")
    for name, value in actual.items():
        assert_close(value, expected[name], half, name)


def test_16_bit_tensors_of_any_kind():
    inputs = make_inputs(dtype=torch.float32)
    for name, dtype in (("delta", torch.bfloat16), ("B", torch.float16), ("initial_state", torch.bfloat16)):
        inputs[name] = inputs[name].to(dtype)
    expected, actual = run(inputs, "reference", dtype=torch.float64), run(inputs, "cpp")
    for name, value in actual.items():
        assert_close(value, expected[name], value.dtype, name)


@pytest.mark.parametrize("decay", [1e-4, 50.0, 1e4], ids=["slow", "fast", "beyond exp's range"])
def test_range_of_the_decay(decay, isa):
    inputs = make_inputs(length=130)
    inputs["A"] = inputs["A"] * decay
    check(inputs)


def test_positive_A_is_allowed():
    inputs = make_inputs(length=40)
    inputs["A"] = -0.1 * inputs["A"]
    check(inputs)


def test_not_a_number_spreads_as_in_the_reference():
    for name in ("u", "delta", "B", "C", "z"):
        inputs = make_inputs(1, 4, 10, 2)
        inputs[name] = inputs[name].contiguous()
        inputs[name][0, 1, 5] = float("nan")
        arguments = {k: v for k, v in inputs.items() if k != "initial_state"}
        expected = selective_scan(**arguments, delta_softplus=True, backend="reference")
        actual = selective_scan(**arguments, delta_softplus=True, backend="cpp")
        assert torch.equal(actual.isnan(), expected.isnan()), name


def test_gradients_that_are_not_needed_are_not_computed():
    inputs = make_inputs()
    inputs["C"].requires_grad_()
    selective_scan(**inputs, delta_softplus=True, backend="cpp").sum().backward()
    assert inputs["C"].grad is not None
    assert all(t.grad is None for name, t in inputs.items() if name != "C")


@pytest.mark.parametrize("which", [0, 1], ids=["out", "last_state"])
def test_one_upstream_gradient(which):
    results = []
    for backend, dtype in (("cpp", torch.float32), ("reference", torch.float64)):
        torch.manual_seed(0)
        inputs = make_inputs(without=("z",))
        leaves = {k: None if v is None else v.to(dtype).requires_grad_() for k, v in inputs.items()}
        outputs = selective_scan(**leaves, return_last_state=True, delta_softplus=True, backend=backend)
        outputs[which].sum().backward()
        results.append({k: v.grad for k, v in leaves.items() if v is not None})
    for name, actual in results[0].items():
        expected = results[1][name]
        if expected is None:  # the last state does not see C and D
            assert actual is None or not actual.any()
        else:
            assert_close(actual, expected, torch.float32, name)


@pytest.mark.parametrize("shape", [(0, 8, 5, 3), (2, 8, 0, 3)], ids=["empty batch", "length 0"])
@pytest.mark.parametrize("reverse", [False, True])
def test_empty(shape, reverse):
    inputs = make_inputs(*shape)
    for name, t in inputs.items():
        inputs[name] = t.requires_grad_()
    out, last_state = selective_scan(**inputs, return_last_state=True, reverse=reverse)
    assert out.shape == shape[:3]
    assert torch.equal(last_state, inputs["initial_state"])
    (out.sum() + last_state.sum()).backward()
    assert inputs["initial_state"].grad.eq(1).all()


def test_complex_goes_to_the_reference():
    inputs = make_inputs(without=("initial_state",))
    inputs["A"] = torch.complex(inputs["A"], torch.randn_like(inputs["A"]))
    out = selective_scan(**inputs, delta_softplus=True)
    assert torch.equal(out, selective_scan(**inputs, delta_softplus=True, backend="reference"))
    assert out.dtype == torch.float32


def test_same_bits_from_run_to_run(threads):
    inputs = make_inputs(4, 50, 200, 16, groups=2, B_kind="groups", C_kind="groups")
    first, second = run(inputs, "cpp"), run(inputs, "cpp")
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_channel_last_output_stays_channel_last():
    inputs = make_inputs(layout="chunk")
    out = selective_scan(**inputs, delta_softplus=True, backend="cpp")
    assert out.transpose(1, 2).is_contiguous()
