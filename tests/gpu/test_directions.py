"""The scans in several directions: bidirectional_scan, multi_scan and cross_mamba."""

import pytest
import torch

from tests.tolerances import assert_all_close
from tests.transmamba_kernels.bidirectional_scan import cases as bidirectional
from tests.transmamba_kernels.cross_mamba import cases as cross
from tests.transmamba_kernels.multi_scan import cases as multi
from transmamba_kernels import scan_orders

pytestmark = pytest.mark.usefixtures("poison")


@pytest.mark.parametrize("own", [(), ("A", "B"), bidirectional.OWN], ids=["shared", "A+B", "own"])
@pytest.mark.parametrize("merge", ["sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bidirectional_scan(target, own, merge, dtype):
    inputs = bidirectional.make_inputs(1, 6, 35, 3, own=own, dtype=dtype)
    expected = bidirectional.run(inputs, "reference", dtype=torch.float64, merge=merge)
    assert_all_close(bidirectional.run(inputs, target.backend, device=target.device, merge=merge), expected, dtype)


@pytest.mark.parametrize("own", [(), ("u", "delta", "B"), multi.OWN], ids=["shared", "u+delta+B", "own"])
@pytest.mark.parametrize("merge", ["sum", "none"])
@pytest.mark.parametrize("permute_params", [True, False])
def test_multi_scan(target, own, merge, permute_params):
    inputs = multi.make_inputs(1, 6, (3, 3), 3, own=own)
    options = {"merge": merge, "permute_params": permute_params}
    expected = multi.run(inputs, "oracle", **options)
    assert_all_close(multi.run(inputs, target.backend, device=target.device, **options), expected, torch.float32)


@pytest.mark.parametrize("B_kind", ["constant", "groups", "one"])
def test_multi_scan_coefficients(target, B_kind):
    inputs = multi.make_inputs(2, 6, orders=scan_orders.snake(2, 4), own=("C",), B_kind=B_kind, C_kind="groups")
    assert_all_close(
        multi.run(inputs, target.backend, device=target.device), multi.run(inputs, "oracle"), torch.float32
    )


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ({}, {}),
        ({}, {"bidirectional": False}),
        ({"text": "time", "image": "time", "gate": (3,)}, {}),
        ({"per_sample_bias": True, "text": "constant_groups"}, {}),
        ({"without": ("D",), "text": "time"}, {"of_last_state": True}),
    ],
    ids=str,
)
def test_cross_mamba(target, inputs, options):
    given = cross.make_inputs(2, 6, 7, 3, **inputs)
    expected = cross.run(given, "reference", **options)
    assert_all_close(cross.run(given, target.backend, device=target.device, **options), expected, torch.float32)
