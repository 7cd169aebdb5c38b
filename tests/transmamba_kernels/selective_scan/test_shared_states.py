"""Scans of too few channels for the threads, which share the states: values and every gradient."""

import pytest
import torch

from tests.tolerances import assert_all_close, assert_close
from tests.transmamba_kernels.multi_scan import cases as multi_scan
from tests.transmamba_kernels.selective_scan.cases import make_inputs, make_packed, run
from tests.transmamba_kernels.sequences import offsets

pytestmark = pytest.mark.usefixtures("poison")

ON_THREADS = pytest.mark.parametrize("threads", [1, 2, 3, 8], indirect=True)
LENGTH = 261  # with a last chunk of a few; it takes many states to make so few steps and channels worth sharing
KINDS = ["time", "groups", "constant", "constant_groups", "channel"]
PACKED = [(300,), (200, 1, 1, 0, 100), (1, 5, 300, 0, 2), (130, 140), (31,) * 9]


def check(inputs, **options):
    dtype = inputs["u"].dtype
    expected = run(inputs, "reference", dtype=torch.float64, **options)
    actual = run(inputs, "cpp", **options)
    assert_all_close(actual, expected, dtype)


@ON_THREADS
@pytest.mark.parametrize("shape", [(1, 16, 503), (1, 5, 512), (2, 20, 129), (3, 3, 170)], ids=str)
def test_against_reference(shape, threads, isa):
    batch, d_inner, d_state = shape
    check(make_inputs(batch, d_inner, LENGTH, d_state, per_sample_bias=batch == 2), reverse=batch == 3)


@pytest.mark.parametrize("threads", [8], indirect=True)
@pytest.mark.parametrize("layout", ["channel_last", "channel_first", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_against_reference_in_layouts_and_dtypes(layout, dtype, threads):
    check(make_inputs(2, 18, LENGTH, 130, layout=layout, dtype=dtype), reverse=True, upstream_layout=layout)


@pytest.mark.parametrize("threads", [8], indirect=True)
@pytest.mark.parametrize("B_kind", KINDS)
@pytest.mark.parametrize("C_kind", KINDS)
def test_against_reference_with_kinds_of_coefficients(B_kind, C_kind, threads):
    check(make_inputs(1, 36, LENGTH, 169, groups=2, B_kind=B_kind, C_kind=C_kind))


@pytest.mark.parametrize("threads", [8], indirect=True)
@pytest.mark.parametrize("without", [("D",), ("z",), ("delta_bias",), ("initial_state",), ("D", "z", "delta_bias")])
def test_against_reference_without(without, threads):
    check(make_inputs(2, 18, LENGTH, 127, without=without, per_sample_bias="D" in without))


@ON_THREADS
@pytest.mark.parametrize("lengths", PACKED, ids=str)
@pytest.mark.parametrize("kind", ["time", "constant"])
def test_packed_against_reference(lengths, kind, threads):
    inputs = make_packed(lengths, 18, 249, B_kind=kind, per_sample_bias=kind == "time")
    check(inputs, cu_seqlens=offsets(lengths), reverse=kind == "time")


@ON_THREADS
@pytest.mark.parametrize("merge", ["sum", "none"])
@pytest.mark.parametrize("permute_params", [True, False])
def test_orders_against_reference(merge, permute_params, threads):
    orders = torch.stack([torch.arange(LENGTH).flip(0), torch.randperm(LENGTH)])
    inputs = multi_scan.make_inputs(1, 18, d_state=253, orders=orders, own=("A", "delta"))
    options = {"merge": merge, "permute_params": permute_params}
    expected = multi_scan.run(inputs, "oracle", **options)
    for name, value in multi_scan.run(inputs, "cpp", **options).items():
        assert_close(value, expected[name], torch.float32, name)


@pytest.mark.parametrize("threads", [2, 8], indirect=True)
@pytest.mark.parametrize("lengths", [(), (31, 250, 2)], ids=str)
def test_same_bits_from_run_to_run(lengths, threads):
    options = {"cu_seqlens": offsets(lengths)} if lengths else {}
    inputs = make_packed(lengths, 18, 256) if lengths else make_inputs(2, 18, LENGTH, 128, per_sample_bias=True)
    first = run(inputs, "cpp", **options)
    for _ in range(3):
        for name, value in run(inputs, "cpp", **options).items():
            assert torch.equal(value, first[name]), name


@pytest.mark.parametrize("threads", [8], indirect=True)
def test_states_are_shared_at_these_sizes(threads):
    """What ranges of states are added up to has other bits than one sum; at fewer steps there is one."""
    for length in (LENGTH, LENGTH // 2):
        inputs = make_inputs(1, 16, length, 503)
        found = []
        for count in (threads, 1):
            torch.set_num_threads(count)
            found.append(run(inputs, "cpp")["out"])
        assert torch.equal(*found) == (length < LENGTH)
