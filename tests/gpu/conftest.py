"""Where the kernels for GPUs are tested: on a GPU, and without one on the CPU, emulated or interpreted."""

import importlib
import os
import zlib
from typing import NamedTuple

import pytest
import torch

from tests.cuda_emulation import build
from transmamba_kernels import backends, native

# Read when torch begins with cuBLAS, and without it matrix products are refused where memory is poisoned.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


class Target(NamedTuple):
    """A backend and the device whose tensors it takes."""

    backend: str
    device: str


TARGETS = {
    "cuda": Target("cuda", "cuda"),
    "triton": Target("triton", "cuda"),
    "cuda emulated": Target("cuda", "cpu"),
    "triton interpreted": Target("triton", "cpu"),
}


@pytest.fixture(params=TARGETS)
def target(request, monkeypatch):
    """Every backend on a GPU, or what stands in for it; skipped, with the reason, where it cannot run."""
    if request.param == "cuda emulated":
        emulated = build.load()
        monkeypatch.setattr(native, "find_cuda", lambda: (emulated, None))
        number = zlib.crc32(request.node.name.encode())  # each test in a schedule of its own, the same every time
        build.use_schedule(emulated, build.SCHEDULES[number % 3], seed=number)
    found = _able(TARGETS[request.param])
    if request.param == "triton interpreted":
        importlib.import_module("tests.gpu.interpreter").skip_repeated_patches(monkeypatch)
    return found


@pytest.fixture(params=["cuda", "triton"])
def gpu(request):
    """Every backend on a GPU; skipped, with the reason, without one."""
    return _able(TARGETS[request.param])


def _able(found):
    if found.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU")
    problem = backends.availability()[found.backend]
    if problem is not None:
        pytest.skip(f"{found.backend} {problem}")
    if found.backend == "triton" and backends._triton_device_type() != found.device:
        pytest.skip("runs where there is no GPU" if found.device == "cpu" else "TRITON_INTERPRET=1 is set")
    return found
