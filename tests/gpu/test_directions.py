"""The scans in several directions: bidirectional_scan, multi_scan and cross_mamba."""

import pytest
import torch
from torch.profiler import profile

from tests.tolerances import assert_all_close
from tests.transmamba_kernels.bidirectional_scan import cases as bidirectional
from tests.transmamba_kernels.cross_mamba import cases as cross
from tests.transmamba_kernels.multi_scan import cases as multi
from tests.transmamba_kernels.selective_scan.cases import coefficients
from tests.transmamba_kernels.sequences import on
from transmamba_kernels import cross_mamba, scan_orders

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


def test_directions_with_other_groups(target):
    inputs = bidirectional.make_inputs(1, 6, 5, 3, own=("B",))
    inputs["B_reverse"] = coefficients("groups", 1, 6, 3, 5, groups=2)
    expected = bidirectional.run(inputs, "reference", dtype=torch.float64)
    assert_all_close(bidirectional.run(inputs, target.backend, device=target.device), expected, torch.float32)


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


@pytest.mark.parametrize("text", ["constant", "constant_groups"])
def test_a_pooled_text_over_several_tiles(target, text):
    if target.backend == "triton":
        pytest.skip("walks from step to step, and its interpreter is slow")
    inputs = cross.make_inputs(2, 6, 70, 3, text=text)
    expected = cross.run(inputs, "reference")
    assert_all_close(cross.run(inputs, target.backend, device=target.device), expected, torch.float32)


def test_a_pooled_text_takes_no_memory_for_each_step(target):
    """Neither it nor its gradient, which is added up over time in the kernel; a text of every step takes it."""
    if target.backend == "triton":
        pytest.skip("has memory for the states of a few steps, which at a size for its interpreter is more")
    length, d_state = 8, 64
    largest = {}
    for text in ("constant", "time"):
        given = cross.make_inputs(1, 2, length, d_state, text=text)
        inputs = {name: None if t is None else on(target.device, t) for name, t in given.items()}
        for name in ("u", "C_text"):
            inputs[name].requires_grad_()
        with profile(profile_memory=True) as found:
            cross_mamba(**inputs, delta_softplus=True, backend=target.backend).sum().backward()
        used = [max(event.self_cpu_memory_usage, event.self_device_memory_usage) for event in found.events()]
        largest[text] = max(used)
    assert largest["constant"] < 4 * length * d_state <= largest["time"]
