import pytest
import torch

from tests.tolerances import assert_close
from tests.transmamba_kernels.conv_state_update.cases import make_inputs, run
from tests.transmamba_kernels.sequences import on
from transmamba_kernels import conv_state_update

pytestmark = pytest.mark.usefixtures("poison")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CIRCULAR = pytest.mark.parametrize("circular", [False, True])


def check(target, inputs, **options):
    expected = run(inputs, "reference", dtype=torch.float64, **options)
    actual = run(inputs, target.backend, device=target.device, **options)
    for name, value in actual.items():
        assert_close(value, expected[name], value.dtype, name)


@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("more", [-1, 0, 7, 70])
@pytest.mark.parametrize("length", [None, 3, 9])
@CIRCULAR
def test_widths_and_entries(target, width, more, length, circular):
    check(target, make_inputs(3, 5, length, width, max(width + more, 1), circular=circular))


@pytest.mark.parametrize("d_inner", [1, 67, 130])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_one_token(target, d_inner, activation):
    check(target, make_inputs(2, d_inner), activation=activation)


@pytest.mark.parametrize("length", [None, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("state_dtype", DTYPES, ids=str)
@CIRCULAR
def test_dtypes(target, length, dtype, state_dtype, circular):
    inputs = make_inputs(2, 20, length, dtype=dtype, state_dtype=state_dtype, param_dtype=DTYPES[0], circular=circular)
    check(target, inputs)


@pytest.mark.parametrize("name", ["x", "conv_state", "weight", "bias"])
@pytest.mark.parametrize("length", [None, 3])
@CIRCULAR
def test_strides(target, name, length, circular):
    inputs = make_inputs(2, 20, length, circular=circular)
    whole = inputs[name]
    inputs[name] = whole.mT.contiguous().mT if whole.dim() > 1 else whole.repeat(2)[::2]
    check(target, inputs)
    inputs[name] = torch.randn(*(2 * n for n in whole.shape))[tuple(slice(None, None, 2) for _ in whole.shape)]
    check(target, inputs)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@CIRCULAR
def test_indices(target, kind, circular):
    inputs = make_inputs(3, rows=7, circular=circular)
    for name in ("conv_state_indices", "cache_seqlens"):
        if inputs[name] is not None:
            inputs[name] = inputs[name].to(kind).repeat_interleave(2)[::2]
    check(target, inputs)


@pytest.mark.parametrize("length", [None, 3])
def test_without_bias(target, length):
    check(target, make_inputs(length=length, without=("bias",)), activation=None)


def test_a_row_that_does_not_exist_updates_nothing(target):
    inputs = make_inputs(5, rows=4, circular=True)
    inputs["conv_state_indices"] = torch.tensor([2, -1, 4, 1, 0])
    inputs["cache_seqlens"][3] = -1
    actual = run(inputs, target.backend, device=target.device)
    assert actual["out"].isnan().all(1).tolist() == [False, True, True, True, False]
    assert torch.equal(actual["conv_state"][[1, 3]], inputs["conv_state"][[1, 3]])
    real = [0, 4]
    kept = {name: t[real] if len(t) == 5 else t for name, t in inputs.items()}
    expected = run(kept, "reference", dtype=torch.float64)
    assert_close(actual["out"][real], expected["out"], torch.float32, "out")
    assert_close(actual["conv_state"], expected["conv_state"], torch.float32, "conv_state")


@pytest.mark.parametrize("entries", [3, 4, 9])
@CIRCULAR
def test_many_steps_are_one(target, entries, circular):
    inputs = make_inputs(2, 20, 9, entries=entries, circular=circular)
    inputs["conv_state"].zero_()
    x, seen = inputs.pop("x"), inputs["cache_seqlens"]
    outs = []
    for piece in x.split([1, 4, 1, 3], dim=-1):
        result = run({"x": piece, **inputs}, target.backend, device=target.device)
        inputs["conv_state"] = result["conv_state"]
        outs.append(result["out"])
        if circular:
            inputs["cache_seqlens"] = inputs["cache_seqlens"] + piece.shape[-1]
    inputs |= {"conv_state": torch.zeros(2, 20, entries), "cache_seqlens": seen}
    whole = run({"x": x, **inputs}, "reference", dtype=torch.float64)
    assert_close(torch.cat(outs, dim=-1), whole["out"], torch.float32, "out")
    assert_close(result["conv_state"], whole["conv_state"], torch.float32, "conv_state")


def test_not_a_number_spreads_as_in_the_reference(target):
    for name in ("x", "conv_state", "weight"):
        inputs = make_inputs(1, 4)
        inputs[name].view(-1)[3] = float("nan")
        expected, actual = run(inputs, "reference"), run(inputs, target.backend, device=target.device)
        for result, value in actual.items():
            assert torch.equal(value.isnan(), expected[result].isnan()), (name, result)


def test_compiled(target):
    torch._dynamo.reset()
    inputs = {name: on(target.device, t) for name, t in make_inputs(3, rows=7, circular=True).items()}
    state = inputs.pop("conv_state")
    states = state.clone(), state.clone()
    compiled = torch.compile(conv_state_update, fullgraph=True, backend="aot_eager")
    calls = zip((conv_state_update, compiled), states, strict=True)
    outs = [call(conv_state=s, **inputs, activation="silu", backend=target.backend) for call, s in calls]
    assert torch.equal(*outs)
    assert torch.equal(*states)
