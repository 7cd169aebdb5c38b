"""One token of the causal convolution with bias and silu, beside its peers."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from benchmarks import decoding, variants
from benchmarks.peers import CONV_STATE_UPDATE as PEERS
from transmamba_kernels import conv_state_update

OP = "conv_state_update"


def call(x, conv_state, weight, bias, backend=None):
    return conv_state_update(x, conv_state, weight, bias, "silu", backend=backend)


def make_inputs(batch, d_inner, width) -> tuple[Tensor, ...]:
    state, weight = torch.randn(batch, d_inner, width), torch.randn(d_inner, width)
    return torch.randn(batch, d_inner), state, weight, torch.randn(d_inner)


@pytest.mark.parametrize("shape", [(1, 1536, 4), (64, 1536, 4)], ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_beside_peers(shape, benchmark, measurements, rounds):
    inputs = make_inputs(*shape)
    decoding.beside_peers(OP, call, inputs, 1, PEERS, benchmark, measurements, rounds, targets={})
