"""The compiled bidirectional scan on drawn shapes, layouts and options: against the reference, and as two scans."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.transmamba_kernels.bidirectional_scan.cases import OWN, make_inputs, run
from tests.transmamba_kernels.differentiate import differentiate
from tests.transmamba_kernels.properties import DTYPES, LAYOUTS, MACHINES, assert_same, check, mix, running_on, some_of
from transmamba_kernels import selective_scan

pytestmark = pytest.mark.usefixtures("poison")

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 140), st.integers(1, 20))
KINDS = st.sampled_from(["time", "constant", "channel"])
WITHOUT = some_of("D", "z", "delta_bias", "initial_state")
MERGES = st.sampled_from(["sum", "none"])


@given(
    sizes=SIZES,
    own=some_of(*OWN),
    options=st.fixed_dictionaries({"B_kind": KINDS, "C_kind": KINDS, "dtype": DTYPES, "without": WITHOUT}),
    layouts=st.tuples(LAYOUTS, LAYOUTS, LAYOUTS),
    second=some_of("delta", "B", "C", "z", "u_reverse", "B_reverse"),
    merge=MERGES,
    machine=MACHINES,
)
def test_agrees_with_the_reference(sizes, own, options, layouts, second, merge, machine):
    with running_on(machine):
        inputs = mix(*(make_inputs(*sizes, own=own, layout=layout, **options) for layout in layouts[:2]), second)
        how = {"merge": merge, "upstream_layout": layouts[2]}
        check(partial(run, backend="cpp"), partial(run, backend="reference"), inputs, options["dtype"], **how)


@given(sizes=SIZES, own=some_of(*OWN), layout=LAYOUTS, without=WITHOUT, machine=MACHINES)
def test_is_two_selective_scans(sizes, own, layout, without, machine):
    def two(z, **leaves):
        there = {name: leaves[name] for name in OWN}
        back = {name: leaves.get(f"{name}_reverse", leaves[name]) for name in OWN}
        how = {"z": z, "delta_softplus": True, "return_last_state": True, "backend": "cpp"}
        results = selective_scan(**there, **how), selective_scan(**back, **how, reverse=True)
        return sum(out for out, _ in results), torch.stack([state for _, state in results], dim=1)

    with running_on(machine):
        inputs = make_inputs(*sizes, own=own, layout=layout, dtype=torch.float64, without=without)
        assert_same(run(inputs, "cpp"), differentiate(two, inputs))
