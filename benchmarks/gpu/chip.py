"""The GPU that is measured: what it is, and the rates that floors are computed from."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import metadata
from typing import NamedTuple

import torch

# Per multiprocessor and clock, the same from Ampere to Blackwell: results of the special function units (exp2, log2,
# reciprocal), and lanes for which an instruction is issued (4 schedulers, a warp of 32 each).
SPECIAL_PER_CLOCK = 16
LANES_PER_CLOCK = 128
PEERS = ("mamba_ssm", "causal_conv1d")


class Chip(NamedTuple):
    """Rates of a GPU.

    Attributes:
        multiprocessors: How many it has.
        clock: Of a multiprocessor at most, in Hz.
        bandwidth: Bytes per second that a large copy reads and writes, measured.
    """

    multiprocessors: int
    clock: float
    bandwidth: float

    @property
    def special(self) -> float:
        """Exponentials, logarithms and reciprocals per second."""
        return SPECIAL_PER_CLOCK * self.multiprocessors * self.clock

    @property
    def lanes(self) -> float:
        """Instructions of one lane per second."""
        return LANES_PER_CLOCK * self.multiprocessors * self.clock


H200 = Chip(132, 1.98e9, 4.3e12)  # the one that the kernels are designed for; a copy has reached this bandwidth


def highest_clock() -> float:
    """The multiprocessors' clock at most, in Hz.

    Raises:
        RuntimeError: ``nvidia-smi`` is missing or does not tell.
    """
    text = _nvidia_smi("clocks.max.sm")
    if not re.fullmatch(r"\d+ MHz", text):
        raise RuntimeError(f"nvidia-smi does not tell the highest clock, but {text!r}")
    return 1e6 * int(text.split()[0])


def gpu_record() -> dict[str, object]:
    """Card, driver, clocks as they are now and at most, and what the kernels were built with."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_mib": properties.total_memory // 2**20,
        "l2_mib": properties.L2_cache_size // 2**20,
        "driver": _nvidia_smi("driver_version"),
        "clocks": {name: _nvidia_smi(f"clocks.{name}") for name in ("sm", "mem", "max.sm", "max.mem")},
        "power_limit": _nvidia_smi("power.limit"),
        "cuda": torch.version.cuda,
        "nvcc": _nvcc(),
        "triton": _version("triton"),
        "peers": {name: _version(name) for name in PEERS},
    }


def _nvidia_smi(field: str) -> str:
    """A field of the first card; where there are several, they are taken to be alike."""
    return _output(["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]).split("\n")[0].strip()


def _nvcc() -> str:
    compiler = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    found = re.search(r"release [^,]*, V(\S+)", _output([compiler, "--version"]))
    return found[1] if found else "not found"


def _output(command: list[str]) -> str:
    """What it prints, or why it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
