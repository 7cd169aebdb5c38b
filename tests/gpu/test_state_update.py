import pytest
import torch

from tests.tolerances import assert_close
from tests.transmamba_kernels.sequences import on
from tests.transmamba_kernels.state_update.cases import make_inputs, mamba2_inputs, run
from transmamba_kernels import state_update

pytestmark = pytest.mark.usefixtures("poison")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def check(target, inputs, **options):
    expected = run(inputs, "reference", dtype=torch.float64, **options)
    actual = run(inputs, target.backend, device=target.device, **options)
    for name, value in actual.items():
        assert_close(value, expected[name], value.dtype, name)


@pytest.mark.parametrize("d_state", [1, 3, 4, 16, 17, 64, 100, 256, 300])
@pytest.mark.parametrize("shape", [(2, (5,)), (1, (3, 5))], ids=str)
def test_states(target, shape, d_state):
    check(target, make_inputs(*shape, d_state))


@pytest.mark.parametrize("channels", [(1,), (67,), (2, 70)], ids=str)
def test_channels(target, channels):
    check(target, make_inputs(3, channels))


@pytest.mark.parametrize("channels", [(12,), (12, 3)], ids=str)
@pytest.mark.parametrize("groups", [1, 3, 12])
def test_groups(target, channels, groups):
    check(target, make_inputs(2, channels, 5, groups=groups))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("state_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d_state", [5, 16])
def test_dtypes(target, dtype, state_dtype, d_state):
    inputs = make_inputs(dtype=dtype, state_dtype=state_dtype, d_state=d_state)
    inputs["A"] = inputs["A"].float()
    check(target, inputs)


@pytest.mark.parametrize("without", [("D",), ("z",), ("dt_bias",), ("D", "z", "dt_bias")], ids=str)
@pytest.mark.parametrize("softplus", [True, False])
def test_optional_arguments(target, without, softplus):
    inputs = make_inputs(without=without)
    inputs["dt"] = inputs["dt"].abs()
    check(target, inputs, softplus=softplus)


@pytest.mark.parametrize("head_dim", [1, 16])
def test_one_number_a_head_expanded(target, head_dim):
    check(target, mamba2_inputs(head_dim=head_dim))


@pytest.mark.parametrize("name", ["state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias"])
@pytest.mark.parametrize("channels", [(40,), (4, 10)], ids=str)
def test_strides(target, name, channels):
    inputs = make_inputs(2, channels)
    whole = inputs[name]
    inputs[name] = whole.mT.contiguous().mT if whole.dim() > 1 else whole.repeat(2)[::2]
    check(target, inputs)
    wide = torch.randn(*(2 * n for n in whole.shape))
    inputs[name] = -wide.abs() if name == "A" else wide
    inputs[name] = inputs[name][tuple(slice(None, None, 2) for _ in whole.shape)]
    check(target, inputs)


@pytest.mark.parametrize("name", ["state", "A", "B", "C"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_that_no_vector_fits(target, name, dtype):
    inputs = make_inputs(2, (5,), dtype=dtype)
    shape = inputs[name].shape
    inputs[name] = torch.randn(shape.numel() + 1, dtype=dtype)[1:].view(shape)
    if name == "A":
        inputs[name] = -inputs[name].abs()
    check(target, inputs)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_indices(target, kind):
    inputs = make_inputs(3, (20,), rows=7)
    inputs["state_batch_indices"] = inputs["state_batch_indices"].to(kind).repeat_interleave(2)[::2]
    check(target, inputs)


def test_a_row_that_does_not_exist_updates_nothing(target):
    inputs = make_inputs(5, (20,), rows=4)
    inputs["state_batch_indices"] = torch.tensor([2, -1, 4, 2**40, 0])
    actual = run(inputs, target.backend, device=target.device)
    assert actual["out"].isnan().all(1).tolist() == [False, True, True, True, False]
    assert torch.equal(actual["state"][[1, 3]], inputs["state"][[1, 3]])
    real = [0, 4]
    kept = {name: t[real] if len(t) == 5 else t for name, t in inputs.items()}
    expected = run(kept, "reference", dtype=torch.float64)
    assert_close(actual["out"][real], expected["out"], torch.float32, "out")
    assert_close(actual["state"], expected["state"], torch.float32, "state")


def test_a_small_step_size_keeps_its_precision(target):
    inputs = make_inputs(without=("D", "z", "dt_bias"))
    inputs["dt"] = torch.linspace(-30, -5, 40).view(2, 20)
    inputs["state"].zero_()
    expected, actual = run(inputs, "reference", dtype=torch.float64), run(inputs, target.backend, device=target.device)
    torch.testing.assert_close(actual["state"].double(), expected["state"], rtol=1e-5, atol=1e-30)


def test_not_a_number_spreads_as_in_the_reference(target):
    for name in ("state", "x", "dt", "A", "B"):
        inputs = make_inputs(1, (4,), 5)
        inputs[name].view(-1)[3] = float("nan")
        expected, actual = run(inputs, "reference"), run(inputs, target.backend, device=target.device)
        for result, value in actual.items():
            assert torch.equal(value.isnan(), expected[result].isnan()), (name, result)


def test_compiled(target):
    torch._dynamo.reset()
    inputs = {name: on(target.device, t) for name, t in make_inputs(3, (20,), rows=7).items()}
    state = inputs.pop("state")
    states = state.clone(), state.clone()
    compiled = torch.compile(state_update, fullgraph=True, backend="aot_eager")
    outs = [call(s, **inputs, backend=target.backend) for call, s in zip((state_update, compiled), states, strict=True)]
    assert torch.equal(*outs)
    assert torch.equal(*states)
