"""What a call of an op costs on top of its kernel: the kernel calls it makes, recorded and made again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from transmamba_kernels import native

CALLS = 500


class _Recorder:
    """Stands in for the compiled module and keeps every call of its functions."""

    def __init__(self, module: ModuleType):
        self._module = module
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not callable(found):
            return found

        def recorded(*arguments: Any) -> Any:
            self.calls.append((found, arguments))
            return found(*arguments)

        return recorded


def record(call: Callable[[], object]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The one kernel call that ``call()`` makes, with its arguments."""
    recorder = _Recorder(native.load())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "module", recorder)
        call()
    assert len(recorder.calls) == 1, f"expected one kernel call, saw {len(recorder.calls)}"
    return recorder.calls[0]


def overhead(benchmark, call: Callable[[], object], rounds: int) -> float:
    """Microseconds per call of ``call()`` beyond its kernel call, processor time, interleaved."""
    kernel, arguments = record(call)
    direct: list[float] = []
    whole: list[float] = []

    def kernel_alone() -> None:
        start = time.process_time()
        for _ in range(CALLS):
            kernel(*arguments)
        direct.append(time.process_time() - start)

    def target() -> None:
        start = time.process_time()
        for _ in range(CALLS):
            call()
        whole.append(time.process_time() - start)

    for _ in range(CALLS):  # warm
        call()
    benchmark.pedantic(target, setup=kernel_alone, rounds=rounds)
    if not direct:
        pytest.skip("nothing was timed: --benchmark-disable")
    return 1e6 / CALLS * (statistics.median(whole) - statistics.median(direct))
