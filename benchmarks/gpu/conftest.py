"""What benchmarks on a GPU are given; without one they are skipped."""

from __future__ import annotations

import gc

import pytest
import torch

from benchmarks.gpu.beside import Bench
from benchmarks.gpu.chip import Chip, highest_clock
from benchmarks.gpu.stopwatch import Stopwatch, copy_bandwidth
from benchmarks.machine import usable_cpus
from benchmarks.rows import Row

GUESSED_CLOCK = 2e9  # only to wait for the host, where the clock is not known


@pytest.fixture(scope="session")
def _gpu(request) -> tuple[Chip | None, Stopwatch, str]:
    """The chip, or None; how its time is taken; and why its rates are not known."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    try:
        clock, problem = highest_clock(), ""
    except RuntimeError as error:
        clock, problem = GUESSED_CLOCK, str(error)
    stopwatch = Stopwatch(clock)
    bandwidth = copy_bandwidth(stopwatch, "cuda")
    torch.cuda.empty_cache()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    chip = None if problem else Chip(properties.multi_processor_count, clock, bandwidth)
    return chip, stopwatch, problem


@pytest.fixture(autouse=True)
def _one_thread(_gpu):
    """Not here: the host's threads only compute what results are held against."""
    before = torch.get_num_threads()
    torch.set_num_threads(usable_cpus())
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture
def bench(_gpu, benchmark, measurements, rounds) -> Bench:
    chip, stopwatch, problem = _gpu
    if chip is None:
        measurements.leave_out("floors", problem)
    elif not any(row.op == "memory" for row in measurements.rows):
        bandwidth = 1e-12 * chip.bandwidth
        measurements.add(
            Row("memory", "2 GiB", "copy, read and written", "torch", "-", bandwidth, "TB/s", device="gpu")
        )
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return Bench("cuda", chip, cache, stopwatch, benchmark, measurements, rounds)
