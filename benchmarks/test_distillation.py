"""What distillation costs over plain training of the student, the teacher's forward pass included."""

from __future__ import annotations

import time

import pytest

from benchmarks.distillation import CASE, KINDS, training
from benchmarks.interleave import interleave
from benchmarks.memory import by_process
from benchmarks.rows import Row

OP = "distillation"


@pytest.mark.benchmark(group=f"{OP}, processor time", timer=time.process_time)
def test_step(benchmark, measurements, rounds):
    seconds = interleave(benchmark, {kind: training(kind) for kind in KINDS}, rounds)
    value = seconds["distilled"] / seconds["plain"]
    measurements.add(Row(OP, CASE, "step, ours over it", *KINDS, value, target=2.2, at_most=True))


@pytest.mark.benchmark(group=f"{OP}, wall time", timer=time.perf_counter)
def test_peak_memory(benchmark, measurements):
    mebibytes = by_process(benchmark, "distillation", KINDS)
    ours, peer = (f"{kind} ({mebibytes[kind]:.0f} MiB)" for kind in KINDS)
    value = mebibytes["distilled"] / mebibytes["plain"]
    measurements.add(Row(OP, CASE, "peak memory, ours over it", ours, peer, value, target=1.6, at_most=True))
