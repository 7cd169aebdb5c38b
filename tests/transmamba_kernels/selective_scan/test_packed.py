"""Sequences packed in one row: as if each had been scanned alone, for values and every gradient."""

import pytest
import torch

from tests.tolerances import assert_all_close, assert_close
from tests.transmamba_kernels import inside_torch
from tests.transmamba_kernels.selective_scan.cases import check_operators, make_packed, run
from tests.transmamba_kernels.sequences import offsets
from transmamba_kernels import selective_scan

pytestmark = pytest.mark.usefixtures("poison")

LAYOUTS = ["channel_last", "channel_first", "chunk", "strided"]
KINDS = ["time", "groups", "constant", "constant_groups", "channel"]
LENGTHS = (1, 65, 0, 63, 64, 130, 1, 1, 0, 0, 9)  # around a chunk, of one step, of none
PACKED = [LENGTHS, (0, 5, 0), (7,), (1,) * 33, (130, 70)]


def check(inputs, lengths, **options):
    dtype = inputs["u"].dtype
    options["cu_seqlens"] = offsets(lengths)
    expected = run(inputs, "reference", dtype=torch.float64, **options)
    actual = run(inputs, "cpp", **options)
    assert_all_close(actual, expected, dtype)


@pytest.mark.parametrize("lengths", PACKED, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths(lengths, reverse, isa):
    check(make_packed(lengths), lengths, reverse=reverse)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_layouts_and_dtypes(layout, reverse, dtype, isa):
    check(
        make_packed(LENGTHS, 37, layout=layout, dtype=dtype, without=("z",) if reverse else ()),
        LENGTHS,
        reverse=reverse,
        upstream_layout=layout,
    )


@pytest.mark.parametrize("B_kind", KINDS)
@pytest.mark.parametrize("C_kind", KINDS)
def test_kinds_of_coefficients(B_kind, C_kind, threads):
    check(make_packed((5, 0, 70, 66), 36, 3, groups=2, B_kind=B_kind, C_kind=C_kind), (5, 0, 70, 66))


@pytest.mark.parametrize("lengths", [(0, 1, 0), (1,)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_one_step(lengths, kind, threads):
    check(make_packed(lengths, 36, groups=2, B_kind=kind, C_kind=kind), lengths)


@pytest.mark.parametrize("without", [("D", "z"), ("delta_bias",), ("initial_state",)], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_optional_arguments(without, reverse):
    check(make_packed(LENGTHS, without=without, per_sample_bias=reverse), LENGTHS, reverse=reverse)


@pytest.mark.parametrize(
    "lengths",
    [(40,) * 8, (200, 1, 1, 0), (1, 5, 300, 0, 2), (0,) * 40 + (64,) + (0,) * 40, (1,) * 200, (90, 90)],
    ids=["even", "long first", "long between", "empty but one", "short", "two"],
)
@pytest.mark.parametrize("d_inner", [3, 40])
@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_threads_share_the_row(lengths, d_inner, number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        check(make_packed(lengths, d_inner), lengths, reverse=number == 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("without", [(), ("initial_state",)], ids=str)
def test_as_one_call_for_each(backend, layout, reverse, without, threads):
    inputs = make_packed(LENGTHS, layout=layout, without=without)
    options = {"reverse": reverse, "delta_softplus": True, "return_last_state": True}
    leaves = {k: None if t is None else t.requires_grad_() for k, t in inputs.items()}
    names = [k for k, t in leaves.items() if t is not None]

    state = leaves["initial_state"]
    parts = [leaves[name].split(LENGTHS, dim=-1) for name in ("u", "delta", "B", "C", "z")]
    outs, last_states = [], []
    for i, (u, delta, B, C, z) in enumerate(zip(*parts, strict=True)):
        own = {"u": u, "delta": delta, "B": B, "C": C, "z": z}
        own["initial_state"] = None if state is None else state[i : i + 1]
        out, last_state = selective_scan(**{**leaves, **own}, **options, backend=backend if u.numel() else None)
        outs.append(out)
        last_states.append(last_state)
    alone = torch.cat(outs, dim=-1), torch.cat(last_states)
    packed = selective_scan(**leaves, **options, cu_seqlens=offsets(LENGTHS), backend=backend)

    upstream = torch.randn_like(packed[0]), torch.randn_like(packed[1])
    expected = torch.autograd.grad(alone, [leaves[k] for k in names], upstream)
    actual = torch.autograd.grad(packed, [leaves[k] for k in names], upstream)
    sums = {"A", "D", "delta_bias"}  # over the sequences, in another order
    if torch.get_num_threads() > 1:
        sums |= {"B", "C"}  # over the channels, where threads share them
    for name, a, e in zip(["out", "last_state", *names], (*packed, *actual), (*alone, *expected), strict=True):
        if name in sums:
            assert_close(a, e.double(), torch.float32, name)
        else:
            assert torch.equal(a, e), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["groups", "constant"])
@pytest.mark.parametrize("reverse", [False, True])
def test_one_sequence_is_the_plain_call(layout, kind, reverse, threads):
    inputs = make_packed((700,), 40, groups=2, layout=layout, B_kind=kind, C_kind=kind)
    plain = run(inputs, "cpp", reverse=reverse, upstream_layout=layout)
    packed = run(inputs, "cpp", reverse=reverse, upstream_layout=layout, cu_seqlens=offsets((700,)))
    for name, value in plain.items():
        assert torch.equal(value, packed[name]), name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_nothing_leaks_into_the_neighbours(layout, reverse):
    lengths, at = (20, 9, 20), slice(20, 29)
    inputs = make_packed(lengths, layout=layout)
    inputs["u"][..., at] = float("nan")
    leaves = {name: t.requires_grad_() for name, t in inputs.items()}
    options = {"delta_softplus": True, "reverse": reverse, "return_last_state": True, "backend": "cpp"}
    out, last_state = selective_scan(**leaves, **options, cu_seqlens=offsets(lengths))
    names = ("u", "delta", "B", "C", "z")
    gradients = torch.autograd.grad(
        (out, last_state), [leaves[name] for name in names], (torch.ones_like(out), torch.ones_like(last_state))
    )
    inside = torch.zeros(49, dtype=torch.bool)
    inside[at] = True
    for name, value in zip(("out", *names), (out, *gradients), strict=True):
        assert not value[..., ~inside].isnan().any(), name
    assert out[..., inside].isnan().all()
    assert last_state.isnan().flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_offsets_of_any_integer_and_stride(dtype):
    inputs = make_packed(LENGTHS)
    cu_seqlens = offsets(LENGTHS, dtype)
    expected = selective_scan(**inputs, cu_seqlens=cu_seqlens, delta_softplus=True)
    strided = cu_seqlens.repeat_interleave(2)[::2]
    assert torch.equal(selective_scan(**inputs, cu_seqlens=strided, delta_softplus=True), expected)


def test_only_empty_sequences():
    inputs = {name: t.requires_grad_() for name, t in make_packed((0, 0)).items()}
    out, last_state = selective_scan(**inputs, return_last_state=True, cu_seqlens=offsets((0, 0)))
    assert out.shape == (1, 20, 0)
    assert torch.equal(last_state, inputs["initial_state"])
    last_state.sum().backward()
    assert torch.equal(inputs["initial_state"].grad, torch.ones(2, 20, 5))


def test_complex_goes_to_the_reference():
    inputs = make_packed((5, 0, 3), without=("initial_state",))
    inputs["A"] = torch.complex(inputs["A"], torch.randn_like(inputs["A"]))
    out = selective_scan(**inputs, delta_softplus=True, cu_seqlens=offsets((5, 0, 3)))
    time = ("u", "delta", "B", "C", "z")
    alone = [
        selective_scan(**{**inputs, **{name: inputs[name][..., part] for name in time}}, delta_softplus=True)
        for part in (slice(0, 5), slice(5, 8))
    ]
    assert torch.equal(out, torch.cat(alone, dim=-1))


def test_same_bits_from_run_to_run(threads):
    lengths = (1, 300, 40, 0, 130)
    inputs = make_packed(lengths, 50, 16, groups=2, B_kind="groups", C_kind="constant_groups")
    first, second = (run(inputs, "cpp", cu_seqlens=offsets(lengths)) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


OPTIONS = [
    {},
    {"reverse": True},
    {"B_kind": "groups", "C_kind": "constant_groups", "groups": 2},
    {"B_kind": "channel", "C_kind": "constant"},
    {"without": ("D", "z", "delta_bias", "initial_state")},
    {"per_sample_bias": True, "layout": "strided"},
]
SHORT = (3, 0, 1, 4)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_gradcheck(options, backend):
    options = dict(options)
    reverse = options.pop("reverse", False)
    inputs = make_packed(SHORT, 4, 3, dtype=torch.float64, **options)
    names = [name for name, t in inputs.items() if t is not None]

    def call(*tensors):
        return selective_scan(
            **dict(zip(names, tensors, strict=True)),
            delta_softplus=True,
            return_last_state=True,
            reverse=reverse,
            cu_seqlens=offsets(SHORT),
            backend=backend,
        )

    assert torch.autograd.gradcheck(call, [inputs[name].requires_grad_() for name in names])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_opcheck(options):
    options = dict(options)
    reverse = options.pop("reverse", False)
    tensors = (*make_packed(SHORT, 6, 3, **options).values(), offsets(SHORT))
    check_operators(tensors, reverse)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic):
    # The values of the offsets are no part of what is compiled: one graph serves the first two.
    cases = [{**make_packed(lengths), "cu_seqlens": offsets(lengths)} for lengths in ((9, 61), (0, 70), (3, 30, 8))]
    inside_torch.check_compiled(selective_scan, cases, dynamic, delta_softplus=True, return_last_state=True)
    compiled = torch.compile(selective_scan, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    with pytest.raises(ValueError, match="cu_seqlens must end at the length 41, got 40"):
        compiled(**{**cases[-1], "cu_seqlens": offsets((3, 30, 7))})


def test_functional_gradient():
    inputs = make_packed(LENGTHS, without=("initial_state",))
    inside_torch.check_functional_gradient(
        selective_scan, inputs, ("u", "A"), delta_softplus=True, cu_seqlens=offsets(LENGTHS)
    )
