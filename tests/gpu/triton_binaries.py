"""What the Triton kernels take of a GPU, compiled for it where there is none.

``python -m tests.gpu.triton_binaries 90`` compiles for ``sm_90`` and prints it as JSON, ``gfx942`` for AMD's MI300.
The ops are called as on a GPU, with a driver that only knows its name, and their kernels are compiled in place of run.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from tests.cuda_resources import read
from tests.transmamba_kernels.bidirectional_scan import cases as bidirectional
from tests.transmamba_kernels.causal_conv1d import cases as convolution
from tests.transmamba_kernels.conv_state_update import cases as conv_state
from tests.transmamba_kernels.selective_scan import cases as scan
from tests.transmamba_kernels.sequences import offsets
from tests.transmamba_kernels.state_update import cases as state
from transmamba_kernels import backends

HALF = torch.bfloat16

# Every kernel, in the specialisations that take the most registers: strides, dtypes, sizes and what may be left out.
CASES: dict[str, Callable[[], Any]] = {
    "scan": lambda: scan.run(scan.make_inputs(1, 64, 64, 16, dtype=HALF), "triton"),
    "scan, channel-first": lambda: scan.run(scan.make_inputs(1, 40, 65, 13, layout="channel_first"), "triton"),
    "scan, 64 states": lambda: scan.run(scan.make_inputs(1, 64, 64, 64), "triton"),
    "scan, 256 states": lambda: scan.run(scan.make_inputs(1, 64, 64, 256, dtype=HALF), "triton"),
    "scan, B and C per channel": lambda: scan.run(
        scan.make_inputs(1, 64, 64, 16, B_kind="channel", C_kind="channel"), "triton"
    ),
    "scan, C constant, packed": lambda: scan.run(
        scan.make_packed((30, 34), 64, 16, groups=2, B_kind="groups", C_kind="constant_groups"),
        "triton",
        cu_seqlens=offsets((30, 34)),
    ),
    "both directions": lambda: bidirectional.run(bidirectional.make_inputs(1, 64, 64, 16), "triton"),
    "convolution": lambda: convolution.run(convolution.make_inputs(1, 64, 64, dtype=HALF), "triton"),
    "convolution, packed": lambda: convolution.run(
        convolution.make_packed((30, 34), 64, layout="channel_first"), "triton", cu_seqlens=offsets((30, 34))
    ),
    "state": lambda: state.run(state.make_inputs(2, (64,), dtype=HALF), "triton"),
    "state, heads": lambda: state.run(state.mamba2_inputs(), "triton"),
    "convolution's state": lambda: conv_state.run(conv_state.make_inputs(2, 64, circular=True), "triton"),
}


ALSO_FOR_AMD = ("scan", "convolution", "state", "convolution's state")  # every kernel once: nothing is measured


class _NamedGpu:
    """A driver of a GPU that is not there."""

    def __init__(self, target: GPUTarget):
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_all(name: str) -> dict[str, dict[str, int]]:
    """Compile for ``name``: ``{"case: kernel": {"registers": ..., "stack": ...}}``; what is spilled is on the stack.

    Of AMD's GPUs only that they compile, not what is taken of them.
    """
    of_amd = name.startswith("gfx")
    if of_amd:
        torch.version.hip = "as in a build of torch for AMD"
    driver.set_active(_NamedGpu(GPUTarget("hip", name, 64) if of_amd else GPUTarget("cuda", int(name), 32)))
    backends._triton_device_type = lambda: "cpu"  # that of the tensors
    return {
        f"{case}: {kernel}": {} if of_amd else _use(binaries)
        for case, call in CASES.items()
        if not of_amd or case in ALSO_FOR_AMD
        for kernel, binaries in _compile(call).items()
    }


def _compile(call: Callable[[], Any]) -> dict[str, list[dict[str, Any]]]:
    """The binaries of every kernel that ``call`` would run, in all its specialisations."""
    compile_only = JITFunction.run
    found: dict[str, list[dict[str, Any]]] = {}

    def run(function, *arguments, grid, warmup, **options):
        compiled = compile_only(function, *arguments, grid=grid, warmup=True, **options)
        found.setdefault(function.__name__, []).append(compiled.asm)
        return compiled

    JITFunction.run = run
    try:
        call()
    finally:
        JITFunction.run = compile_only
    return found


def _use(binaries: list[dict[str, Any]]) -> dict[str, int]:
    """The most that any of them takes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        uses = []
        for binary in binaries:
            Path(file.name).write_bytes(binary["cubin"])
            uses += [use for kernel in read(file.name).values() for use in kernel.values()]
    return {what: max(use[what] for use in uses) for what in uses[0]}


if __name__ == "__main__":
    print(json.dumps(compile_all(sys.argv[1]), indent=1))
