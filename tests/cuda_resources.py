"""What each kernel of the CUDA module takes of a GPU, read from the binary: no GPU is needed.

``python -m tests.cuda_resources`` prints it; as ``tests/cuda_budget.json`` it is what a later build may not exceed.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

BUDGET = Path(__file__).with_name("cuda_budget.json")


def cuobjdump() -> str | None:
    """The tool of the CUDA toolkit, or of the Triton wheel."""
    nvcc, triton = shutil.which("nvcc"), importlib.util.find_spec("triton")
    folders = [Path("/usr/local/cuda/bin")]
    if nvcc is not None:
        folders.insert(0, Path(nvcc).resolve().parent)
    if triton is not None and triton.origin is not None:
        folders.append(Path(triton.origin).parent / "backends/nvidia/bin")
    return next((found for folder in ("", *folders) if (found := _tool(folder))), None)


def _tool(folder: Path | str) -> str | None:
    return shutil.which("cuobjdump", path=str(folder) or None)


def read(module: str) -> dict[str, dict[str, dict[str, int]]]:
    """``{kernel: {architecture: {"registers": ..., "stack": ...}}}`` of a compiled module; spills are on the stack."""
    tool = cuobjdump()
    assert tool is not None
    dump = subprocess.run([tool, "-res-usage", module], check=True, capture_output=True, text=True).stdout
    found: dict[str, dict[str, dict[str, int]]] = {}
    architecture = ""
    for match in re.finditer(
        r"^arch = (\w+)|Function (\w+):\s+REG:(\d+) STACK:(\d+).* LOCAL:(\d+)", dump, re.MULTILINE
    ):
        if match[1]:
            architecture = match[1]
        else:
            use = {"registers": int(match[3]), "stack": int(match[4]) + int(match[5])}
            found.setdefault(_readable(match[2]), {})[architecture] = use
    return dict(sorted(found.items()))


def _readable(symbol: str) -> str:
    name = subprocess.run(["c++filt", "-p", symbol], check=True, capture_output=True, text=True).stdout.strip()
    return re.sub(r"^void |transmamba::(cuda::)?|\(anonymous namespace\)::", "", name)


def main() -> None:
    """Print what the module that is built takes, as the budget."""
    from transmamba_kernels import _native_cuda

    budget = {"cuda": _native_cuda.runtime_version(), "kernels": read(_native_cuda.__file__)}
    print(json.dumps(budget, indent=1))


if __name__ == "__main__":
    main()
