"""The record of the machine that a figure was measured on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch

from benchmarks.gpu.chip import gpu_record
from transmamba_kernels import native

ROOT = Path(__file__).parents[1]


def machine_record(rounds: int) -> dict[str, object]:
    """Processor, threads, software, the commit measured and, where there is one, the GPU."""
    module = native.load()
    return {
        **(gpu_record() if torch.cuda.is_available() else {}),
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "instruction_set": module.isa(),
        "compiler": module.compiler,
        "openmp": module.has_openmp(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "not set"),
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "rounds": rounds,
        "commit": _git("rev-parse", "--short=12", "HEAD") or "unknown",
        # Results and documentation are written by the measurement itself.
        "uncommitted_changes": bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs")),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def usable_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(tuple(map(str.strip, line.split(":", 1))) for line in lines if ":" in line)
    name = fields.get("model name", platform.machine())
    if "cpu family" in fields:  # a virtual machine often hides the model's number in its name
        name += f" (family {fields['cpu family']}, model {fields.get('model')})"
    return name


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
