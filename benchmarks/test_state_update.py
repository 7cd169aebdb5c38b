"""One token of the selective scan with bias, softplus, skip and gate, beside its peers."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from benchmarks import decoding, variants
from benchmarks.overhead import overhead
from benchmarks.peers import STATE_UPDATE as PEERS
from benchmarks.rows import Row
from transmamba_kernels import state_update

OP = "state_update"
MAMBA_130M = (1, 1536, 16)


def call(state, x, dt, A, B, C, D, z, dt_bias, backend=None):
    return state_update(state, x, dt, A, B, C, D, z, dt_bias, True, backend=backend)


def make_inputs(batch, d_inner, d_state) -> tuple[Tensor, ...]:
    x, dt, z = torch.randn(3, batch, d_inner)
    B, C = torch.randn(2, batch, d_state)
    A = -torch.rand(d_inner, d_state) - 0.1
    return torch.randn(batch, d_inner, d_state), x, dt, A, B, C, torch.randn(d_inner), z, torch.randn(d_inner)


@pytest.mark.parametrize("shape", [MAMBA_130M, (64, 1536, 16), (1, 1536, 128)], ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_beside_peers(shape, benchmark, measurements, rounds):
    targets, at_most = ({"transformers": 7.0}, 35.0) if shape == MAMBA_130M else ({}, None)
    inputs = make_inputs(*shape)
    decoding.beside_peers(OP, call, inputs, 0, PEERS, benchmark, measurements, rounds, targets=targets, at_most=at_most)


@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_overhead(benchmark, measurements, rounds):
    inputs = make_inputs(1, 16, 16)
    with torch.no_grad():
        value = overhead(benchmark, lambda: call(*inputs), rounds)
    figure = "call without gradients"
    measurements.add(Row(OP, "(1, 16, 16)", figure, "op", "its kernel alone", value, "us", target=15, at_most=True))
