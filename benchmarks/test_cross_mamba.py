"""The cross-Mamba scan with a pooled text, beside the scan without text and beside a scan of both, joined."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks import variants
from benchmarks.interleave import interleave
from benchmarks.memory import by_process
from benchmarks.peers.concatenated_scan import cross_mamba as concatenated
from benchmarks.rows import Row
from benchmarks.test_selective_scan import VIM_SMALL
from benchmarks.test_selective_scan import make_inputs as scan_inputs
from benchmarks.verify import step
from transmamba_kernels import bidirectional_scan, cross_mamba

OP = "cross_mamba"
WITHOUT = "bidirectional_scan, no text"
JOINED = "concat, scan, slice"
SHAPES = [VIM_SMALL, (16, 384, 196, 16)]
TEXT = 32  # tokens


def call(u, delta, A, B, C_text, D, z, delta_bias, backend=None):
    return cross_mamba(u, delta, A, B, C_text, D, z, delta_bias, True, backend=backend)


def reference(*inputs):
    return call(*inputs, backend="reference")


def without_text(*inputs):
    return bidirectional_scan(*inputs, True)


def make_inputs(shape, plain=None):
    """Inputs of a scan, those of ``plain`` if given, with one text vector that reads the state."""
    plain = scan_inputs(shape) if plain is None else plain
    return (*plain[:4], torch.randn(shape[0], shape[3], 1), *plain[5:])


def make_text(shape, words=TEXT):
    """``u``, ``delta``, ``B`` and ``C`` of a text's tokens, channel-last."""
    batch, d_inner, _, d_state = shape
    return tuple(torch.randn(batch, words, width).transpose(1, 2) for width in (d_inner, d_inner, d_state, d_state))


@pytest.mark.parametrize("figure", ["forward", "training"])
@pytest.mark.parametrize("shape", SHAPES, ids=variants.as_id)
@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_beside_peers(shape, figure, benchmark, measurements, rounds):
    plain, training = scan_inputs(shape), figure == "training"
    inputs, text = make_inputs(shape, plain), make_text(shape)
    upstream = torch.randn(shape[:3]) if training else None
    case = f"{shape} channel-last"
    found = variants.our_backends(call, inputs, measurements)
    ours = next(iter(found))
    found = variants.correct_ones(found, reference, inputs, upstream, f"{case} {figure}", measurements)
    calls = {name: lambda variant=variant: step(variant, inputs, upstream) for name, variant in found.items()}
    calls[WITHOUT] = lambda: step(without_text, plain, upstream)
    calls[JOINED] = lambda: step(concatenated, (*plain, *text), upstream)  # another computation: nothing to agree with
    seconds = interleave(benchmark, calls, rounds)
    for peer in list(found)[1:]:
        measurements.add(Row(OP, case, figure, ours, peer, seconds[peer] / seconds[ours]))
    value = seconds[ours] / seconds[WITHOUT]
    measurements.add(Row(OP, case, f"{figure}, ours over it", ours, WITHOUT, value, target=1.0, at_most=True))
    value = seconds[JOINED] / seconds[ours]
    what = f"{figure}, with {TEXT} tokens of text"
    measurements.add(Row(OP, case, what, ours, JOINED, value, target=1.8))


@pytest.mark.benchmark(group=f"{OP}, wall time", timer=time.perf_counter)
def test_peak_memory(benchmark, measurements):
    mebibytes = by_process(benchmark, "cross_memory", ("fused", "joined"))
    ours, peer = f"op ({mebibytes['fused']:.0f} MiB)", f"{JOINED} ({mebibytes['joined']:.0f} MiB)"
    value, figure = (
        mebibytes["fused"] / mebibytes["joined"],
        f"training, peak memory over it, with {TEXT} tokens of text",
    )
    measurements.add(Row(OP, f"{SHAPES[1]} channel-last", figure, ours, peer, value, target=0.6, at_most=True))
