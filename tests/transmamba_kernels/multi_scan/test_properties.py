"""Every backend of the multi-scan on drawn orders and options: against its oracle, and as a bidirectional scan."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.transmamba_kernels.differentiate import differentiate
from tests.transmamba_kernels.multi_scan.cases import BACKENDS, OWN, make_inputs, oracle, run
from tests.transmamba_kernels.properties import DTYPES, LAYOUTS, MACHINES, assert_same, check, mix, running_on, some_of
from transmamba_kernels import bidirectional_scan, scan_orders

pytestmark = [pytest.mark.usefixtures("poison"), pytest.mark.parametrize("backend", BACKENDS)]

KINDS = st.sampled_from(["time", "constant", "one", "groups", "constant_groups"])
WITHOUT = some_of("D", "z", "delta_bias", "initial_state")
SIZES = st.fixed_dictionaries(
    {"batch": st.integers(1, 2), "d_inner": st.integers(1, 20).map(lambda n: 2 * n), "d_state": st.integers(1, 20)}
)
MERGES = st.sampled_from(["sum", "none"])
LENGTHS = st.integers(1, 140)


@given(
    sizes=SIZES,
    directions=st.integers(1, 4),
    length=LENGTHS,
    own=some_of(*OWN),
    options=st.fixed_dictionaries({"B_kind": KINDS, "C_kind": KINDS, "dtype": DTYPES, "without": WITHOUT}),
    layouts=st.tuples(LAYOUTS, LAYOUTS, LAYOUTS),
    second=some_of("delta", "B", "C", "z"),
    merge=MERGES,
    permute_params=st.booleans(),
    machine=MACHINES,
)
def test_agrees_with_the_oracle(
    backend, sizes, directions, length, own, options, layouts, second, merge, permute_params, machine
):
    with running_on(machine):
        orders = torch.stack([torch.randperm(length) for _ in range(directions)])
        made = (make_inputs(**sizes, orders=orders, own=own, layout=layout, **options) for layout in layouts[:2])
        inputs = mix(*made, second)
        how = {"merge": merge, "permute_params": permute_params, "upstream_layout": layouts[2]}
        check(
            partial(run, backend=backend),
            partial(differentiate, oracle, delta_softplus=True),
            inputs,
            options["dtype"],
            **how,
        )


@given(sizes=SIZES, length=LENGTHS, own=some_of(*OWN), without=WITHOUT, layout=LAYOUTS, merge=MERGES, machine=MACHINES)
def test_raster_and_back_is_the_bidirectional_scan(backend, sizes, length, own, without, layout, merge, machine):
    def pair(orders, **leaves):
        tensors = dict(leaves)
        for name in own:
            if leaves[name] is not None:
                parts = leaves[name].unbind(0 if name in ("A", "D", "delta_bias") else 1)
                tensors[name], tensors[f"{name}_reverse"] = parts
        return bidirectional_scan(**tensors, delta_softplus=True, return_last_state=True, merge=merge)

    with running_on(machine):
        orders = scan_orders.bidirectional(length)
        inputs = make_inputs(**sizes, orders=orders, own=own, without=without, layout=layout, dtype=torch.float64)
        assert_same(run(inputs, backend, merge=merge), differentiate(pair, inputs))
