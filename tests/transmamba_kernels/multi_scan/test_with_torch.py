"""The op inside torch, its errors, and when the orders are checked."""

import gc

import pytest
import torch

from tests.transmamba_kernels import inside_torch
from tests.transmamba_kernels.multi_scan.cases import BACKENDS, OWN, make_inputs, run
from transmamba_kernels import multi_scan, scan_orders
from transmamba_kernels.multi_scan import arguments

BACKEND = pytest.mark.parametrize("backend", BACKENDS)
CPU = torch.device("cpu")
WITH_STATE = {"delta_softplus": True, "return_last_state": True}


@BACKEND
@pytest.mark.parametrize("merge", ["sum", "none"])
@pytest.mark.parametrize("permute_params", [True, False])
@pytest.mark.parametrize("own", [(), ("A", "B"), OWN], ids=lambda own: "+".join(own) or "shared")
def test_gradcheck(own, permute_params, merge, backend):
    inputs = make_inputs(2, 2, (2, 2), 2, own=own, dtype=torch.float64)
    orders = inputs.pop("orders")

    def call(*tensors):
        named = dict(zip(inputs, tensors, strict=True))
        options = {"merge": merge, "permute_params": permute_params, "backend": backend}
        return multi_scan(**named, orders=orders, **WITH_STATE, **options)

    assert torch.autograd.gradcheck(call, [t.requires_grad_() for t in inputs.values()])


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("own", [(), ("u", "A"), OWN], ids=lambda own: "+".join(own) or "shared")
def test_opcheck(own, merge):
    inputs = make_inputs(2, 6, (3, 3), 3, own=own)
    orders = inputs.pop("orders")
    tensors, options, ops = (*inputs.values(), orders), ("cpp", True, merge, True), torch.ops.transmamba
    torch.library.opcheck(ops.multi_scan.default, (*tensors, *options, True, True))
    out, last_state, checkpoints = ops.multi_scan(*tensors, *options, True, True)
    upstream = torch.randn_like(out), torch.randn_like(last_state)
    arguments = (*tensors, *options, checkpoints, *upstream, [True] * len(inputs))
    torch.library.opcheck(ops.multi_scan_backward.default, arguments)


@BACKEND
@pytest.mark.parametrize("merge", ["sum", "none"])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("with_state", [True, False])
def test_compile(with_state, dynamic, merge, backend):
    grids = ((3, 3), (2, 5))
    if backend == "reference":  # its loop over time is unrolled, so every length compiles anew, for long
        dynamic, grids = False, ((2, 2),)
    cases = (make_inputs(grid=grid, own=("A", "B")) for grid in grids)
    options = {"delta_softplus": True, "return_last_state": with_state, "merge": merge, "backend": backend}
    inside_torch.check_compiled(multi_scan, cases, dynamic, **options)


@BACKEND
def test_functional_gradient(backend):
    inputs = make_inputs(own=("A",))
    inside_torch.check_functional_gradient(multi_scan, inputs, ("u", "A"), delta_softplus=True, backend=backend)


@BACKEND
def test_second_derivative(backend):
    inputs = make_inputs(1, 2, (2, 2), 2, dtype=torch.float64)
    if backend != "reference":
        inside_torch.check_second_derivative_is_refused(multi_scan, inputs, delta_softplus=True, backend=backend)
        return
    u = inputs.pop("u").requires_grad_()
    call = lambda u: multi_scan(u, **inputs, delta_softplus=True, backend=backend)  # noqa: E731
    assert torch.autograd.gradgradcheck(call, [u])


@BACKEND
@pytest.mark.parametrize("threads", [2], indirect=True)
def test_forked_child_on_one_thread(backend, threads):
    inside_torch.check_forked_child(lambda: run(make_inputs(), backend)["du"].sum().item())


@BACKEND
@pytest.mark.parametrize("merge", ["sum", "none"])
def test_one_upstream_gradient(merge, backend):
    for which in (0, 1):
        inputs = make_inputs()
        u = inputs["u"].requires_grad_()
        multi_scan(**inputs, **WITH_STATE, merge=merge, backend=backend)[which].sum().backward()
        assert u.grad.abs().sum() > 0


@BACKEND
def test_an_upstream_gradient_of_another_shape_is_refused(backend):
    inputs = make_inputs()
    inputs["u"].requires_grad_()
    out = multi_scan(**inputs, merge="none", backend=backend)
    with pytest.raises(RuntimeError, match="Mismatch in shape"):
        out.backward(torch.zeros(2, 6, 20))


def test_float16_is_served_by_the_reference():
    half = {name: t if name == "orders" else t.half() for name, t in make_inputs().items()}
    out = multi_scan(**half, delta_softplus=True)
    assert out.dtype == torch.float16
    assert torch.equal(out, multi_scan(**half, delta_softplus=True, backend="reference"))


