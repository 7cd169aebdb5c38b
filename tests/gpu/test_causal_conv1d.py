import pytest
import torch

from tests.tolerances import assert_all_close, assert_close
from tests.transmamba_kernels.causal_conv1d.cases import make_inputs, make_packed, run
from tests.transmamba_kernels.sequences import offsets
from transmamba_kernels import causal_conv1d

pytestmark = pytest.mark.usefixtures("poison")


def check(target, inputs, dtype=torch.float32, **options):
    expected = run(inputs, "reference", dtype=torch.float64, **options)
    assert_all_close(run(inputs, target.backend, device=target.device, **options), expected, dtype)


@pytest.mark.parametrize("length", [1, 2, 33, 130])
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths(target, length, reverse):
    check(target, make_inputs(1, 5, length), reverse=reverse)


@pytest.mark.parametrize("width", [1, 2, 3, 7])
@pytest.mark.parametrize("d_inner", [1, 67])
def test_widths(target, width, d_inner):
    check(target, make_inputs(2, d_inner, 9, width))


@pytest.mark.parametrize("shape", [(2, 40, 197, 4), (1, 3, 40, 9), (3, 33, 1, 5)], ids=str)
@pytest.mark.parametrize("layout", ["channel_last", "channel_first"])
@pytest.mark.parametrize("reverse", [False, True])
def test_shapes(target, shape, layout, reverse):
    check(target, make_inputs(*shape, layout=layout), reverse=reverse, upstream_layout=layout)


def test_not_a_number_spreads_as_far_as_the_filter_sees(target):
    lengths, at = (20, 9, 20), slice(20, 29)
    inputs = make_packed(lengths, 6)
    inputs["x"][..., at] = float("nan")
    inputs = {name: t.to(target.device) for name, t in inputs.items()}
    options = {"cu_seqlens": offsets(lengths), "return_final_state": True, "backend": target.backend}
    x = inputs["x"].requires_grad_()
    out, final_state = causal_conv1d(**inputs, **options, activation="silu")
    (dx,) = torch.autograd.grad((out, final_state), x, (torch.ones_like(out), torch.ones_like(final_state)))
    hit = torch.zeros(49, dtype=torch.bool, device=target.device)
    hit[at] = True
    for value in (out, dx):
        assert torch.equal(value.isnan(), hit.expand_as(value))
    assert final_state.isnan().flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("layout", ["channel_last", "channel_first", "chunk", "strided", "batch_last"])
@pytest.mark.parametrize("upstream_layout", ["channel_first", "channel_last"])
def test_layouts(target, layout, upstream_layout):
    check(target, make_inputs(2, 20, 35, layout=layout), upstream_layout=upstream_layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("param_dtype", [None, torch.float32])
@pytest.mark.parametrize("layout", ["channel_last", "channel_first"])
def test_dtypes(target, dtype, param_dtype, layout):
    check(target, make_inputs(1, 20, 35, dtype=dtype, layout=layout, param_dtype=param_dtype), dtype)


@pytest.mark.parametrize("without", [(), ("bias",), ("initial_state",), ("bias", "initial_state")])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_options(target, without, activation):
    check(target, make_inputs(1, 6, 9, without=without), activation=activation)


@pytest.mark.parametrize("lengths", [(5,), (0, 3, 0, 40, 1, 0), (33, 7)])
@pytest.mark.parametrize("reverse", [False, True])
def test_packed(target, lengths, reverse):
    inputs = make_packed(lengths, 6)
    expected = run(inputs, "reference", dtype=torch.float64, reverse=reverse, cu_seqlens=offsets(lengths))
    for given in (offsets(lengths), offsets(lengths).to(target.device)):
        actual = run(inputs, target.backend, device=target.device, reverse=reverse, cu_seqlens=given)
        assert_all_close(actual, expected, torch.float32)


@pytest.mark.parametrize("name", ["x", "weight", "bias", "initial_state"])
def test_gradients_that_are_not_needed_are_not_computed(target, name):
    results = []
    for backend, device in ((target.backend, target.device), ("reference", "cpu")):
        torch.manual_seed(0)
        inputs = {key: t.to(device) for key, t in make_inputs(1, 20, 35).items()}
        inputs[name].requires_grad_()
        causal_conv1d(**inputs, activation="silu", backend=backend).sum().backward()
        assert all(t.grad is None for other, t in inputs.items() if other != name)
        results.append(inputs[name].grad.cpu())
    assert_close(results[0], results[1].double(), torch.float32, name)


def test_the_widest_filter(target):
    if target.backend == "triton":
        pytest.skip("has no limit, and takes long in the interpreter")
    check(target, make_inputs(1, 2, 70, 64))
    with pytest.raises(NotImplementedError, match="takes filters of at most 64 weights, these have 65"):
        run(make_inputs(1, 2, 3, 65), target.backend, device=target.device)


def test_a_block_takes_many_tiles(target):
    """Where there are blocks enough, the sums over the tokens of many tiles are one part."""
    if target.backend == "triton":
        pytest.skip("has tiles of its own")
    check(target, make_inputs(1, 1, 64 * 2 * 2048 + 70, 2), reverse=True)


def test_the_same_bits_every_time(target):
    inputs = make_inputs(2, 20, 35)
    first, second = (run(inputs, target.backend, device=target.device) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
