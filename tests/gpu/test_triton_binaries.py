"""Every Triton kernel compiles for every GPU and spills no registers; no GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_resources import cuobjdump

ROOT = Path(__file__).parents[2]
GPUS = ("80", "90", "120", "gfx942")


@pytest.fixture(scope="module")
def binaries(tmp_path_factory):
    """What the kernels take of each GPU: compiled in processes of their own, as this one's Triton may interpret."""
    pytest.importorskip("triton")
    if cuobjdump() is None:
        pytest.skip("no cuobjdump: it comes with the CUDA toolkit and with triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    running = {}
    for name in GPUS:
        environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp(name))
        command = (sys.executable, "-m", "tests.gpu.triton_binaries", name)
        running[name] = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    return {name: (*process.communicate(), process.returncode) for name, process in running.items()}


@pytest.mark.parametrize("name", GPUS)
def test_nothing_is_spilled(binaries, name):
    out, err, code = binaries[name]
    assert code == 0, err
    kernels = json.loads(out)
    assert kernels
    assert {kernel: use for kernel, use in kernels.items() if use.get("stack")} == {}
