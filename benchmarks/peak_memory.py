"""Print by how many MiB one training step of the selective scan raises this process's peak resident memory.

``python -m benchmarks.peak_memory VARIANT SHAPE`` with ``VARIANT`` a backend of ours or ``torch_loop`` and ``SHAPE`` a
JSON list. One process per figure: the peak of a process never falls.
"""

from __future__ import annotations

import functools
import json
import sys

import torch

from benchmarks.memory import peak
from benchmarks.peers import torch_loop
from benchmarks.test_selective_scan import call, make_inputs
from benchmarks.verify import step


def main(variant: str, shape: list[int]) -> None:
    """Warm up on a tiny input, so that only what grows with the shape is counted, then take the step."""
    torch.set_num_threads(1)
    run = torch_loop.selective_scan if variant == "torch_loop" else functools.partial(call, backend=variant)
    tiny = (1, 16, 8, 16)
    step(run, make_inputs(tiny), torch.randn(tiny[:3]))
    inputs, upstream = make_inputs(shape), torch.randn(shape[:3])
    before = peak()
    step(run, inputs, upstream)
    print((peak() - before) / 2**20)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
