"""The compiled convolution on drawn shapes, layouts and options: against the reference, in parts and packed."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.transmamba_kernels.causal_conv1d.cases import make_inputs, make_packed, run
from tests.transmamba_kernels.differentiate import differentiate
from tests.transmamba_kernels.properties import DTYPES, LAYOUTS, MACHINES, assert_same, check, running_on, some_of
from tests.transmamba_kernels.sequences import offsets
from transmamba_kernels import causal_conv1d

pytestmark = pytest.mark.usefixtures("poison")

RESULTS = ("out", "final_state")
CHANNELS, LENGTHS, WIDTHS = st.integers(1, 40), st.integers(1, 140), st.integers(1, 9)
WITHOUT = some_of("bias", "initial_state")
PACKED = st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any)
OPTIONS = st.fixed_dictionaries(
    {
        "width": WIDTHS,
        "layout": LAYOUTS,
        "dtype": DTYPES,
        "param_dtype": DTYPES,
        "without": WITHOUT,
    }
)
HOW = st.fixed_dictionaries(
    {"activation": st.sampled_from([None, "silu"]), "reverse": st.booleans(), "upstream_layout": LAYOUTS}
)


def check_both(inputs, **how):
    check(partial(run, backend="cpp"), partial(run, backend="reference"), inputs, inputs["x"].dtype, **how)


@given(batch=st.integers(1, 3), d_inner=CHANNELS, length=LENGTHS, options=OPTIONS, how=HOW, machine=MACHINES)
def test_agrees_with_the_reference(batch, d_inner, length, options, how, machine):
    with running_on(machine):
        check_both(make_inputs(batch, d_inner, length, **options), **how)


@given(lengths=PACKED, d_inner=CHANNELS, options=OPTIONS, how=HOW, machine=MACHINES)
def test_packed_agrees_with_the_reference(lengths, d_inner, options, how, machine):
    with running_on(machine):
        check_both(make_packed(lengths, d_inner, **options), cu_seqlens=offsets(lengths), **how)


@given(lengths=PACKED, d_inner=CHANNELS, width=WIDTHS, layout=LAYOUTS, reverse=st.booleans(), machine=MACHINES)
def test_packed_sequences_are_separate_ones(lengths, d_inner, width, layout, reverse, machine):
    def separate(x, initial_state, **filters):
        outs, states = [], []
        for part, state in zip(x.split(lengths, dim=-1), initial_state.split(1), strict=True):
            backend = "cpp" if part.numel() else None
            out, state = causal_conv1d(part, **filters, initial_state=state, **how, backend=backend)
            outs.append(out)
            states.append(state)
        return torch.cat(outs, dim=-1), torch.cat(states)

    how = {"activation": "silu", "return_final_state": True, "reverse": reverse}
    with running_on(machine):
        inputs = make_packed(lengths, d_inner, width=width, layout=layout, dtype=torch.float64)
        packed = run(inputs, "cpp", reverse=reverse, cu_seqlens=offsets(lengths))
        assert_same(packed, differentiate(separate, inputs, RESULTS))


@given(
    first=LENGTHS, second=LENGTHS, d_inner=CHANNELS, width=WIDTHS, layout=LAYOUTS, reverse=st.booleans(),
    machine=MACHINES,
)  # fmt: skip
def test_two_halves_through_the_state_are_one_convolution(first, second, d_inner, width, layout, reverse, machine):
    def halves(x, initial_state, **filters):
        parts, outs, state = x.split([first, second], dim=-1), [None, None], initial_state
        for i in (1, 0) if reverse else (0, 1):
            outs[i], state = causal_conv1d(parts[i], **filters, initial_state=state, **how)
        return torch.cat(outs, dim=-1), state

    how = {"activation": "silu", "return_final_state": True, "reverse": reverse, "backend": "cpp"}
    with running_on(machine):
        inputs = make_inputs(2, d_inner, first + second, width, layout=layout, dtype=torch.float64)
        assert_same(run(inputs, "cpp", reverse=reverse), differentiate(halves, inputs, RESULTS))


@given(d_inner=CHANNELS, length=LENGTHS, width=WIDTHS, layout=LAYOUTS, without=WITHOUT, machine=MACHINES)
def test_reverse_is_the_flipped_convolution_of_the_flipped_input(d_inner, length, width, layout, without, machine):
    def flipped(x, **leaves):
        how = {"activation": "silu", "return_final_state": True, "backend": "cpp"}
        out, final_state = causal_conv1d(x.flip(-1), **leaves, **how)
        return out.flip(-1), final_state

    with running_on(machine):
        inputs = make_inputs(2, d_inner, length, width, layout=layout, dtype=torch.float64, without=without)
        assert_same(run(inputs, "cpp", reverse=True), differentiate(flipped, inputs, RESULTS))
