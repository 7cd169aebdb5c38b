import pytest
import torch

from tests.tolerances import assert_all_close
from tests.transmamba_kernels.selective_scan.cases import make_inputs, make_packed, run
from tests.transmamba_kernels.sequences import offsets

pytestmark = pytest.mark.usefixtures("poison")


def check(target, inputs, dtype=torch.float32, **options):
    expected = run(inputs, "reference", dtype=torch.float64, **options)
    assert_all_close(run(inputs, target.backend, device=target.device, **options), expected, dtype)


@pytest.mark.parametrize("length", [1, 2, 31, 33, 65])
def test_lengths(target, length):
    check(target, make_inputs(1, 5, length, 3))


@pytest.mark.parametrize("d_state", [1, 3, 4, 16, 17, 64, 130, 256])
def test_states(target, d_state):
    check(target, make_inputs(1, 3, 7, d_state))


@pytest.mark.parametrize("d_inner", [1, 16, 67])
def test_channels(target, d_inner):
    check(target, make_inputs(1, d_inner, 5, 4))


@pytest.mark.parametrize("layout", ["channel_first", "chunk", "strided", "batch_last"])
@pytest.mark.parametrize("upstream_layout", ["channel_first", "channel_last"])
def test_layouts(target, layout, upstream_layout):
    check(target, make_inputs(2, 20, 35, 4, layout=layout), upstream_layout=upstream_layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["channel_last", "channel_first"])
@pytest.mark.parametrize("param_dtype", [None, torch.float32])
def test_dtypes(target, dtype, layout, param_dtype):
    check(target, make_inputs(1, 20, 35, 4, dtype=dtype, layout=layout, param_dtype=param_dtype), dtype)


@pytest.mark.parametrize("without", [("D",), ("z",), ("delta_bias",), ("initial_state",), ("D", "z", "delta_bias")])
@pytest.mark.parametrize("softplus", [True, False])
def test_without(target, without, softplus):
    inputs = make_inputs(1, 6, 9, 3, without=without)
    if not softplus:
        inputs["delta"] = inputs["delta"].abs() * 0.1
    check(target, inputs, softplus=softplus)


@pytest.mark.parametrize("B_kind", ["time", "groups", "constant", "constant_groups", "channel"])
@pytest.mark.parametrize("C_kind", ["time", "groups", "constant", "constant_groups", "channel"])
def test_coefficients(target, B_kind, C_kind):
    check(target, make_inputs(2, 12, 7, 3, groups=3, B_kind=B_kind, C_kind=C_kind))


@pytest.mark.parametrize("length", [1, 9, 70])
def test_reverse(target, length):
    check(target, make_inputs(1, 5, length, 3), reverse=True)


@pytest.mark.parametrize("reverse", [False, True])
def test_few_channels_of_a_long_sequence(target, reverse):
    if target.backend == "triton":
        pytest.skip("cuts no sequence into chunks")
    check(target, make_inputs(1, 5, 290, 4, C_kind="constant"), reverse=reverse)


def test_a_bias_for_each_sample(target):
    check(target, make_inputs(3, 5, 7, 3, per_sample_bias=True))


@pytest.mark.parametrize("lengths", [(5,), (0, 3, 0, 40, 1, 0), (33, 7)])
@pytest.mark.parametrize("reverse", [False, True])
def test_packed(target, lengths, reverse):
    inputs = make_packed(lengths, 6, 3)
    expected = run(inputs, "reference", dtype=torch.float64, reverse=reverse, cu_seqlens=offsets(lengths))
    for given in (offsets(lengths), offsets(lengths).to(target.device)):
        actual = run(inputs, target.backend, device=target.device, reverse=reverse, cu_seqlens=given)
        assert_all_close(actual, expected, torch.float32)


def test_the_same_bits_every_time(target):
    inputs = make_inputs(2, 20, 35, 4)
    first, second = (run(inputs, target.backend, device=target.device) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_large_steps(target):
    inputs = make_inputs(1, 5, 9, 3)
    inputs["delta"] = inputs["delta"] * 30  # softplus is the identity there, and decays are zero
    check(target, inputs)
