"""Time variants in turn, A B A B, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import pytest

Call = Callable[[], object]


def interleave(benchmark, variants: Mapping[str, Call], rounds: int, clock=time.process_time) -> dict[str, float]:
    """Return each variant's median seconds.

    Every variant runs once untimed. The first is the target that pytest-benchmark times too; the others run in the
    setup of each of its rounds, so that one round is one turn of all.

    Args:
        benchmark: The fixture, marked with the timer that ``clock`` is.
        variants: Calls by name, ours first.
        rounds: Turns.
        clock: ``time.process_time`` for processor time, ``time.perf_counter`` to compare numbers of threads.
    """
    (name, target), *others = variants.items()
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}

    def timed(variant: str, call: Call) -> None:
        start = clock()
        call()
        seconds[variant].append(clock() - start)

    def turn_of_the_others() -> None:
        for variant, call in others:
            timed(variant, call)

    for call in variants.values():
        call()
    benchmark.pedantic(lambda: timed(name, target), setup=turn_of_the_others, rounds=rounds)
    if not all(seconds.values()):
        pytest.skip("nothing was timed: --benchmark-disable")
    medians = {variant: statistics.median(values) for variant, values in seconds.items()}
    benchmark.extra_info.update({f"{variant} / {name}": medians[variant] / medians[name] for variant, _ in others})
    return medians
