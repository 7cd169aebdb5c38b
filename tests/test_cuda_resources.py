"""Every kernel of the CUDA module keeps to its registers and spills none: read from the binary, without a GPU."""

import importlib
import json

import pytest

from tests.cuda_resources import BUDGET, cuobjdump, read


@pytest.fixture(scope="module")
def module():
    pytest.importorskip("transmamba_kernels._native_cuda", reason="built without CUDA", exc_type=ImportError)
    if cuobjdump() is None:
        pytest.skip("no cuobjdump: it comes with the CUDA toolkit and with triton")
    return importlib.import_module("transmamba_kernels._native_cuda")


def test_nothing_is_spilled(module):
    kernels = read(module.__file__)
    assert kernels
    spilled = {(name, on): use for name, all_ in kernels.items() for on, use in all_.items() if use["stack"]}
    assert spilled == {}


def test_registers_are_within_the_budget(module):
    budget = json.loads(BUDGET.read_text())
    if module.runtime_version() != budget["cuda"]:
        pytest.skip(f"the budget is that of CUDA {budget['cuda']}, this is {module.runtime_version()}")
    refresh = "python -m tests.cuda_resources > tests/cuda_budget.json"
    kernels = read(module.__file__)
    assert kernels.keys() == budget["kernels"].keys(), f"write the budget again: {refresh}"
    over = [
        f"{name} takes {use['registers']} registers on {on}, {allowed[on]['registers']} are allowed"
        for name, allowed in budget["kernels"].items()
        for on, use in kernels[name].items()
        if on in allowed and use["registers"] > allowed[on]["registers"]
    ]
    assert not over, f"if it is worth it, {refresh}"
