"""Sequences packed in one row: as if each had been convolved alone, for values and every gradient."""

import pytest
import torch

from tests.tolerances import assert_all_close, assert_close
from tests.transmamba_kernels.causal_conv1d.cases import check_operators, make_packed, run
from tests.transmamba_kernels.sequences import offsets
from transmamba_kernels import causal_conv1d

pytestmark = pytest.mark.usefixtures("poison")

LAYOUTS = ["channel_last", "channel_first", "chunk", "strided"]
LENGTHS = (1, 40, 0, 2, 3, 71, 1, 1, 0, 0, 9)  # shorter than the filter, of its length, one, none
PACKED = [LENGTHS, (0, 5, 0), (7,), (1,) * 33, (130, 70)]


def check(inputs, lengths, **options):
    options["cu_seqlens"] = offsets(lengths)
    expected = run(inputs, "reference", dtype=torch.float64, **options)
    actual = run(inputs, "cpp", **options)
    assert_all_close(actual, expected)


@pytest.mark.parametrize("lengths", PACKED, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths(lengths, layout, reverse, isa):
    check(make_packed(lengths, layout=layout), lengths, reverse=reverse, upstream_layout=layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_dtypes(dtype, layout, reverse, isa):
    check(make_packed(LENGTHS, 37, layout=layout, dtype=dtype), LENGTHS, reverse=reverse, upstream_layout=layout)


@pytest.mark.parametrize("width", [1, 2, 5, 40])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_widths(width, layout):
    check(make_packed(LENGTHS, width=width, layout=layout), LENGTHS, upstream_layout=layout)


@pytest.mark.parametrize("without", [("bias",), ("initial_state",), ("bias", "initial_state")])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("reverse", [False, True])
def test_optional_arguments(without, activation, reverse):
    check(make_packed(LENGTHS, without=without), LENGTHS, activation=activation, reverse=reverse)


@pytest.mark.parametrize("lengths", [(5, 2601, 0, 40, 700, 0), (1,) * 1100, (0, 1024, 0, 1024, 0)], ids=len)
@pytest.mark.parametrize("d_inner", [3, 80])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_threads_share_the_row(lengths, d_inner, layout, reverse, threads):
    check(make_packed(lengths, d_inner, layout=layout), lengths, reverse=reverse, upstream_layout=layout)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("without", [(), ("initial_state",)], ids=str)
def test_as_one_call_for_each(backend, layout, reverse, without):
    inputs = make_packed(LENGTHS, layout=layout, without=without)
    options = {"reverse": reverse, "activation": "silu", "return_final_state": True}
    leaves = {k: None if t is None else t.requires_grad_() for k, t in inputs.items()}
    names = [k for k, t in leaves.items() if t is not None]

    state = leaves["initial_state"]
    outs, final_states = [], []
    for i, x in enumerate(leaves["x"].split(LENGTHS, dim=-1)):
        arguments = {**leaves, "x": x, "initial_state": None if state is None else state[i : i + 1]}
        out, final_state = causal_conv1d(**arguments, **options, backend=backend if x.numel() else None)
        outs.append(out)
        final_states.append(final_state)
    alone = torch.cat(outs, dim=-1), torch.cat(final_states)
    packed = causal_conv1d(**leaves, **options, cu_seqlens=offsets(LENGTHS), backend=backend)

    upstream = torch.randn_like(packed[0]), torch.randn_like(packed[1])
    expected = torch.autograd.grad(alone, [leaves[k] for k in names], upstream)
    actual = torch.autograd.grad(packed, [leaves[k] for k in names], upstream)
    for name, a, e in zip(["out", "final_state", *names], (*packed, *actual), (*alone, *expected), strict=True):
        if name in ("weight", "bias"):  # sums over the sequences, in another order
            assert_close(a, e.double(), torch.float32, name)
        else:
            assert torch.equal(a, e), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_one_sequence_is_the_plain_call(layout, reverse, threads):
    inputs = make_packed((700,), layout=layout)
    plain = run(inputs, "cpp", reverse=reverse, upstream_layout=layout)
    packed = run(inputs, "cpp", reverse=reverse, upstream_layout=layout, cu_seqlens=offsets((700,)))
    for name, value in plain.items():
        assert torch.equal(value, packed[name]), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_leaks_into_the_neighbours(layout, reverse):
    lengths, at = (20, 9, 20), slice(20, 29)
    inputs = make_packed(lengths, layout=layout)
    inputs["x"][..., at] = float("nan")
    x = inputs["x"].requires_grad_()
    options = {"activation": "silu", "reverse": reverse, "return_final_state": True, "backend": "cpp"}
    out, final_state = causal_conv1d(**inputs, **options, cu_seqlens=offsets(lengths))
    (dx,) = torch.autograd.grad((out, final_state), x, (torch.ones_like(out), torch.ones_like(final_state)))
    hit = torch.zeros(49, dtype=torch.bool)
    hit[at] = True
    for value in (out, dx):
        assert torch.equal(value.isnan(), hit.expand_as(value))
    assert final_state.isnan().flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_offsets_of_any_integer_and_stride(dtype):
    inputs = make_packed(LENGTHS)
    cu_seqlens = offsets(LENGTHS, dtype)
    expected = causal_conv1d(**inputs, cu_seqlens=cu_seqlens, backend="reference")
    strided = cu_seqlens.repeat_interleave(2)[::2]
    for given in (cu_seqlens, strided):
        torch.testing.assert_close(causal_conv1d(**inputs, cu_seqlens=given, backend="cpp"), expected)


def test_only_empty_sequences():
    inputs = {name: t.requires_grad_() for name, t in make_packed((0, 0)).items()}
    out, final_state = causal_conv1d(**inputs, return_final_state=True, cu_seqlens=offsets((0, 0)))
    assert out.shape == (1, 20, 0)
    assert torch.equal(final_state, inputs["initial_state"])
    final_state.sum().backward()
    assert torch.equal(inputs["initial_state"].grad, torch.ones(2, 20, 3))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_bits_from_run_to_run(layout, threads):
    lengths = (1, 1100, 40, 0, 300)
    inputs = make_packed(lengths, 50, layout=layout)
    first, second = (run(inputs, "cpp", upstream_layout=layout, cu_seqlens=offsets(lengths)) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


OPTIONS = [
    {},
    {"reverse": True},
    {"activation": None, "without": ("bias", "initial_state")},
    {"layout": "channel_first", "reverse": True},
]
SHORT = (3, 0, 1, 4)


def split(options):
    """Options of the inputs, activation, reverse."""
    options = dict(options)
    return options, options.pop("activation", "silu"), options.pop("reverse", False)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_gradcheck(options, backend):
    options, activation, reverse = split(options)
    inputs = make_packed(SHORT, 3, dtype=torch.float64, **options)
    names = [name for name, t in inputs.items() if t is not None]

    def call(*tensors):
        return causal_conv1d(
            **dict(zip(names, tensors, strict=True)),
            activation=activation,
            return_final_state=True,
            reverse=reverse,
            cu_seqlens=offsets(SHORT),
            backend=backend,
        )

    assert torch.autograd.gradcheck(call, [inputs[name].requires_grad_() for name in names])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_opcheck(options):
    options, activation, reverse = split(options)
    silu, tensors = activation is not None, (*make_packed(SHORT, 6, **options).values(), offsets(SHORT))
    check_operators(tensors, silu, reverse)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(causal_conv1d, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    # The values of the offsets are no part of what is compiled: one graph serves the first two.
    for lengths in ((9, 61), (0, 70), (3, 30, 8)):
        inputs = make_packed(lengths)
        leaves = [
            {k: t.clone(memory_format=torch.preserve_format).requires_grad_() for k, t in inputs.items()}
            for _ in range(2)
        ]
        for call, given in zip((causal_conv1d, compiled), leaves, strict=True):
            out, final_state = call(**given, activation="silu", return_final_state=True, cu_seqlens=offsets(lengths))
            (out.sin().sum() + final_state.square().sum()).backward()
        for name in inputs:
            # Not bit for bit: the upstream gradient may have another layout, and the sums another order.
            assert_close(leaves[1][name].grad, leaves[0][name].grad.double(), torch.float32, name)
    with pytest.raises(ValueError, match="cu_seqlens must end at the length 41, got 40"):
        compiled(**inputs, cu_seqlens=offsets((3, 30, 7)))


def test_functional_gradient():
    inputs = make_packed(LENGTHS)

    def loss(x):
        return causal_conv1d(**{**inputs, "x": x}, activation="silu", cu_seqlens=offsets(LENGTHS)).square().sum()

    x = inputs["x"].clone().requires_grad_()
    loss(x).backward()
    torch.testing.assert_close(torch.func.grad(loss)(inputs["x"]), x.grad)
