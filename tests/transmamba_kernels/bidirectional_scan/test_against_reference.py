"""The compiled scans against the float64 reference, and the reference against two selective scans."""

import pytest
import torch

from tests.tolerances import assert_all_close
from tests.transmamba_kernels.bidirectional_scan.cases import OWN, make_inputs, run
from transmamba_kernels import bidirectional_scan, selective_scan


def check(inputs, merge="sum"):
    dtype = inputs["u"].dtype
    expected = run(inputs, "reference", dtype=torch.float64, merge=merge)
    actual = run(inputs, "cpp", merge=merge)
    assert_all_close(actual, expected, dtype)


@pytest.mark.parametrize("merge", ["sum", "none"])
@pytest.mark.parametrize("own", [(), OWN, *((name,) for name in OWN)], ids=lambda own: "+".join(own) or "shared")
@pytest.mark.usefixtures("poison")
def test_shared_and_own_tensors(own, merge):
    check(make_inputs(2, 20, 70, 5, own=own), merge)


@pytest.mark.parametrize("merge", ["sum", "none"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 16, 64, 16), (3, 33, 129, 2), (2, 7, 5, 9)], ids=str)
@pytest.mark.usefixtures("poison")
def test_shapes(shape, merge, isa):
    check(make_inputs(*shape), merge)


@pytest.mark.parametrize("merge", ["sum", "none"])
@pytest.mark.parametrize("layout", ["channel_last", "channel_first", "chunk", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.usefixtures("poison")
def test_layouts_and_dtypes(layout, dtype, merge, threads):
    check(make_inputs(2, 37, 71, 6, own=("A", "B"), layout=layout, dtype=dtype), merge)


@pytest.mark.parametrize("without", [("z",), ("D",), ("D", "z", "delta_bias", "initial_state")])
@pytest.mark.parametrize("merge", ["sum", "none"])
def test_optional_arguments(without, merge):
    check(make_inputs(own=("A",), without=without), merge)


@pytest.mark.parametrize("kinds", [("groups", "time"), ("constant", "channel"), ("channel", "constant_groups")])
def test_kinds_of_coefficients(kinds):
    check(make_inputs(2, 36, 67, 3, groups=2, B_kind=kinds[0], C_kind=kinds[1], own=("B",)))


def test_directions_with_different_groups():
    inputs = make_inputs(2, 36, 67, 3, own=("C",))
    inputs["C_reverse"] = torch.randn(2, 2, 3, 67)
    check(inputs)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_is_two_selective_scans(backend):
    inputs = make_inputs()
    shared = {name: t for name, t in inputs.items() if not name.endswith("_reverse")}
    own = {**shared, **{name: inputs[f"{name}_reverse"] for name in OWN}}
    expected = [
        selective_scan(**tensors, delta_softplus=True, reverse=reverse, return_last_state=True, backend=backend)
        for tensors, reverse in ((shared, False), (own, True))
    ]
    options = {"delta_softplus": True, "return_last_state": True, "backend": backend}
    out, last_state = bidirectional_scan(**inputs, **options, merge="none")
    for k in range(2):
        assert torch.equal(out[:, k], expected[k][0])
        assert torch.equal(last_state[:, k], expected[k][1])
    merged = bidirectional_scan(**inputs, delta_softplus=True, backend=backend)
    torch.testing.assert_close(merged, out.sum(1), rtol=1e-5, atol=1e-5)


def test_both_directions_of_a_palindrome_mirror_each_other():
    inputs = make_inputs(own=(), without=("initial_state",))
    for name in ("u", "delta", "B", "C", "z"):
        inputs[name] = inputs[name] + inputs[name].flip(-1)
    out = bidirectional_scan(**inputs, delta_softplus=True, merge="none")
    torch.testing.assert_close(out[:, 0], out[:, 1].flip(-1))


def test_same_bits_from_run_to_run(threads):
    inputs = make_inputs(4, 50, 200, 16)
    first, second = run(inputs, "cpp"), run(inputs, "cpp")
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("merge", ["sum", "none"])
@pytest.mark.parametrize("shape", [(0, 8, 5, 3), (2, 8, 0, 3)], ids=["empty batch", "length 0"])
def test_empty(shape, merge):
    out, last_state = bidirectional_scan(**make_inputs(*shape), merge=merge, return_last_state=True)
    assert out.shape == (shape[0], *([2] if merge == "none" else []), *shape[1:3])
    assert last_state.shape == (shape[0], 2, shape[1], shape[3])


def test_channel_last_stays_channel_last():
    inputs = make_inputs(layout="chunk")
    assert bidirectional_scan(**inputs, delta_softplus=True).transpose(1, 2).is_contiguous()
    assert bidirectional_scan(**inputs, delta_softplus=True, merge="none").transpose(2, 3).is_contiguous()


def test_only_the_gradients_that_are_needed():
    inputs = make_inputs(own=("A",))
    inputs["C"].requires_grad_()
    bidirectional_scan(**inputs, delta_softplus=True, backend="cpp").sum().backward()
    assert all((t.grad is not None) == (name == "C") for name, t in inputs.items())
