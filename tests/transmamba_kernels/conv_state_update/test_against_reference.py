"""The compiled decoding step of the convolution against the float64 reference: the output and the state."""

import pytest
import torch

from tests.tolerances import assert_close
from tests.transmamba_kernels.conv_state_update.cases import make_inputs, run
from transmamba_kernels import causal_conv1d, conv_state_update

pytestmark = pytest.mark.usefixtures("poison")


def check(inputs, **options):
    expected = run(inputs, "reference", dtype=torch.float64, **options)
    actual = run(inputs, "cpp", **options)
    computed = torch.float64 if inputs["x"].dtype == torch.float64 else torch.float32
    for name, value in actual.items():
        assert_close(value, expected[name], computed if value.dtype == torch.float64 else value.dtype, name)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 40])
@pytest.mark.parametrize("more", [-1, 0, 1, 7])
@pytest.mark.parametrize("length", [None, 1, 2, 5, 150])
@pytest.mark.parametrize("circular", [False, True])
def test_widths_and_entries(width, more, length, circular):
    check(make_inputs(3, 9, length, width, max(width + more, 1), circular=circular))


@pytest.mark.parametrize("d_inner", [1, 31, 32, 33, 200])
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_one_token(d_inner, width, more, activation, isa):
    check(make_inputs(2, d_inner, None, width, width + more), activation=activation)


@pytest.mark.parametrize("length", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("param_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtypes(length, dtype, state_dtype, param_dtype, isa):
    check(make_inputs(2, 37, length, dtype=dtype, state_dtype=state_dtype, param_dtype=param_dtype))


@pytest.mark.parametrize("name", ["x", "conv_state", "weight", "bias"])
@pytest.mark.parametrize("length", [None, 3])
@pytest.mark.parametrize("circular", [False, True])
def test_strides(name, length, circular):
    inputs = make_inputs(2, 40, length, circular=circular)
    whole = inputs[name]
    inputs[name] = whole.mT.contiguous().mT if whole.dim() > 1 else whole.repeat(2)[::2]
    check(inputs)
    inputs[name] = torch.randn(*(2 * n for n in whole.shape))[tuple(slice(None, None, 2) for _ in whole.shape)]
    check(inputs)


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_indices(circular, kind):
    inputs = make_inputs(3, rows=7, circular=circular)
    inputs["conv_state_indices"] = inputs["conv_state_indices"].to(kind)
    check(inputs)
    others = [row for row in range(7) if row not in inputs["conv_state_indices"].tolist()]
    assert torch.equal(run(inputs, "cpp")["conv_state"][others], inputs["conv_state"][others])


def test_optional_arguments():
    check(make_inputs(without=("bias",)))
    check(make_inputs(length=3, without=("bias",)), activation=None)


def test_threads_share_the_batch_and_the_channels(threads):
    check(make_inputs(40, 1000))
    check(make_inputs(3, 300, 100, circular=True, rows=8))


@pytest.mark.parametrize("shape", [(0, 20, None), (2, 0, None), (2, 20, 0)], ids=str)
@pytest.mark.parametrize("circular", [False, True])
def test_empty(shape, circular):
    inputs = make_inputs(*shape, circular=circular)
    before = inputs["conv_state"].clone()
    assert conv_state_update(**inputs).shape == inputs["x"].shape
    assert torch.equal(inputs["conv_state"], before)


@pytest.mark.parametrize("entries", [3, 4, 9])
@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("cuts", [[1] * 30, [4, 1, 1, 2, 20, 2]], ids=["tokens", "pieces"])
@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_many_steps_are_one_convolution(entries, circular, cuts, backend):
    inputs = make_inputs(2, 20, sum(cuts), entries=entries)
    x, state = inputs["x"], torch.zeros(2, 20, entries)
    outputs, seen = [], torch.zeros(2, dtype=torch.int32) if circular else None
    for piece in x.split(cuts, dim=-1):
        token = piece.squeeze(-1) if piece.shape[-1] == 1 else piece
        out = conv_state_update(token, state, inputs["weight"], inputs["bias"], "silu", seen, backend=backend)
        outputs.append(out.reshape(piece.shape))
        if circular:
            seen += piece.shape[-1]
    expected = causal_conv1d(x, inputs["weight"], inputs["bias"], activation="silu")
    assert_close(torch.cat(outputs, dim=-1), expected.double(), torch.float32, "out")
    last = x[..., -entries:]
    if circular:
        last = last.roll(sum(cuts) % entries, dims=-1)
    assert torch.equal(state, last)


def test_not_a_number_spreads_as_in_the_reference():
    for name in ("x", "conv_state", "weight"):
        inputs = make_inputs(1, 4)
        inputs[name].view(-1)[3] = float("nan")
        expected, actual = run(inputs, "reference"), run(inputs, "cpp")
        for result, value in actual.items():
            assert torch.equal(value.isnan(), expected[result].isnan()), (name, result)
