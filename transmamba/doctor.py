"""What this installation consists of and what it can run: the first thing to send with a question."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from collections.abc import Sequence

from transmamba import __version__

_PACKAGES = ("torch", "numpy", "einops", "transformers", "safetensors", "scikit-learn", "matplotlib", "rich", "tyro")


def run(arguments: Sequence[str] = ()) -> int:
    """Print the findings and return 0."""
    parser = argparse.ArgumentParser(
        prog="transmamba doctor", description="Versions and backends of this installation."
    )
    parser.parse_args(list(arguments))
    for name, text in findings():
        print(f"{name:<14}{text}")
    return 0


def findings() -> list[tuple[str, str]]:
    """Pairs of a name and what was found, in the order to be read."""
    import torch

    from transmamba_kernels import native
    from transmamba_kernels.backends import availability

    rows = [("transmamba", __version__), ("python", f"{platform.python_version()} on {platform.platform()}")]
    rows += [(name, _version(name)) for name in _PACKAGES]
    rows += [("threads", f"{torch.get_num_threads()} for torch and the kernels")]
    if (module := native.module) is not None:
        openmp = "with OpenMP" if module.has_openmp() else "without OpenMP: one thread"
        rows += [
            ("instructions", f"{module.isa()} in use; this machine runs {', '.join(module.isas())}"),
            ("kernels", f"built by GCC or Clang {module.compiler}, {openmp}"),
        ]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows += [("gpu", ", ".join(names) or "none"), ("backends", "")]
    return rows + [(f"- {name}", problem or "available") for name, problem in availability().items()]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return 'not installed: pip install "transmamba[adapt]"'
