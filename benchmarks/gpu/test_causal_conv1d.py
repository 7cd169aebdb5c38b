"""The causal convolution on a GPU, bfloat16, with bias and silu."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import variants
from benchmarks.gpu import floors
from benchmarks.gpu.beside import FLOOR, Bench, Case, measure
from benchmarks.peers import GPU as PEERS
from transmamba_kernels import causal_conv1d

OP = "causal_conv1d"
WIDTH = 4
LONG, VIM_BASE, ODD = (8, 2048, 4096), (128, 768, 197), (3, 1000, 777)
# (batch, d_inner, length), memory layout
CASES = [
    (LONG, "channel-last"),
    (LONG, "channel-first"),
    (VIM_BASE, "channel-last"),
    (VIM_BASE, "channel-first"),
    (ODD, "channel-last"),
]
AT_LEAST = 0.85  # of the bandwidth of a copy, at the shapes that are long enough to reach it


def call(x, weight, bias, backend=None):
    return causal_conv1d(x, weight, bias, activation="silu", backend=backend)


def case(shape, layout) -> Case:
    batch, d_inner, length = shape

    def inputs(device: str) -> tuple[Tensor, ...]:
        if layout == "channel-first":
            x = torch.randn(shape, device=device, dtype=torch.bfloat16)
        else:
            x = torch.randn(batch, length, d_inner, device=device, dtype=torch.bfloat16).transpose(1, 2)
        return x, torch.randn(d_inner, WIDTH, device=device), torch.randn(d_inner, device=device)

    return Case(OP, f"{(*shape, WIDTH)} {layout}", call, inputs, PEERS[OP])


@pytest.mark.parametrize("figure", ["forward", "backward"])
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP} on a GPU")
def test_beside_peers(shape, layout, figure, bench: Bench):
    targets = {FLOOR: 1 / AT_LEAST} if figure == "forward" and shape != ODD else {}
    work = floors.convolution(*shape, backward=figure == "backward")
    measure(bench, case(shape, layout), figure, work, targets)
