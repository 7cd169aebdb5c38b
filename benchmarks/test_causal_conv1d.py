"""The causal convolution with bias and silu, beside torch's and beside a plain copy of the same bytes."""

from __future__ import annotations

import functools
import time

import pytest
import torch
from torch import Tensor

from benchmarks import variants
from benchmarks.interleave import interleave
from benchmarks.machine import usable_cpus
from benchmarks.overhead import overhead, record
from benchmarks.peers import CAUSAL_CONV1D as PEERS
from benchmarks.rows import Row
from benchmarks.verify import step
from transmamba_kernels import causal_conv1d

OP = "causal_conv1d"
KERNEL = "cpp, kernel alone"
LARGE, VIM_TINY = (8, 1536, 1024, 4), (8, 384, 197, 4)
# (batch, d_inner, length, width), memory layout
CASES = [(LARGE, "channel-last"), (LARGE, "channel-first"), (VIM_TINY, "channel-last")]


def call(x, weight, bias, backend=None, cu_seqlens=None):
    return causal_conv1d(x, weight, bias, activation="silu", cu_seqlens=cu_seqlens, backend=backend)


def reference(*inputs):
    return call(*inputs, backend="reference")


def make_inputs(shape, layout="channel-last") -> tuple[Tensor, ...]:
    batch, d_inner, length, width = shape
    if layout == "channel-first":
        x = torch.randn(batch, d_inner, length)
    else:
        x = torch.randn(batch, length, d_inner).transpose(1, 2)
    return x, torch.randn(d_inner, width), torch.randn(d_inner)


@pytest.mark.parametrize("figure", ["forward", "training"])
@pytest.mark.parametrize(("shape", "layout"), CASES, ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_beside_peers(shape, layout, figure, benchmark, measurements, rounds):
    inputs, training = make_inputs(shape, layout), figure == "training"
    upstream = torch.randn_like(inputs[0]) if training else None
    case = f"{shape} {layout}"
    found = variants.our_backends(call, inputs, measurements)
    ours = next(iter(found))
    found |= variants.peers(OP, PEERS, shape[2], training, measurements)
    found = variants.correct_ones(found, reference, inputs, upstream, f"{case} {figure}", measurements)
    calls = {name: lambda variant=variant: step(variant, inputs, upstream) for name, variant in found.items()}
    bounds = {} if training or ours == "reference" else _bounds(inputs)
    seconds = interleave(benchmark, calls | bounds, rounds)
    for peer in list(found)[1:]:
        target = 4 if training and shape == LARGE and peer == "torch" else None
        measurements.add(Row(OP, case, figure, ours, peer, seconds[peer] / seconds[ours], target=target))
    for what, copy in ((ours, "copy"), (KERNEL, "copy, warm")) if bounds else ():
        share, target = 100 * seconds[copy] / seconds[what], 60 if case == f"{LARGE} channel-last" else None
        measurements.add(Row(OP, case, "forward, share of bandwidth", what, copy, share, "%", target))


def _bounds(inputs):
    """A copy reads and writes what the convolution reads and writes, so its time is the bound.

    ``copy`` allocates its result, as the op does; ``copy, warm`` writes to memory that is there already, as the kernel
    alone does.
    """
    x = inputs[0]
    there = torch.empty_like(x)
    with torch.no_grad():
        kernel, arguments = record(lambda: call(*inputs))
    return {"copy": x.clone, "copy, warm": lambda: there.copy_(x), KERNEL: lambda: kernel(*arguments)}


@pytest.mark.parametrize("figure", ["forward", "training"])
@pytest.mark.parametrize("layout", ["channel-last", "channel-first"])
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_packed(layout, figure, benchmark, measurements, rounds):
    lengths = torch.randint(1, 513, (64,))
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    shape = (1, 768, int(lengths.sum()), 4)
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
    measurements.add(Row(OP, case, figure, f"{ours}, one sequence", what, value, target=1.1, at_most=True))


@pytest.mark.parametrize("figure", ["forward", "training"])
@pytest.mark.benchmark(group=f"{OP}, wall time", timer=time.perf_counter)
def test_two_threads(figure, benchmark, measurements, rounds):
    if usable_cpus() < 2:
        measurements.leave_out("two threads", "this machine gives the process one processor")
        pytest.skip("one processor")
    inputs = make_inputs(LARGE)
    upstream = torch.randn_like(inputs[0]) if figure == "training" else None
    (ours, variant), *_ = variants.our_backends(call, inputs, measurements).items()

    def on(threads: int):
        torch.set_num_threads(threads)
        step(variant, inputs, upstream)

    seconds = interleave(benchmark, {"two": lambda: on(2), "one": lambda: on(1)}, rounds, time.perf_counter)
    value = seconds["one"] / seconds["two"]
    measurements.add(Row(OP, f"{LARGE} channel-last", f"{figure}, wall time", f"{ours}, 2 threads", "1 thread", value))


@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_overhead(benchmark, measurements, rounds):
    inputs = make_inputs((1, 16, 1, 4))
    found = variants.our_backends(call, inputs, measurements)
    if next(iter(found)) == "reference":
        measurements.leave_out(f"{OP} call without gradients", "no compiled backend serves it")
        pytest.skip("no compiled backend")
    with torch.no_grad():
        value = overhead(benchmark, lambda: call(*inputs), rounds)
    figure, case = "call without gradients", "(1, 16, 1, 4) channel-last"
    measurements.add(Row(OP, case, figure, "op", "its kernel alone", value, "us", target=15, at_most=True))
