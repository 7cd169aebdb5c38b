"""The compiled decoding step against the float64 reference: the output and the state."""

import pytest
import torch

from tests.tolerances import assert_close
from tests.transmamba_kernels.state_update.cases import make_inputs, mamba2_inputs, run
from transmamba_kernels import selective_scan, state_update

pytestmark = pytest.mark.usefixtures("poison")


def check(inputs, **options):
    expected = run(inputs, "reference", dtype=torch.float64, **options)
    actual = run(inputs, "cpp", **options)
    computed = torch.float64 if inputs["x"].dtype == torch.float64 else torch.float32
    for name, value in actual.items():
        assert_close(value, expected[name], computed if value.dtype == torch.float64 else value.dtype, name)


@pytest.mark.parametrize("d_state", [1, 2, 7, 8, 15, 16, 17, 32, 64, 100, 128, 256])
@pytest.mark.parametrize("shape", [(1, (1,)), (2, (31,)), (3, (32,)), (2, (3, 5)), (1, (2, 70))], ids=str)
def test_shapes(shape, d_state, isa):
    check(make_inputs(*shape, d_state))


@pytest.mark.parametrize("channels", [(12,), (12, 3)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 3, 12])
def test_groups(channels, groups, isa):
    check(make_inputs(2, channels, 16, groups=groups))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("d_state", [5, 16])
def test_dtypes(dtype, state_dtype, d_state, isa):
    check(make_inputs(dtype=dtype, state_dtype=state_dtype, d_state=d_state))


@pytest.mark.parametrize("without", [("D",), ("z",), ("dt_bias",), ("D", "z", "dt_bias")], ids=str)
@pytest.mark.parametrize("softplus", [True, False])
def test_optional_arguments(without, softplus):
    inputs = make_inputs(without=without)
    inputs["dt"] = inputs["dt"].abs()
    check(inputs, softplus=softplus)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", [1, 16, 64])
def test_one_number_a_head_expanded(head_dim, dtype, isa):
    check(mamba2_inputs(head_dim=head_dim, dtype=dtype))


@pytest.mark.parametrize("name", ["state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias"])
@pytest.mark.parametrize("channels", [(40,), (4, 10)], ids=str)
def test_strides(name, channels, isa):
    inputs = make_inputs(2, channels)
    whole = inputs[name]
    inputs[name] = whole.mT.contiguous().mT if whole.dim() > 1 else whole.repeat(2)[::2]
    check(inputs)
    wide = torch.randn(*(2 * n for n in whole.shape))
    inputs[name] = -wide.abs() if name == "A" else wide
    inputs[name] = inputs[name][tuple(slice(None, None, 2) for _ in whole.shape)]
    check(inputs)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@pytest.mark.parametrize("channels", [(20,), (4, 5)], ids=str)
def test_indices(channels, kind):
    inputs = make_inputs(3, channels, rows=7)
    inputs["state_batch_indices"] = inputs["state_batch_indices"].to(kind)
    check(inputs)
    others = [row for row in range(7) if row not in inputs["state_batch_indices"].tolist()]
    assert torch.equal(run(inputs, "cpp")["state"][others], inputs["state"][others])


def test_threads_share_the_batch_and_the_channels(threads):
    check(make_inputs(5, (130,), 128))
    check(make_inputs(1, (1000,), 256))
    check(make_inputs(3, (40, 33), 64, groups=4, rows=8))


@pytest.mark.parametrize("shape", [(0, (20,), 16), (2, (0,), 16), (0, (4, 5), 16)], ids=str)
def test_empty(shape):
    inputs = make_inputs(*shape)
    assert state_update(**inputs).shape == inputs["x"].shape
    indexed = make_inputs(0, (20,), rows=3)
    before = indexed["state"].clone()
    assert state_update(**indexed).shape == (0, 20)
    assert torch.equal(indexed["state"], before)


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_many_steps_are_one_scan(groups, backend):
    steps = [make_inputs(groups=groups) for _ in range(40)]
    first = steps[0]
    state = first["state"].clone()
    per_step = ("x", "dt", "B", "C", "z")
    u, delta, B, C, z = (torch.stack([step[name] for step in steps], dim=-1) for name in per_step)
    shared = {name: first[name] for name in ("A", "D")}
    outputs = [
        state_update(
            state,
            *(step[name] for name in ("x", "dt")),
            first["A"],
            step["B"],
            step["C"],
            first["D"],
            step["z"],
            first["dt_bias"],
            True,
            backend=backend,
        )
        for step in steps
    ]
    expected, last = selective_scan(
        u,
        delta,
        B=B,
        C=C,
        z=z,
        delta_bias=first["dt_bias"],
        delta_softplus=True,
        initial_state=first["state"],
        return_last_state=True,
        **shared,
    )
    assert_close(torch.stack(outputs, dim=-1), expected.double(), torch.float32, "out")
    assert_close(state, last.double(), torch.float32, "state")


def test_heads_are_channels_in_a_row():
    heads = make_inputs(2, (6, 5), groups=3)
    flat = {name: t.flatten(-2) if name in ("x", "dt", "D", "z", "dt_bias") else t for name, t in heads.items()}
    flat |= {"state": heads["state"].flatten(1, 2), "A": heads["A"].flatten(0, 1)}
    for backend in ("cpp", "reference"):
        expected, actual = run(heads, backend), run(flat, backend)
        for name, value in expected.items():
            torch.testing.assert_close(actual[name], value.reshape(actual[name].shape), rtol=1e-6, atol=1e-6)


def test_a_decay_far_below_one_forgets(isa):
    inputs = make_inputs(without=("D", "z"))
    inputs["A"] = torch.full_like(inputs["A"], -1e4)
    check(inputs)


def test_not_a_number_spreads_as_in_the_reference():
    for name in ("state", "x", "dt", "A", "B"):
        inputs = make_inputs(1, (4,), 5)
        inputs[name].view(-1)[3] = float("nan")
        expected, actual = run(inputs, "reference"), run(inputs, "cpp")
        for result, value in actual.items():
            assert torch.equal(value.isnan(), expected[result].isnan()), (name, result)
