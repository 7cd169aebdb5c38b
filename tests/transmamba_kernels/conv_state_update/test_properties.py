"""The compiled step of the convolution on drawn shapes and options: against the reference, and many as one call."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tolerances import assert_close
from tests.transmamba_kernels.conv_state_update.cases import make_inputs, run
from tests.transmamba_kernels.properties import DTYPES, MACHINES, check, running_on, some_of, spread_out
from transmamba_kernels import causal_conv1d, conv_state_update

pytestmark = pytest.mark.usefixtures("poison")

BATCHES, CHANNELS, WIDTHS = st.integers(1, 4), st.integers(1, 40), st.integers(1, 9)


@given(
    batch=BATCHES,
    d_inner=CHANNELS,
    length=st.none() | st.integers(1, 20),
    width=WIDTHS,
    more=st.integers(-1, 7),
    spare=st.none() | st.integers(0, 3),
    circular=st.booleans(),
    dtypes=st.tuples(DTYPES, DTYPES, DTYPES),
    without=some_of("bias"),
    spread=some_of("x", "conv_state", "weight", "bias"),
    activation=st.sampled_from([None, "silu"]),
    machine=MACHINES,
)
def test_agrees_with_the_reference(
    batch, d_inner, length, width, more, spare, circular, dtypes, without, spread, activation, machine
):
    with running_on(machine):
        inputs = make_inputs(
            batch,
            d_inner,
            length,
            width,
            max(width + more, 1),
            rows=None if spare is None else batch + spare,
            circular=circular,
            dtype=dtypes[0],
            state_dtype=dtypes[1],
            param_dtype=dtypes[2],
            without=without,
        )
        inputs = spread_out(inputs, spread)
        check(partial(run, backend="cpp"), partial(run, backend="reference"), inputs, dtypes[0], activation=activation)


@given(
    batch=BATCHES,
    d_inner=CHANNELS,
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    width=WIDTHS,
    more=st.integers(-1, 7),
    circular=st.booleans(),
    machine=MACHINES,
)
def test_many_steps_are_one_convolution(batch, d_inner, lengths, width, more, circular, machine):
    with running_on(machine):
        total, entries = sum(lengths), max(width + more, 1)
        x, _, weight, bias, *_ = make_inputs(batch, d_inner, total, width, dtype=torch.float64).values()
        state, seen, outs = x.new_zeros(batch, d_inner, entries), torch.zeros(batch, dtype=torch.int64), []
        for part in x.split(lengths, dim=-1):
            position = seen if circular else None
            outs.append(conv_state_update(part, state, weight, bias, "silu", position, backend="cpp"))
            seen += part.shape[-1]
        expected = causal_conv1d(x, weight, bias, activation="silu", backend="cpp")
        assert_close(torch.cat(outs, dim=-1), expected, torch.float64)
        last = torch.cat([x.new_zeros(batch, d_inner, entries), x], dim=-1)[..., -entries:]
        assert torch.equal(state, last.roll(total, -1) if circular else last)
