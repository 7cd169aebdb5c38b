"""Every backend against selective scans of permuted tensors, in float64: values and every gradient."""

import pytest
import torch

from tests.tolerances import assert_all_close, assert_close
from tests.transmamba_kernels.differentiate import differentiate
from tests.transmamba_kernels.multi_scan.cases import BACKENDS, OWN, make_inputs, run
from transmamba_kernels import bidirectional_scan, multi_scan, scan_orders

pytestmark = [pytest.mark.usefixtures("poison"), pytest.mark.parametrize("backend", BACKENDS)]
VMAMBA = ("delta", "A", "B", "C", "D", "delta_bias")
MERGES = pytest.mark.parametrize("merge", ["sum", "none"])


def check(inputs, backend, **options):
    expected = run(inputs, "oracle", **options)
    actual = run(inputs, backend, **options)
    assert_all_close(actual, expected, inputs["u"].dtype)


def permutations(K, length):
    return torch.stack([torch.randperm(length) for _ in range(K)])


@MERGES
@pytest.mark.parametrize("permute_params", [True, False])
@pytest.mark.parametrize(
    "own", [(), VMAMBA, OWN, *((name,) for name in OWN)], ids=lambda own: "+".join(own) or "shared"
)
def test_shared_and_own_tensors(own, permute_params, merge, backend):
    check(make_inputs(own=own), backend, merge=merge, permute_params=permute_params)


@MERGES
@pytest.mark.parametrize("own", [(), VMAMBA], ids=["shared", "own"])
@pytest.mark.parametrize("shape", [(1, 1, (1, 1), 1), (1, 16, (8, 8), 16), (3, 33, (1, 7), 2), (2, 17, (5, 13), 16)])
def test_shapes(shape, own, merge, backend, isa):
    check(make_inputs(*shape, own=own), backend, merge=merge)


@MERGES
@pytest.mark.parametrize("own", [(), ("A",)], ids=["shared", "own"])
@pytest.mark.parametrize("grid", [(7, 9), (8, 8), (5, 13), (33, 32)], ids=str)  # around a chunk, and past the cache
def test_lengths(grid, own, merge, backend):
    check(make_inputs(1, 18, grid, 3, own=own), backend, merge=merge)


