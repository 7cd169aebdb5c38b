"""Peak memory: of this process, and of programs that measure a variant each."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def peak() -> int:
    """Of resident memory, in bytes; on Linux not from getrusage, whose peak a process inherits from its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def by_process(benchmark, program: str, variants: Iterable[str], *arguments: str) -> dict[str, float]:
    """MiB that ``python -m benchmarks.<program> VARIANT *arguments`` prints for each variant, noted in ``benchmark``.

    A process for each, because the peak of a process never falls.
    """
    mebibytes = {}

    def measure():
        for variant in variants:
            command = [sys.executable, "-m", f"benchmarks.{program}", variant, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{variant}: {done.stderr[-2000:]}"
            mebibytes[variant] = float(done.stdout)

    benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info["peak MiB"] = mebibytes
    return mebibytes
