"""The compiled decoding step on drawn shapes, strides and options: against the reference, and many as one scan."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tolerances import assert_close
from tests.transmamba_kernels.properties import DTYPES, MACHINES, check, running_on, some_of, spread_out
from tests.transmamba_kernels.state_update.cases import make_inputs, run
from transmamba_kernels import selective_scan, state_update

pytestmark = pytest.mark.usefixtures("poison")

BATCHES, STATES, GROUPS = st.integers(1, 4), st.integers(1, 40), st.sampled_from([None, 1, 2, 3])


def channels(groups, per_group, head_dim):
    heads = (groups or 1) * per_group
    return (heads,) if head_dim is None else (heads, head_dim)


@given(
    batch=BATCHES,
    groups=GROUPS,
    per_group=st.integers(1, 14),
    head_dim=st.none() | st.integers(1, 20),
    d_state=STATES,
    spare=st.none() | st.integers(0, 3),
    dtypes=st.tuples(DTYPES, DTYPES),
    without=some_of("D", "z", "dt_bias"),
    spread=some_of("state", "x", "dt", "A", "B", "C", "D", "z", "dt_bias"),
    softplus=st.booleans(),
    machine=MACHINES,
)
def test_agrees_with_the_reference(
    batch, groups, per_group, head_dim, d_state, spare, dtypes, without, spread, softplus, machine
):
    with running_on(machine):
        inputs = make_inputs(
            batch,
            channels(groups, per_group, head_dim),
            d_state,
            groups=groups,
            rows=None if spare is None else batch + spare,
            dtype=dtypes[0],
            state_dtype=dtypes[1],
            without=without,
        )
        if not softplus:  # a negative step would grow
            inputs["dt"] = inputs["dt"].abs()
        inputs = spread_out(inputs, spread)
        check(partial(run, backend="cpp"), partial(run, backend="reference"), inputs, dtypes[0], softplus=softplus)


@given(batch=BATCHES, groups=GROUPS, per_group=st.integers(1, 14), d_state=STATES, steps=st.integers(1, 40),
       machine=MACHINES)  # fmt: skip
def test_many_steps_are_one_scan(batch, groups, per_group, d_state, steps, machine):
    with running_on(machine):
        made = [
            make_inputs(batch, channels(groups, per_group, None), d_state, groups=groups, dtype=torch.float64)
            for _ in range(steps)
        ]
        state, _, _, A, _, _, D, _, bias = made[0].values()
        moving = state.clone()
        outs = [
            state_update(
                moving, step["x"], step["dt"], A, step["B"], step["C"], D, step["z"], bias, True, backend="cpp"
            )
            for step in made
        ]
        u, delta, B, C, z = (torch.stack([step[name] for step in made], dim=-1) for name in ("x", "dt", "B", "C", "z"))
        out, last_state = selective_scan(
            u, delta, A, B, C, D, z, bias, True, initial_state=state, return_last_state=True, backend="cpp"
        )
        assert_close(torch.stack(outs, dim=-1), out, torch.float64, "out")
        assert_close(moving, last_state, torch.float64, "state")
