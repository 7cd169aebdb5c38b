"""The bidirectional scan, all shared or with an A each, beside one selective scan and beside two with flips."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks import variants
from benchmarks.interleave import interleave
from benchmarks.peers import BIDIRECTIONAL_SCAN as PEERS
from benchmarks.rows import Row
from benchmarks.test_selective_scan import MAMBA_130M, VIM_SMALL
from benchmarks.test_selective_scan import make_inputs as scan_inputs
from benchmarks.verify import step
from transmamba_kernels import bidirectional_scan, selective_scan

OP = "bidirectional_scan"
ONE = "one selective_scan"
CASES = [(VIM_SMALL, "channel-last"), (MAMBA_130M, "channel-last"), ((2, 200, 333, 16), "channel-first")]


def call(u, delta, A, B, C, D, z, delta_bias, A_reverse, backend=None):
    return bidirectional_scan(u, delta, A, B, C, D, z, delta_bias, True, A_reverse=A_reverse, backend=backend)


def shared(u, delta, A, B, C, D, z, delta_bias, backend=None):
    return bidirectional_scan(u, delta, A, B, C, D, z, delta_bias, True, backend=backend)


def reference(*inputs):
    return call(*inputs, backend="reference")


def one_scan(*inputs):
    return selective_scan(*inputs, True)


@pytest.mark.parametrize("figure", ["forward", "training"])
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_beside_peers(shape, layout, figure, benchmark, measurements, rounds):
    single, training = scan_inputs(shape, layout), figure == "training"
    inputs = (*single, -torch.rand_like(single[2]) - 0.1)
    upstream = torch.randn(shape[:3]) if training else None
    case = f"{shape} {layout}"
    found = variants.our_backends(call, inputs, measurements)
    ours = next(iter(found))
    found |= variants.peers(OP, PEERS, shape[2], training, measurements)
    found = variants.correct_ones(found, reference, inputs, upstream, f"{case} {figure}", measurements)
    calls = {name: lambda variant=variant: step(variant, inputs, upstream) for name, variant in found.items()}
    calls[ONE] = lambda: step(one_scan, single, upstream)
    seconds = interleave(benchmark, calls, rounds)
    for peer in list(found)[1:]:
        measurements.add(Row(OP, case, figure, ours, peer, seconds[peer] / seconds[ours]))
    value = seconds[ours] / seconds[ONE]
    measurements.add(Row(OP, case, f"{figure}, ours over it", ours, ONE, value, target=2.0, at_most=True))


@pytest.mark.parametrize("figure", ["forward", "training"])
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_shared_parameters(shape, layout, figure, benchmark, measurements, rounds):
    inputs = scan_inputs(shape, layout)
    upstream = torch.randn(shape[:3]) if figure == "training" else None
    case = f"{shape} {layout}, all shared"
    found = variants.our_backends(shared, inputs, measurements)
    found = variants.correct_ones(
        found, lambda *t: shared(*t, backend="reference"), inputs, upstream, f"{case} {figure}", measurements
    )
    ours, variant = next(iter(found.items()))
    calls = {ours: lambda: step(variant, inputs, upstream), ONE: lambda: step(one_scan, inputs, upstream)}
    seconds = interleave(benchmark, calls, rounds)
    value = seconds[ours] / seconds[ONE]
    measurements.add(Row(OP, case, f"{figure}, ours over it", ours, ONE, value, target=1.75, at_most=True))
