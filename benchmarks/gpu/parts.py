"""What the scan's parts cost: the measurements to make before its kernels are tuned.

``python -m benchmarks.gpu.parts FILE`` writes microseconds of the CUDA kernels by shape and part. Nothing is checked,
so that it can also time kernels that are wrong on purpose: ``--multiply FOLDER`` makes a copy of the tree in which an
exponential is a multiplication, to be built and timed in the same way. mamba_ssm's time at the same shapes is in
``test_selective_scan.py``, at 2048 steps and at 2000 too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Callable, Collection
from pathlib import Path

import torch

from benchmarks.gpu.chip import highest_clock
from benchmarks.gpu.stopwatch import Call, Stopwatch, host_seconds
from benchmarks.gpu.test_selective_scan import FEW_CHANNELS, LAYOUTS, LONG, VIM_BASE, VIM_SMALL, call, make_inputs

ROOT = Path(__file__).parents[2]
SHAPES = (LONG, VIM_SMALL, FEW_CHANNELS, VIM_BASE)
TURNS = 15
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
PARTS: dict[str, Collection[str] | None] = {
    "forward": None,
    "backward": NAMES,
    "backward without dB and dC": [name for name in NAMES if name not in "BC"],
}
EXPONENTIAL = "__device__ __forceinline__ float exp2(float x) { return exp2f(x); }"
MULTIPLICATION = "__device__ __forceinline__ float exp2(float x) { return 0.5f * x; }"
TREE = ("CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE")  # what a build takes
TREE += ("benchmarks", "csrc", "transmamba", "transmamba_kernels")


def prepared(shape: tuple[int, ...], wanted: Collection[str] | None, device: str, backend: str) -> Call:
    """A forward pass or, given the names of inputs, the gradients of these alone."""
    inputs = dict(zip(NAMES, make_inputs(shape, LAYOUTS[0], device), strict=True))
    if wanted is None:
        return lambda: call(**inputs, backend=backend)
    leaves = {name: inputs[name].detach().requires_grad_() for name in wanted}
    out = call(**{**inputs, **leaves}, backend=backend)
    upstream = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, list(leaves.values()), upstream, retain_graph=True)


def microseconds(
    shapes: Collection[tuple[int, ...]], stopwatch: Callable[..., float], device: str = "cuda", backend: str = "cuda"
) -> dict[str, float]:
    """Medians by shape and part; the parts of a shape are timed in turns."""
    found = {}
    for shape in shapes:
        calls = {part: [prepared(shape, wanted, device, backend)] for part, wanted in PARTS.items()}
        host = {part: host_seconds(given, stopwatch) for part, given in calls.items()}
        seconds: dict[str, list[float]] = {part: [] for part in calls}
        for _ in range(TURNS):
            for part, given in calls.items():
                seconds[part].append(stopwatch(given, host[part]))
        found |= {f"{shape} {part}": 1e6 * statistics.median(values) for part, values in seconds.items()}
    return found


def copy_with_multiplications(folder: Path) -> None:
    """The tree without what is built, its one function for exponentials replaced.

    Raises:
        ValueError: That function is not where it is looked for.
    """
    header = folder / "csrc" / "core" / "device.cuh"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, folder / name)
    text = header.read_text()
    if text.count(EXPONENTIAL) != 1:
        raise ValueError(f"{header} does not hold {EXPONENTIAL!r} once")
    header.write_text(text.replace(EXPONENTIAL, MULTIPLICATION))


def main() -> None:
    """Measure, or make the copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="for the microseconds, JSON")
    parser.add_argument("--multiply", type=Path, metavar="FOLDER", help="make the copy there, measure nothing")
    options = parser.parse_args()
    if options.multiply is not None:
        copy_with_multiplications(options.multiply)
        return
    found = microseconds(SHAPES, Stopwatch(highest_clock()))
    for name, value in found.items():
        print(f"{value:10.1f} us  {name}")
    if options.file is not None:
        options.file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
