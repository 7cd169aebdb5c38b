"""Hands the compiled modules to CMake; everything else is in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE = Path(__file__).parent.resolve()
CPU = Extension("transmamba_kernels._native", sources=[])
CUDA = Extension("transmamba_kernels._native_cuda", sources=[], optional=True)  # only where there is a CUDA compiler


class CMakeBuild(build_ext):
    """One CMake build makes both modules."""

    def build_extension(self, ext):
        if ext is not CPU:
            return
        # The ones that pyproject.toml asks for, not whatever older ones the machine has.
        import cmake as cmake_package
        import ninja
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        cmake = str(Path(cmake_package.CMAKE_BIN_DIR) / "cmake")
        configure = [
            cmake,
            str(SOURCE),
            "-GNinja",
            # Given each time: a cached path would point into the build environment of an earlier install.
            f"-DCMAKE_MAKE_PROGRAM={Path(ninja.BIN_DIR) / 'ninja'}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        jobs = [f"-j{self.parallel}"] if self.parallel else []
        subprocess.run(configure, cwd=build, check=True)
        subprocess.run([cmake, "--build", ".", *jobs], cwd=build, check=True)
        # A CUDA module of an earlier build must not outlive a build without CUDA.
        for folder in (target, SOURCE / "transmamba_kernels"):
            for stale in folder.glob("_native*.so"):
                stale.unlink()
        subprocess.run([cmake, "--install", ".", "--prefix", str(target)], cwd=build, check=True)


setup(ext_modules=[CPU, CUDA], cmdclass={"build_ext": CMakeBuild})
