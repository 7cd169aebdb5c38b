"""The selective scan with bias, softplus, skip and gate, beside its peers."""

from __future__ import annotations

import functools
import itertools
import json
import time

import pytest
import torch
from torch import Tensor

from benchmarks import variants
from benchmarks.interleave import interleave
from benchmarks.machine import usable_cpus
from benchmarks.memory import by_process
from benchmarks.overhead import overhead
from benchmarks.peers import SELECTIVE_SCAN as PEERS
from benchmarks.rows import Row
from benchmarks.verify import step
from transmamba_kernels import selective_scan

OP = "selective_scan"
VIM_SMALL, MAMBA_130M = (8, 384, 197, 16), (1, 1536, 1024, 16)
ONE_TILE, FOUR_TILES = (1, 16, 4096, 16), (1, 64, 16384, 16)  # of channels: two threads share the first one's states
# (batch, d_inner, length, d_state), memory layout
CASES = [
    (VIM_SMALL, "channel-last"),
    (MAMBA_130M, "channel-last"),
    (FOUR_TILES, "channel-last"),
    ((2, 200, 333, 16), "channel-first"),
]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = ("channel-last", "channel-first")
# (dtype, layout), what it is held against, that in words, how many times its cost is allowed
COMPARISONS = [((dtype, LAYOUTS[0]), ("float32", LAYOUTS[0]), "float32", 1.15) for dtype in ("bfloat16", "float16")]
COMPARISONS += [((dtype, LAYOUTS[1]), (dtype, LAYOUTS[0]), LAYOUTS[0], 1.25) for dtype in DTYPES]
TARGETS = {(shape, "forward"): 32 for shape in (VIM_SMALL, MAMBA_130M)}
TARGETS |= {(shape, "training"): 30 for shape in (VIM_SMALL, MAMBA_130M)}


def call(u, delta, A, B, C, D, z, delta_bias, backend=None, cu_seqlens=None):
    return selective_scan(u, delta, A, B, C, D, z, delta_bias, True, cu_seqlens=cu_seqlens, backend=backend)


def reference(*inputs):
    return call(*inputs, backend="reference")


def make_inputs(shape, layout="channel-last", dtype=torch.float32) -> tuple[Tensor, ...]:
    batch, d_inner, length, d_state = shape

    def sequence(channels: int) -> Tensor:
        if layout == "channel-first":
            return torch.randn(batch, channels, length).to(dtype)
        return torch.randn(batch, length, channels).to(dtype).transpose(1, 2)

    u, delta, z = sequence(d_inner), sequence(d_inner), sequence(d_inner)
    A = -torch.rand(d_inner, d_state) - 0.1
    return u, delta, A, sequence(d_state), sequence(d_state), torch.randn(d_inner), z, torch.randn(d_inner)


@pytest.mark.parametrize("figure", ["forward", "training"])
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_beside_peers(shape, layout, figure, benchmark, measurements, rounds):
    inputs, training = make_inputs(shape, layout), figure == "training"
    upstream = torch.randn(shape[:3]) if training else None
    case = f"{shape} {layout}"
    found = variants.our_backends(call, inputs, measurements)
    ours = next(iter(found))
    found |= variants.peers(OP, PEERS, shape[2], training, measurements)
    found = variants.correct_ones(found, reference, inputs, upstream, f"{case} {figure}", measurements)
    calls = {name: lambda variant=variant: step(variant, inputs, upstream) for name, variant in found.items()}
    seconds = interleave(benchmark, calls, rounds)
    for peer in list(found)[1:]:
        target = TARGETS.get((shape, figure)) if peer == "torch_loop" else None
        measurements.add(Row(OP, case, figure, ours, peer, seconds[peer] / seconds[ours], target=target))


