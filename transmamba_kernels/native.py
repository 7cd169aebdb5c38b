"""The compiled modules, or the reasons why there are none: one for the CPU, one for CUDA."""

from __future__ import annotations

import importlib
from functools import lru_cache
from types import ModuleType

import torch

module: ModuleType | None = None
problem: str | None = None

try:
    module = importlib.import_module("transmamba_kernels._native")
except ImportError as error:
    problem = (
        f"is missing: the compiled module does not load ({error}); build it with `pip install -e .` in a clone of "
        "the repository, or reinstall the package"
    )


def load() -> ModuleType:
    """Return the compiled module of the CPU kernels.

    Raises:
        ImportError: It is missing; the message says why and what to do.
    """
    if module is None:
        raise ImportError(problem)
    return module


@lru_cache(maxsize=1)
def find_cuda() -> tuple[ModuleType | None, str | None]:
    """The compiled module of the CUDA kernels, and why it is missing or has no device to run on; looked for once."""
    try:
        found = importlib.import_module("transmamba_kernels._native_cuda")
    except ImportError:
        return None, "is not built: no CUDA compiler was found at install time (put nvcc on the PATH, install again)"
    _, trouble = found.devices()
    return found, f"is built, but finds no device it can use ({trouble})" if trouble else None


def load_cuda() -> ModuleType:
    """Return the compiled module of the CUDA kernels.

    Raises:
        ImportError: It is missing; the message says why and what to do.
    """
    found, trouble = find_cuda()
    if found is None:
        raise ImportError(f"the CUDA module {trouble}")
    return found


def cuda_stream(device: torch.device) -> tuple[int, int]:
    """A device and its current stream, as numbers that the CUDA module takes; zeros in emulation."""
    if device.type != "cuda":
        return 0, 0
    stream = torch.cuda.current_stream(device)
    return stream.device_index, stream.cuda_stream


@lru_cache(maxsize=16)
def multiprocessors(device: torch.device) -> int:
    """Of a GPU; in emulation those of an H200."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
