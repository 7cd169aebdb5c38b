"""The selective scan on a GPU, bfloat16, with bias, softplus, skip and gate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import variants
from benchmarks.gpu import floors
from benchmarks.gpu.beside import FLOOR, Bench, Case, measure, peak_memory
from benchmarks.peers import GPU as PEERS
from transmamba_kernels import selective_scan

OP = "selective_scan"
LAYOUTS = ("channel-last", "channel-first")
LONG, VIM_SMALL = (8, 2048, 4096, 16), (64, 384, 197, 16)
FEW_CHANNELS, VIM_BASE = (1, 2048, 65536, 16), (128, 768, 197, 16)
MAMBA_130M, MAMBA_2_8B = (8, 1536, 2048, 16), (1, 5120, 2048, 16)
# 2048 steps are the length that mamba_ssm loads in vectors, 2000 are not.
SHAPES = [LONG, VIM_SMALL, FEW_CHANNELS, VIM_BASE, MAMBA_130M, MAMBA_2_8B, (8, 2048, 2048, 16), (8, 2048, 2000, 16)]
SHAPES += [(64, 192, 197, 16), (1, 64, 65536, 16), (3, 1000, 777, 16)]
TARGETS = {
    (LONG, "forward"): {FLOOR: 1.3, "mamba_ssm": 2.5},
    (LONG, "backward"): {FLOOR: 1.8, "mamba_ssm": 3},
    (VIM_SMALL, "forward"): {FLOOR: 1.6, "mamba_ssm": 4.5},
    (VIM_SMALL, "backward"): {FLOOR: 2.1, "mamba_ssm": 5},
    (FEW_CHANNELS, "forward"): {"mamba_ssm": 1.7},
    (FEW_CHANNELS, "backward"): {"mamba_ssm": 2.2},
    (VIM_BASE, "forward"): {FLOOR: 1.35, "mamba_ssm": 5},
    (VIM_BASE, "backward"): {FLOOR: 1.8, "mamba_ssm": 6},
}
FIGURES = {"forward": floors.scan_forward, "backward": floors.scan_backward}


def call(u, delta, A, B, C, D, z, delta_bias, backend=None):
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, True, backend=backend)


def make_inputs(shape, layout, device, dtype=torch.bfloat16) -> tuple[Tensor, ...]:
    """Parameters are float32, as mamba_ssm wants them."""
    batch, d_inner, length, d_state = shape

    def sequence(channels: int) -> Tensor:
        if layout == "channel-first":
            return torch.randn(batch, channels, length, device=device, dtype=dtype)
        return torch.randn(batch, length, channels, device=device, dtype=dtype).transpose(1, 2)

    def parameter(*size: int) -> Tensor:
        return torch.randn(*size, device=device)

    u, delta, z = sequence(d_inner), sequence(d_inner), sequence(d_inner)
    A = -parameter(d_inner, d_state).abs() - 0.1
    return u, delta, A, sequence(d_state), sequence(d_state), parameter(d_inner), z, parameter(d_inner)


def case(shape, layout=LAYOUTS[0]) -> Case:
    def inputs(device: str) -> tuple[Tensor, ...]:
        return make_inputs(shape, layout, device)

    return Case(OP, f"{shape} {layout}", call, inputs, PEERS[OP], shape[3])


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("shape", SHAPES, ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP} on a GPU")
def test_beside_peers(shape, figure, bench: Bench):
    measure(bench, case(shape), figure, FIGURES[figure](shape), TARGETS.get((shape, figure), {}))


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("shape", [LONG, VIM_SMALL], ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP} on a GPU")
def test_channel_first(shape, figure, bench: Bench):
    measure(bench, case(shape, LAYOUTS[1]), figure, FIGURES[figure](shape), {})


@pytest.mark.parametrize("shape", [LONG, VIM_BASE], ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP} on a GPU")
def test_peak_memory(shape, bench: Bench):
    peak_memory(bench, case(shape))