def test_complex_goes_to_the_reference():
    inputs = make_inputs(without=("initial_state",))
    inputs["A"] = torch.complex(inputs["A"], torch.randn_like(inputs["A"]))
    out = multi_scan(**inputs, delta_softplus=True)
    assert out.dtype == torch.float32
    assert torch.equal(out, multi_scan(**inputs, delta_softplus=True, backend="reference"))


def test_shapes_alone_need_no_values():
    meta = {name: t.to("meta") for name, t in make_inputs().items()}
    assert multi_scan(**meta, merge="none").shape == (2, 4, 6, 20)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"u": [1.0]}, TypeError, "u must be a tensor, got list"),
        ({"D": 1.0}, TypeError, "D must be a tensor or None, got float"),
        ({"z": torch.zeros(2, 6, 20, dtype=torch.complex64)}, TypeError, "z must be float32.*got complex64"),
        ({"u": torch.zeros(6, 20)}, ValueError, r"u must have shape .* with K = 4, got \(6, 20\)"),
        ({"u": torch.zeros(2, 3, 6, 20)}, ValueError, r"u must have shape .* with K = 4, got \(2, 3, 6, 20\)"),
        ({"delta": torch.zeros(2, 6, 21)}, ValueError, r"delta must have shape .*= \(2, 4, 6, 20\), got \(2, 6, 21\)"),
        ({"delta": torch.zeros(2, 5, 6, 20)}, ValueError, "delta must have shape"),
        ({"A": torch.zeros(7, 3)}, ValueError, "A must have shape .* d_inner = 6 and K = 4"),
        ({"A": torch.zeros(3, 6, 3)}, ValueError, "A must have shape"),
        ({"A": torch.zeros(6, 0)}, ValueError, "A must have shape"),
        ({"A": torch.zeros(6)}, ValueError, "A must have shape"),
        ({"B": torch.zeros(2, 4, 20)}, ValueError, "B must have shape"),
        ({"B": torch.zeros(2, 2, 3, 20)}, ValueError, "B must have shape .* with K = 4 or 1.* got"),
        ({"B": torch.zeros(6, 3)}, ValueError, "B must have shape"),
        ({"C": torch.zeros(2, 3, 19)}, ValueError, "C must have shape"),
        ({"C": torch.zeros(2, 4, 4, 3, 20)}, ValueError, "C has 4 groups, which must divide d_inner = 6"),
        (
            {"B": torch.zeros(2, 1, 2, 3, 20), "C": torch.zeros(2, 4, 3, 3, 20)},
            ValueError,
            "B and C must have as many groups.*2 and 3",
        ),
        ({"D": torch.zeros(3, 6)}, ValueError, r"D must have shape .*= \(4, 6\), got \(3, 6\)"),
        ({"z": torch.zeros(2, 4, 6, 20)}, ValueError, "z must have shape"),
        ({"delta_bias": torch.zeros(2, 6)}, ValueError, "delta_bias must have shape"),
        ({"initial_state": torch.zeros(2, 3, 6)}, ValueError, "initial_state must have shape"),
        ({"initial_state": torch.zeros(2, 3, 6, 3)}, ValueError, "initial_state must have shape"),
        ({"B": torch.zeros(2, 3, 20, device="meta")}, ValueError, "B must be on the device of u, cpu, got meta"),
        ({"orders": [[0, 1]]}, TypeError, "orders must be a tensor, got list"),
        ({"orders": torch.zeros(4, 20)}, TypeError, "orders must be int64 or int32, got float32"),
        ({"orders": torch.arange(20)}, ValueError, r"orders must have shape \(K, length\).*got \(20,\)"),
        ({"orders": torch.zeros(0, 20, dtype=torch.int64)}, ValueError, "orders must have shape .*K of at least 1"),
        ({"orders": scan_orders.cross_scan(3, 7)}, ValueError, r"orders must have .* u's length = 20, got \(4, 21\)"),
        ({"orders": scan_orders.raster(4, 5).to("meta")}, ValueError, "orders must be on the CPU or the device of u"),
        ({"merge": "mean"}, ValueError, "merge must be 'sum' or 'none', got 'mean'"),
        ({"delta_softplus": 1}, TypeError, "delta_softplus must be True or False, got 1"),
        ({"permute_params": None}, TypeError, "permute_params must be True or False, got None"),
        ({"return_last_state": "yes"}, TypeError, "return_last_state must be True or False"),
        ({"backend": "cudnn"}, ValueError, "backend must be one of .*'reference' or None, got 'cudnn'"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        multi_scan(**{**make_inputs(), **change})


@BACKEND
@pytest.mark.parametrize(
    ("place", "token", "why"),
    [
        ((2, 4), 20, "row 2 stands on 20 at step 4"),
        ((0, 0), -1, "row 0 stands on -1 at step 0"),
        ((1, 7), 0, "row 1 visits token 0 twice, at steps 0 and 7"),
    ],
)
def test_a_row_that_is_no_permutation(place, token, why, backend):
    inputs = make_inputs()
    for dtype in (torch.int64, torch.int32):
        orders = inputs["orders"].to(dtype, copy=True)
        orders[place] = token
        with pytest.raises(ValueError, match=rf"permutation of range\(20\) in every row, but {why}"):
            multi_scan(**{**inputs, "orders": orders}, backend=backend)


@pytest.fixture
def checks(monkeypatch):
    """How often the rows of orders were looked at, as the length of a list."""
    seen, check_rows = [], arguments._check_rows
    monkeypatch.setattr(arguments.permutations, "_check", lambda orders: (seen.append(1), check_rows(orders)))
    return seen


@BACKEND
def test_orders_are_checked_once(checks, backend):
    inputs = make_inputs()
    inputs["u"].requires_grad_()
    for _ in range(3):
        multi_scan(**inputs, backend=backend).sum().backward()
    assert len(checks) == 1
    multi_scan(**{**inputs, "orders": inputs["orders"].clone()}, backend=backend)
    assert len(checks) == 2


def test_changed_orders_are_checked_again(checks):
    orders = scan_orders.cross_scan(2, 3)
    assert torch.equal(arguments.permutations(orders, CPU), orders)
    orders[0] = orders[0].flip(0)
    assert torch.equal(arguments.permutations(orders, CPU), orders)
    orders.view(-1)[6:12].copy_(orders[0])  # through a view
    assert torch.equal(arguments.permutations(orders, CPU), orders)
    orders.data = scan_orders.plain_mamba(2, 3)
    assert torch.equal(arguments.permutations(orders, CPU), orders)
    assert len(checks) == 4
    orders[3, 5] = 6
    with pytest.raises(ValueError, match="row 3"):
        arguments.permutations(orders, CPU)
    with pytest.raises(ValueError, match="row 3"):  # what failed is not remembered as checked
        arguments.permutations(orders, CPU)


def test_what_is_walked_is_what_was_checked():
    orders = scan_orders.cross_scan(2, 3)
    walked = arguments.permutations(orders, CPU)
    orders.numpy()[0, 0] = 1 << 40  # past torch: no version counter sees it
    assert arguments.permutations(orders, CPU) is walked
    assert torch.equal(walked, scan_orders.cross_scan(2, 3))


def test_orders_made_in_inference_mode(checks):
    with torch.inference_mode():
        orders = scan_orders.cross_scan(2, 3)
        for _ in range(2):
            arguments.permutations(orders, CPU)
        assert len(checks) == 2
        orders[0, 0] = 1
    with pytest.raises(ValueError, match="row 0"):
        arguments.permutations(orders, CPU)


def test_new_orders_are_refused_while_a_graph_is_captured(monkeypatch, checks):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    orders, gpu = scan_orders.cross_scan(2, 3), torch.device("cuda")
    arguments.permutations(orders, CPU)
    with pytest.raises(RuntimeError, match="orders cannot be checked while a CUDA graph is captured: call the op once"):
        arguments.permutations(orders, gpu)
    arguments.permutations._kept[orders][1][gpu] = on_gpu = torch.empty(0)  # as a call before the capture leaves it
    assert arguments.permutations(orders, gpu) is on_gpu
    orders[0] = orders[0].flip(0)
    with pytest.raises(RuntimeError, match="orders cannot be checked"):
        arguments.permutations(orders, gpu)
    assert len(checks) == 1


def test_orders_are_not_kept_alive():
    before = len(arguments.permutations._kept)
    orders = scan_orders.cross_scan(2, 3)
    arguments.permutations(orders, CPU)
    assert len(arguments.permutations._kept) == before + 1
    del orders
    gc.collect()
    assert len(arguments.permutations._kept) == before


def test_a_shared_tensor_is_one_object_in_all_directions():
    inputs = make_inputs(own=("A", "delta"), B_kind="one")
    inputs.pop("orders")
    found = arguments.directions(tuple(inputs.values()), 4)
    assert len(found) == 4
    for k, (u, delta, A, B, C, D, delta_bias, initial_state) in enumerate(found):
        shared = {"u": u, "C": C, "D": D, "delta_bias": delta_bias, "initial_state": initial_state}
        assert all(t is inputs[name] for name, t in shared.items())
        assert B is found[0][3]
        assert B.shape == (2, 3, 20)
        assert A.data_ptr() == inputs["A"][k].data_ptr()
        assert delta.data_ptr() == inputs["delta"][:, k].data_ptr()
