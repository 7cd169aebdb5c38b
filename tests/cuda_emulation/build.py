"""The CUDA kernels compiled for the CPU: built where a source is newer, and imported."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import subprocess
import sys
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SANITIZE = os.environ.get("TRANSMAMBA_SANITIZE", "")  # address,undefined: as for the CPU kernels, see .ci/sanitize
BUILD = ROOT / "build" / ("sanitize/cuda_emulation" if SANITIZE else "cuda_emulation")
SCHEDULES = ("in order", "reverse", "shuffled")


@cache
def load(name: str = "_native_cuda_emulated") -> ModuleType:
    """Build and import a module: the twin of ``_native_cuda`` that takes CPU tensors, or the emulation's own probes.

    Skips the test that asks where there cannot be one.

    Raises:
        RuntimeError: The build fails; the message ends with what the compiler said.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("CUDA is emulated on x86-64 only")
    missing = [tool for tool in ("cmake", "ninja", "pybind11") if find_spec(tool) is None]
    if missing:
        pytest.skip(f"emulating CUDA takes {', '.join(missing)} of the test extra")
    problem = _build(name)
    if problem is not None:
        raise RuntimeError(problem)
    (path,) = BUILD.glob(f"{name}*.so")
    loader = ExtensionFileLoader(name, str(path))
    module = module_from_spec(spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def use_schedule(module: ModuleType, name: str, seed: int = 0) -> None:
    """Choose which of a block's threads goes on when one has to wait; ``seed`` is that of ``"shuffled"``."""
    library = ctypes.CDLL(module.__file__)
    library.cuda_emulation_schedule(SCHEDULES.index(name), ctypes.c_uint32(seed))


@cache  # what fails once is not tried again for every test
def _build(name: str) -> str | None:
    """Build a module; what the tools said if one of them failed."""
    import cmake
    import ninja
    import pybind11

    command = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
    configure = [
        command,
        f"-S{ROOT}",
        f"-B{BUILD}",
        "-GNinja",
        f"-DCMAKE_MAKE_PROGRAM={Path(ninja.BIN_DIR) / 'ninja'}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DPython_EXECUTABLE={sys.executable}",
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DTRANSMAMBA_CUDA=OFF",
        "-DTRANSMAMBA_EMULATE_CUDA=ON",
        f"-DTRANSMAMBA_SANITIZE={SANITIZE}",
    ]
    build = [command, "--build", str(BUILD), "--target", name, "--parallel", str(os.cpu_count() or 1)]
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # compilers leak, and slowly
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one build for all processes of a test run
        for step in (configure, build):
            result = subprocess.run(step, env=plain, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            if result.returncode:
                return f"{' '.join(step)} fails:\n{result.stdout[-8000:]}"
    return None
