"""The compiled scan on drawn shapes, layouts and options: against the reference, and identities of the recurrence."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tolerances import assert_close
from tests.transmamba_kernels.differentiate import differentiate
from tests.transmamba_kernels.properties import DTYPES, LAYOUTS, MACHINES, assert_same, check, mix, running_on, some_of
from tests.transmamba_kernels.selective_scan.cases import make_inputs, run
from transmamba_kernels import selective_scan

pytestmark = pytest.mark.usefixtures("poison")

HOW = {"delta_softplus": True, "return_last_state": True, "backend": "cpp"}
TIMED = ("u", "delta", "B", "C", "z")
KINDS = st.sampled_from(["time", "groups", "constant", "constant_groups", "channel"])
WITHOUT = some_of("D", "z", "delta_bias", "initial_state")
SIZES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "groups": st.integers(1, 3),
        "channels": st.integers(1, 14),  # of a group: up to 42, beyond two tiles
        "length": st.integers(1, 140),  # beyond two chunks
        "d_state": st.integers(1, 20),
    }
)


def draw(sizes, **options):
    sizes = dict(sizes)
    return make_inputs(d_inner=sizes["groups"] * sizes.pop("channels"), **sizes, **options)


def over_time(inputs, change):
    """The inputs with ``change`` made to those that have a part for each step."""
    return {name: change(t) if name in TIMED and t is not None else t for name, t in inputs.items()}


@given(
    sizes=SIZES,
    options=st.fixed_dictionaries(
        {
            "B_kind": KINDS,
            "C_kind": KINDS,
            "dtype": DTYPES,
            "param_dtype": DTYPES,
            "per_sample_bias": st.booleans(),
            "without": WITHOUT,
        }
    ),
    layouts=st.tuples(LAYOUTS, LAYOUTS, LAYOUTS),
    second=some_of("delta", "B", "C", "z"),
    reverse=st.booleans(),
    softplus=st.booleans(),
    machine=MACHINES,
)
def test_agrees_with_the_reference(sizes, options, layouts, second, reverse, softplus, machine):
    with running_on(machine):
        first, other = (draw(sizes, layout=layout, **options) for layout in layouts[:2])
        inputs = mix(first, other, second)
        if not softplus:  # a negative step would grow
            for name in ("delta", "delta_bias"):
                inputs[name] = None if inputs[name] is None else inputs[name].abs() * 0.3
        how = {"reverse": reverse, "softplus": softplus, "upstream_layout": layouts[2]}
        check(partial(run, backend="cpp"), partial(run, backend="reference"), inputs, options["dtype"], **how)


@given(sizes=SIZES, layout=LAYOUTS, without=WITHOUT, machine=MACHINES)
def test_reverse_is_the_flipped_scan_of_the_flipped_input(sizes, layout, without, machine):
    def flipped(**leaves):
        out, last_state = selective_scan(**over_time(leaves, lambda t: t.flip(-1)), **HOW)
        return out.flip(-1), last_state

    with running_on(machine):
        kinds = {"B_kind": "groups", "C_kind": "groups"}
        inputs = draw(sizes, layout=layout, dtype=torch.float64, without=without, **kinds)
        assert_same(run(inputs, "cpp", reverse=True), differentiate(flipped, inputs))


@given(sizes=SIZES, layout=LAYOUTS, at=st.integers(1, 139), reverse=st.booleans(), machine=MACHINES)
def test_two_halves_through_the_state_are_one_scan(sizes, layout, at, reverse, machine):
    length = sizes["length"] + 1
    at %= length - 1

    def halves(**leaves):
        parts = [over_time(leaves, lambda t: t[..., : at + 1]), over_time(leaves, lambda t: t[..., at + 1 :])]
        state, outs = leaves["initial_state"], [None, None]
        for i in (1, 0) if reverse else (0, 1):
            outs[i], state = selective_scan(**{**parts[i], "initial_state": state}, reverse=reverse, **HOW)
        return torch.cat(outs, dim=-1), state

    with running_on(machine):
        inputs = draw({**sizes, "length": length}, layout=layout, dtype=torch.float64)
        assert_same(differentiate(halves, inputs), run(inputs, "cpp", reverse=reverse))


@given(sizes=SIZES, layout=LAYOUTS, a=st.integers(-3, 3), reverse=st.booleans(), machine=MACHINES)
def test_linear_in_u_and_the_initial_state(sizes, layout, a, reverse, machine):
    with running_on(machine):
        first, second = (draw(sizes, layout=layout, dtype=torch.float64, without=("z",)) for _ in range(2))
        ends = ("u", "initial_state")
        both = {**first, **{name: a * first[name] + second[name] for name in ends}}
        results = [
            selective_scan(**inputs, reverse=reverse, **HOW) for inputs in (first, mix(first, second, ends), both)
        ]
        for name, x, y, sum_ in zip(("out", "last_state"), *results, strict=True):
            assert_close(sum_, a * x + y, torch.float64, name)