@MERGES
@pytest.mark.parametrize("layout", ["channel_last", "channel_first", "chunk", "strided", "batch_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_layouts_and_dtypes(layout, dtype, merge, backend, threads):
    inputs = make_inputs(2, 19, (3, 7), 4, own=("delta", "B", "A"), layout=layout, dtype=dtype)
    check(inputs, backend, merge=merge, upstream_layout=layout)


@pytest.mark.parametrize("own", [(), ("A",)], ids=["shared", "own"])
def test_without_gradients(own, backend):
    inputs = make_inputs(1, 18, (33, 32), 3, own=own)
    options = {"delta_softplus": True, "return_last_state": True, "backend": backend}
    with torch.no_grad():
        alone = multi_scan(**inputs, **options)
    expected = run(inputs, "oracle")
    assert_close(alone[0], expected["out"], torch.float32, "out")
    assert_close(alone[1], expected["last_state"], torch.float32, "last_state")


@pytest.mark.parametrize("K", range(1, 9))
@pytest.mark.parametrize("own", [(), OWN], ids=["shared", "own"])
def test_numbers_of_directions(K, own, backend):
    check(make_inputs(orders=permutations(K, 13), own=own), backend)


@pytest.mark.parametrize("name", ["cross_scan", "plain_mamba", "diagonal", "column_snake"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("permute_params", [True, False])
def test_orders(name, dtype, permute_params, backend):
    orders = getattr(scan_orders, name)(5, 4).to(dtype)
    check(make_inputs(orders=orders), backend, permute_params=permute_params)


def test_orders_of_any_strides(backend):
    check(make_inputs(orders=permutations(3, 26).repeat_interleave(2, dim=1)[:, ::2]), backend)
    check(make_inputs(orders=scan_orders.raster(4, 5).expand(3, 20)), backend)


@pytest.mark.parametrize("own", [(), ("B",), ("C",), ("B", "C")], ids=lambda own: "+".join(own) or "shared")
@pytest.mark.parametrize("kinds", [
    ("constant", "time"), ("time", "constant"), ("one", "constant"), ("groups", "time"), ("one", "groups"),
    ("groups", "constant_groups"),
], ids="+".join)  # fmt: skip
@pytest.mark.parametrize("permute_params", [True, False])
def test_kinds_of_coefficients(kinds, own, permute_params, backend):
    inputs = make_inputs(B_kind=kinds[0], C_kind=kinds[1], own=own)
    check(inputs, backend, permute_params=permute_params)


@MERGES
@pytest.mark.parametrize("without", [("z",), ("D",), ("D", "z", "delta_bias", "initial_state")])
def test_optional_arguments(without, merge, backend):
    check(make_inputs(own=("A",), without=without), backend, merge=merge)


@MERGES
@pytest.mark.parametrize("own", [(), ("A",), OWN], ids=lambda own: "+".join(own) or "shared")
def test_raster_and_back_is_the_bidirectional_scan(own, merge, backend):
    inputs = make_inputs(orders=scan_orders.both_ways(scan_orders.raster(3, 7)), own=own, dtype=torch.float64)
    axis = {name: 0 if name in ("A", "D", "delta_bias") else 1 for name in own}
    pair = {name: t for name, t in inputs.items() if name != "orders"}
    for name in own:
        pair[name], pair[f"{name}_reverse"] = inputs[name].unbind(axis[name])
    options = {"delta_softplus": True, "return_last_state": True, "backend": backend, "merge": merge}
    expected = differentiate(bidirectional_scan, pair, **options)
    for name in own:
        both = expected.pop(f"d{name}"), expected.pop(f"d{name}_reverse")
        expected[f"d{name}"] = torch.stack(both, dim=axis[name])
    actual = differentiate(multi_scan, inputs, **options)
    assert_all_close(actual, expected, torch.float64)


@pytest.mark.parametrize("permute_params", [True, False])
def test_step_by_step(permute_params, backend):
    """The definition, written as loops: also of the published PlainMamba, whose step t takes token t's parameters."""
    inputs = make_inputs(1, 2, (2, 3), 2, orders=scan_orders.plain_mamba(2, 3), dtype=torch.float64)
    u, delta, A, B, C, orders, D, z, bias, h0 = inputs.values()
    expected = torch.zeros_like(u)
    for order in orders.tolist():
        for e in range(2):
            h = h0[0, e]
            for t, token in enumerate(order):
                source = token if permute_params else t
                dt = torch.log1p(torch.exp(delta[0, e, source] + bias[e]))
                h = torch.exp(dt * A[e]) * h + dt * B[0, :, source] * u[0, e, token]
                expected[0, e, token] += (C[0, :, source] * h).sum() + D[e] * u[0, e, token]
    expected *= z * torch.sigmoid(z)
    actual = multi_scan(**inputs, delta_softplus=True, permute_params=permute_params, backend=backend)
    assert_close(actual, expected, torch.float64)


@MERGES
@pytest.mark.parametrize("own", [(), OWN], ids=["shared", "own"])
@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)], ids=["empty batch", "length 0"])
def test_empty(batch, length, own, merge, backend):
    inputs = make_inputs(batch, orders=permutations(3, length), own=own)
    leaves = {name: t if name == "orders" else t.requires_grad_() for name, t in inputs.items()}
    backend = None if backend == "cpp" else backend  # which takes no empty input
    out, last_state = multi_scan(**leaves, merge=merge, return_last_state=True, backend=backend)
    assert out.shape == (batch, *([3] if merge == "none" else []), 6, length)
    state = inputs["initial_state"]
    assert torch.equal(last_state, (state if own else state.unsqueeze(1)).expand(batch, 3, 6, 3))
    (out.sum() + last_state.sum()).backward()
    assert state.grad.eq(1 if own else 3).all()


@pytest.mark.parametrize("own", [(), ("A", "B")], ids=["shared", "own"])
def test_same_bits_from_run_to_run(own, backend, threads):
    inputs = make_inputs(4, 50, (7, 9), 16, own=own)
    first, second = run(inputs, backend), run(inputs, backend)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_only_the_gradients_that_are_needed(backend):
    inputs = make_inputs(own=("A",))
    inputs["C"].requires_grad_()
    multi_scan(**inputs, delta_softplus=True, backend=backend).sum().backward()
    assert all((t.grad is not None) == (name == "C") for name, t in inputs.items())
