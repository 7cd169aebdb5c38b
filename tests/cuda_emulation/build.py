"""The CUDA kernels compiled for the CPU: built where a source is newer, and imported."""

from __future__ import annotations

import ctypes
import fcntl
import os
import subprocess
import sys
from functools import cache
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
SANITIZE = os.environ.get("TRANSMAMBA_SANITIZE", "")  # address,undefined: as for the CPU kernels, see .ci/sanitize
BUILD = ROOT / "build" / ("sanitize/cuda_emulation" if SANITIZE else "cuda_emulation")
SCHEDULES = ("in order", "reverse", "shuffled")


@cache
def load(name: str = "_native_cuda_emulated") -> ModuleType:
    """Build and import a module: the twin of ``_native_cuda`` that takes CPU tensors, or the emulation's own probes.

    Raises:
        ImportError: A tool of the ``test`` extra is missing.
        RuntimeError: The build fails; the message ends with what the compiler said.
    """
    import cmake
    import ninja
    import pybind11

    BUILD.mkdir(parents=True, exist_ok=True)
    command = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one build for all processes of a test run
        _run(
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
        )
        _run(command, "--build", str(BUILD), "--target", name, "--parallel", str(os.cpu_count() or 1))
    (path,) = BUILD.glob(f"{name}*.so")
    loader = ExtensionFileLoader(name, str(path))
    module = module_from_spec(spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def use_schedule(module: ModuleType, name: str, seed: int = 0) -> None:
    """Choose which of a block's threads goes on when one has to wait; ``seed`` is that of ``"shuffled"``."""
    library = ctypes.CDLL(module.__file__)
    library.cuda_emulation_schedule(SCHEDULES.index(name), ctypes.c_uint32(seed))


def _run(*command: str) -> None:
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # compilers leak, and slowly
    result = subprocess.run(command, env=plain, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} fails:\n{result.stdout[-8000:]}")
