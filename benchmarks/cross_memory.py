"""Print by how many MiB one training step of an image's scan with a text raises this process's peak resident memory.

``python -m benchmarks.cross_memory VARIANT`` with ``VARIANT`` one of :data:`VARIANTS`. One process per figure: the peak
of a process never falls.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from benchmarks.memory import peak
from benchmarks.peers.concatenated_scan import cross_mamba as concatenated
from benchmarks.test_cross_mamba import SHAPES, TEXT, call, make_inputs, make_text
from benchmarks.verify import step

VARIANTS: dict[str, Any] = {"fused": call, "joined": concatenated}
SHAPE = SHAPES[1]


def main(variant: str) -> None:
    """Warm up on a tiny input, so that only what grows with the shape is counted, then take the step."""
    torch.set_num_threads(1)
    for shape, words in (((1, 16, 8, 16), 2), (SHAPE, TEXT)):
        fused, text = make_inputs(shape), make_text(shape, words)
        inputs = fused if variant == "fused" else (*fused[:4], fused[3].clone(), *fused[5:], *text)
        upstream = torch.randn(shape[:3])
        before = peak()
        step(VARIANTS[variant], inputs, upstream)
    print((peak() - before) / 2**20)


if __name__ == "__main__":
    main(sys.argv[1])
