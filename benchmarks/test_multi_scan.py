"""The multi-scan over VMamba's four orders of 14 x 14 tokens, beside one selective scan and beside four with copies."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from benchmarks import variants
from benchmarks.interleave import interleave
from benchmarks.peers import MULTI_SCAN as PEERS
from benchmarks.rows import Row
from benchmarks.test_selective_scan import make_inputs as scan_inputs
from benchmarks.verify import step
from transmamba_kernels import multi_scan, scan_orders, selective_scan

OP = "multi_scan"
ONE = "one selective_scan"
GRID, SHAPE = (14, 14), (8, 384, 196, 16)
ORDERS = scan_orders.cross_scan(*GRID)
K = len(ORDERS)


def call(u, delta, A, B, C, D, z, delta_bias, backend=None):
    return multi_scan(u, delta, A, B, C, ORDERS, D, z, delta_bias, True, backend=backend)


def reference(*inputs):
    return call(*inputs, backend="reference")


def one_scan(*inputs):
    return selective_scan(*inputs, True)


def make_inputs(parameters: str) -> tuple[Tensor, ...]:
    """Channel-last; with ``"own"`` parameters all but ``u`` and ``z`` have a part for each direction, as in VMamba."""
    batch, d_inner, length, d_state = SHAPE
    u, delta, A, B, C, D, z, delta_bias = scan_inputs(SHAPE)
    if parameters == "own":
        delta, B, C = (
            torch.randn(batch, length, K * channels).transpose(1, 2).unflatten(1, (K, channels))
            for channels in (d_inner, d_state, d_state)
        )
        A, D, delta_bias = -torch.rand(K, d_inner, d_state) - 0.1, torch.randn(K, d_inner), torch.randn(K, d_inner)
    return u, delta, A, B, C, D, z, delta_bias


@pytest.mark.parametrize("figure", ["forward", "training"])
@pytest.mark.parametrize("parameters", ["shared", "own"])
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_beside_peers(parameters, figure, benchmark, measurements, rounds):
    inputs, single, training = make_inputs(parameters), scan_inputs(SHAPE), figure == "training"
    upstream = torch.randn(SHAPE[:3]) if training else None
    case = f"{SHAPE} channel-last, {K} orders, {parameters} parameters"
    found = variants.our_backends(call, inputs, measurements)
    ours = next(iter(found))
    for name, peer in variants.peers(OP, PEERS, SHAPE[2], training, measurements):
        found[name] = lambda *tensors, peer=peer: peer(*tensors, ORDERS)
    found = variants.correct_ones(found, reference, inputs, upstream, f"{case} {figure}", measurements)
    calls = {name: lambda variant=variant: step(variant, inputs, upstream) for name, variant in found.items()}
    calls[ONE] = lambda: step(one_scan, single, upstream)
    seconds = interleave(benchmark, calls, rounds)
    for peer in list(found)[1:]:
        measurements.add(Row(OP, case, figure, ours, peer, seconds[peer] / seconds[ours]))
    value = seconds[ours] / seconds[ONE]
    measurements.add(Row(OP, case, f"{figure}, ours over it", ours, ONE, value, target=3.5, at_most=True))