@pytest.mark.parametrize("figure", ["forward", "training"])
@pytest.mark.parametrize("shape", [VIM_SMALL, MAMBA_130M], ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_dtypes_and_layouts(shape, figure, benchmark, measurements, rounds):
    calls = {}
    for dtype, layout in itertools.product(DTYPES, LAYOUTS):
        inputs = make_inputs(shape, layout, DTYPES[dtype])
        upstream = torch.randn_like(inputs[0]) if figure == "training" else None
        ours, variant = next(iter(variants.our_backends(call, inputs, measurements).items()))
        what = f"{shape} {layout} {dtype} {figure}"
        variants.correct_ones({ours: variant}, reference, inputs, upstream, what, measurements)
        calls[dtype, layout] = functools.partial(step, variant, inputs, upstream)
    seconds = interleave(benchmark, calls, rounds)

    for (dtype, layout), beside, peer, target in COMPARISONS:
        value = seconds[dtype, layout] / seconds[beside]
        case, measured = f"{shape} {layout}", f"{figure}, ours over it"
        measurements.add(Row(OP, case, measured, f"{ours}, {dtype}", peer, value, target=target, at_most=True))


@pytest.mark.parametrize("figure", ["forward", "training"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_packed(layout, figure, benchmark, measurements, rounds):
    lengths = torch.randint(1, 513, (64,))
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    shape = (1, 256, int(lengths.sum()), 16)
    inputs = make_inputs(shape, layout)
    upstream = torch.randn_like(inputs[0]) if figure == "training" else None
    case, packed = f"{shape} {layout}", functools.partial(call, cu_seqlens=cu_seqlens)
    (ours, one), *_ = variants.our_backends(call, inputs, measurements).items()
    found = {ours: functools.partial(packed, backend=ours)}
    expected = functools.partial(packed, backend="reference")
    found = variants.correct_ones(found, expected, inputs, upstream, f"{case} packed {figure}", measurements)
    seconds = interleave(
        benchmark,
        {"one": lambda: step(one, inputs, upstream), "packed": lambda: step(found[ours], inputs, upstream)},
        rounds,
    )
    value, what = seconds["packed"] / seconds["one"], f"{ours}, 64 packed sequences of 1 to 512"
    target = 1.1 if layout == LAYOUTS[0] else None
    measurements.add(Row(OP, case, figure, f"{ours}, one sequence", what, value, target=target, at_most=True))


@pytest.mark.parametrize("figure", ["forward", "training"])
@pytest.mark.parametrize("shape", [VIM_SMALL, MAMBA_130M, ONE_TILE, FOUR_TILES], ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP}, wall time", timer=time.perf_counter)
def test_two_threads(shape, figure, benchmark, measurements, rounds):
    if usable_cpus() < 2:
        measurements.leave_out("two threads", "this machine gives the process one processor")
        pytest.skip("one processor")
    inputs = make_inputs(shape)
    upstream = torch.randn(shape[:3]) if figure == "training" else None
    (ours, variant), *_ = variants.our_backends(call, inputs, measurements).items()

    def on(threads: int):
        torch.set_num_threads(threads)
        step(variant, inputs, upstream)

    seconds = interleave(benchmark, {"two": lambda: on(2), "one": lambda: on(1)}, rounds, time.perf_counter)
    value = seconds["one"] / seconds["two"]
    case = f"{shape} channel-last"
    target = 1.8 if shape in (VIM_SMALL, MAMBA_130M) else None
    measurements.add(Row(OP, case, f"{figure}, wall time", f"{ours}, 2 threads", "1 thread", value, target=target))


@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_overhead(benchmark, measurements, rounds):
    inputs = make_inputs((1, 16, 1, 16))
    with torch.no_grad():
        value = overhead(benchmark, lambda: call(*inputs), rounds)
    figure, case = "call without gradients", "(1, 16, 1, 16) channel-last"
    measurements.add(Row(OP, case, figure, "op", "its kernel alone", value, "us", target=15, at_most=True))


@pytest.mark.benchmark(group=f"{OP}, wall time", timer=time.perf_counter)
def test_peak_memory(benchmark, measurements):
    shape = (2, 1536, 4096, 16)
    (ours, _), *_ = variants.our_backends(call, make_inputs((1, 4, 4, 4)), measurements).items()
    mebibytes = by_process(benchmark, "peak_memory", (ours, "torch_loop"), json.dumps(shape))
    value = mebibytes["torch_loop"] / mebibytes[ours]
    figure = f"training, peak memory ({mebibytes[ours]:.0f} MiB)"
    peer = f"torch_loop ({mebibytes['torch_loop']:.0f} MiB)"
    measurements.add(Row(OP, f"{shape} channel-last", figure, ours, peer, value, target=25))
