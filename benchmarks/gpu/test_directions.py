"""Scans in several directions on a GPU: bidirectional_scan, multi_scan and cross_mamba."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from benchmarks import variants
from benchmarks.gpu.beside import Bench, Case, measure
from benchmarks.gpu.test_selective_scan import FIGURES, VIM_BASE, VIM_SMALL, make_inputs
from benchmarks.peers import GPU as PEERS
from transmamba_kernels import bidirectional_scan, cross_mamba, multi_scan, scan_orders

VMAMBA = (64, 384, 196, 16)
GRID = (14, 14)
TWO_PEERS = "two of mamba_ssm, flips"


def bidirectional(u, delta, A, B, C, D, z, delta_bias, A_reverse, backend=None):
    return bidirectional_scan(u, delta, A, B, C, D, z, delta_bias, True, A_reverse=A_reverse, backend=backend)


def multi(u, delta, A, B, C, D, z, delta_bias, orders, backend=None):
    return multi_scan(u, delta, A, B, C, orders, D, z, delta_bias, True, backend=backend)


def cross(u, delta, A, B, C_text, D, z, delta_bias, backend=None):
    return cross_mamba(u, delta, A, B, C_text, D, z, delta_bias, True, backend=backend)


def bidirectional_case(shape) -> Case:
    def inputs(device: str) -> tuple[Tensor, ...]:
        single = make_inputs(shape, "channel-last", device)
        return *single, -torch.rand_like(single[2]) - 0.1

    op = "bidirectional_scan"
    return Case(op, f"{shape} channel-last", bidirectional, inputs, PEERS[op], 2 * shape[3])


def multi_case(shape, orders: Tensor) -> Case:
    call = functools.partial(multi, orders=orders)
    functools.update_wrapper(call, multi)
    name = f"{shape} channel-last, {len(orders)} orders, shared parameters"
    return Case("multi_scan", name, call, lambda d: make_inputs(shape, "channel-last", d), (), len(orders) * shape[3])


def cross_case(shape) -> Case:
    def inputs(device: str) -> tuple[Tensor, ...]:
        u, delta, A, B, C, *rest = make_inputs(shape, "channel-last", device)
        return u, delta, A, B, C[..., :1].contiguous(), *rest

    return Case("cross_mamba", f"{shape} channel-last, C of a text", cross, inputs, (), 2 * shape[3])


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("shape", [VIM_BASE, VIM_SMALL], ids=variants.as_id)
@pytest.mark.benchmark(group="bidirectional_scan on a GPU")
def test_bidirectional_scan(shape, figure, bench: Bench):
    targets = {TWO_PEERS: 6} if (shape, figure) == (VIM_BASE, "forward") else {}
    measure(bench, bidirectional_case(shape), figure, FIGURES[figure](shape, directions=2), targets)


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.benchmark(group="multi_scan on a GPU")
def test_multi_scan(figure, bench: Bench):
    orders = scan_orders.cross_scan(*GRID)
    measure(bench, multi_case(VMAMBA, orders), figure, FIGURES[figure](VMAMBA, directions=len(orders)), {})


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.benchmark(group="cross_mamba on a GPU")
def test_cross_mamba(figure, bench: Bench):
    measure(bench, cross_case(VIM_SMALL), figure, FIGURES[figure](VIM_SMALL, directions=2), {})
