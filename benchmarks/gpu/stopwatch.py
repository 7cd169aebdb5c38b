"""Time on the device: calls wait in its queue, one behind another, while events take the time of their run.

The host needs some microseconds for a call, often more than the kernel. So the device is first made to wait until the
host has put all calls into the queue.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

Call = Callable[[], object]
LONGEST_WAIT = 0.05  # seconds
MOST_SETS = 512  # calls that the queue of a device holds


class Stopwatch:
    """Seconds that a CUDA device takes for calls.

    Args:
        clock: The device's, in Hz.
    """

    def __init__(self, clock: float):
        self._clock = clock

    def wait(self) -> None:
        """Until the device has done all it was given."""
        torch.cuda.synchronize()

    def __call__(self, calls: Sequence[Call], host_seconds: float) -> float:
        """Seconds of all calls together.

        Args:
            host_seconds: What the host needs to give them to the device.
        """
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(int(min(1.5 * host_seconds, LONGEST_WAIT) * self._clock))
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return 1e-3 * start.elapsed_time(end)


def sets_needed(bytes_of_one: int, cache: int) -> int:
    """How many sets of inputs to take in turn, so that none is still in a cache of this size when it comes again."""
    return min(MOST_SETS, 1 + math.ceil(2 * cache / max(bytes_of_one, 1)))


def interleave(
    benchmark, variants: Mapping[str, Sequence[Call]], rounds: int, stopwatch: Callable[[Sequence[Call], float], float]
) -> dict[str, float]:
    """Each variant's median seconds of one call, in turns A B A B.

    What pytest-benchmark itself times is a whole turn on the host, which says nothing; the ratios go to its extra info.

    Args:
        benchmark: The fixture.
        variants: By name, ours first: the same call on one set of inputs after another.
        rounds: Turns.
        stopwatch: Returns the seconds of all calls together; see :class:`Stopwatch`.
    """
    host = {name: host_seconds(calls, stopwatch) for name, calls in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}

    def turn() -> None:
        for name, calls in variants.items():
            seconds[name].append(stopwatch(calls, host[name]) / len(calls))

    benchmark.pedantic(turn, rounds=rounds)
    if not all(seconds.values()):
        pytest.skip("nothing was timed: --benchmark-disable")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians))
    benchmark.extra_info.update({f"{name}, us": 1e6 * value for name, value in medians.items()})
    benchmark.extra_info.update({f"{name} / {first}": value / medians[first] for name, value in medians.items()})
    return medians


def host_seconds(calls: Sequence[Call], stopwatch) -> float:
    """What the host needs for the calls once everything is compiled and loaded, which the first turn sees to."""
    for call in calls:
        call()
    stopwatch.wait()
    start = time.perf_counter()
    for call in calls:
        call()
    elapsed = time.perf_counter() - start
    stopwatch.wait()
    return elapsed


def copy_bandwidth(stopwatch, device: str, size: int = 2**31) -> float:
    """Bytes per second, read and written, of a copy much larger than the cache."""
    there = torch.empty(size, dtype=torch.uint8, device=device).random_()
    copy = torch.empty_like(there)
    calls = [lambda: copy.copy_(there)]
    host = host_seconds(calls, stopwatch)
    return 2 * size / statistics.median(stopwatch(calls, host) for _ in range(15))
