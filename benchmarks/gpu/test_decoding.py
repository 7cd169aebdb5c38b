"""One token on a GPU, bfloat16: the scan's step and the convolution's, each of which changes its state."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from benchmarks import variants
from benchmarks.decoding import both_results
from benchmarks.gpu import floors
from benchmarks.gpu.beside import Bench, Case, add_rows, found, poisoned
from benchmarks.gpu.stopwatch import interleave, sets_needed
from benchmarks.peers import GPU as PEERS
from transmamba_kernels import conv_state_update, state_update

D_INNER, D_STATE, WIDTH = 5120, 16, 4  # of mamba-2.8b
BATCHES = (1, 2, 4, 8, 16, 32, 64)


def one_token(state, x, dt, A, B, C, D, z, dt_bias, backend=None):
    return state_update(state, x, dt, A, B, C, D, z, dt_bias, True, backend=backend)


def one_convolved(x, conv_state, weight, bias, backend=None):
    return conv_state_update(x, conv_state, weight, bias, "silu", backend=backend)


def scan_case(batch: int, d_inner: int = D_INNER, dtype=torch.bfloat16) -> Case:
    def inputs(device: str) -> tuple[Tensor, ...]:
        def activation(*size: int) -> Tensor:
            return torch.randn(batch, *size, device=device, dtype=dtype)

        x, dt, z = activation(d_inner), activation(d_inner), activation(d_inner)
        A = -torch.rand(d_inner, D_STATE, device=device) - 0.1
        D, dt_bias = torch.randn(2, d_inner, device=device)
        return activation(d_inner, D_STATE), x, dt, A, activation(D_STATE), activation(D_STATE), D, z, dt_bias

    return Case("state_update", f"{(batch, d_inner, D_STATE)}", one_token, inputs, PEERS["state_update"])


def convolution_case(batch: int, d_inner: int = D_INNER, dtype=torch.bfloat16) -> Case:
    def inputs(device: str) -> tuple[Tensor, ...]:
        x = torch.randn(batch, d_inner, device=device, dtype=dtype)
        state = torch.randn(batch, d_inner, WIDTH, device=device, dtype=dtype)
        return x, state, torch.randn(d_inner, WIDTH, device=device), torch.randn(d_inner, device=device)

    return Case("conv_state_update", f"{(batch, d_inner, WIDTH)}", one_convolved, inputs, PEERS["conv_state_update"])


def measure(bench: Bench, case: Case, state: int, work: floors.Work, targets: dict[str, float]) -> None:
    """Add the rows of one token; ``state`` is which of the inputs is changed."""
    inputs = case.make_inputs(bench.device)
    ours, theirs = found(bench, case, inputs)
    checked = {name: both_results(variant, state) for name, variant in (ours | theirs).items()}

    def reference(*given: Tensor) -> Tensor:
        return case.call(*given, backend="reference")

    what = f"{case.name} {case.op}"
    with poisoned():
        right = variants.correct_ones(checked, both_results(reference, state), inputs, None, what, bench.measurements)
    size = sum(t.numel() * t.element_size() for t in inputs)
    sets = [case.make_inputs(bench.device) for _ in range(sets_needed(size, bench.cache))]

    def prepared(name: str, given: Sequence[Tensor]):
        variant = (ours | theirs)[name]

        def run() -> None:
            with torch.no_grad():
                variant(*given)

        return run

    calls = {name: [prepared(name, given) for given in sets] for name in right}
    seconds = interleave(bench.benchmark, calls, bench.rounds, bench.stopwatch)
    add_rows(bench, case.op, case.name, "one token", seconds, [name for name in ours if name in right], work, targets)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.benchmark(group="state_update on a GPU")
def test_state_update(batch, bench: Bench):
    work = floors.state_update(batch, D_INNER, D_STATE)
    measure(bench, scan_case(batch), 0, work, {"mamba_ssm": 1.0})


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.benchmark(group="conv_state_update on a GPU")
def test_conv_state_update(batch, bench: Bench):
    work = floors.conv_state_update(batch, D_INNER, WIDTH)
    measure(bench, convolution_case(batch), 1, work, {})
