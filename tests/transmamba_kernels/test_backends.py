import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

import transmamba_kernels
from transmamba_kernels import backends, native
from transmamba_kernels.backends import Backends


def test_public_names():
    assert transmamba_kernels.__all__ == [
        "bidirectional_scan",
        "causal_conv1d",
        "conv_state_update",
        "cross_mamba",
        "multi_scan",
        "scan_orders",
        "selective_scan",
        "state_update",
    ]


def test_a_missing_module_explains_itself_on_first_use(monkeypatch):
    monkeypatch.setattr(native, "module", None)
    monkeypatch.setattr(native, "problem", "is missing: the compiled module does not load (gone)")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # or Triton would take tensors on the CPU
    rows = Backends("some_op", ["u"], lambda names, tensors: None)
    tensors = [torch.zeros(1)]
    with pytest.warns(RuntimeWarning, match=r"some_op runs on its slow reference.*cpp is missing.*gone"):
        assert rows.choose(None, tensors) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rows.choose(None, tensors) == "reference"
    with pytest.raises(NotImplementedError, match="cannot run some_op here: it is missing.*gone"):
        rows.choose("cpp", tensors)
    with pytest.raises(ImportError, match="gone"):
        native.load()
    assert "gone" in backends.availability()["cpp"]


def test_a_missing_cuda_module_explains_itself(monkeypatch):
    monkeypatch.setitem(sys.modules, "transmamba_kernels._native_cuda", None)
    native.find_cuda.cache_clear()
    try:
        assert "nvcc" in backends.availability()["cuda"]
        rows = Backends("some_op", ["u"], lambda names, tensors: None)
        with pytest.raises(NotImplementedError, match="cannot run some_op here: it is not built.*nvcc"):
            rows.choose("cuda", [torch.zeros(1)])
        with pytest.raises(ImportError, match="the CUDA module is not built"):
            native.load_cuda()
    finally:
        native.find_cuda.cache_clear()


def test_a_gpu_without_kernels_is_told_once(monkeypatch):
    monkeypatch.setattr(backends, "_cuda_problem", lambda: "is not built")
    monkeypatch.setattr(backends, "_triton_problem", lambda: "is not installed")
    rows = [row._replace(problem=getattr(backends, f"_{row.name}_problem")) for row in backends.COMPILED]
    monkeypatch.setattr(backends, "CUDA", rows[1])
    monkeypatch.setattr(backends, "TRITON", rows[2])
    op = Backends("some_op", ["u"], lambda names, tensors: None)
    tensors = [SimpleNamespace(is_cpu=False, is_cuda=True, device=torch.device("cuda"), dtype=torch.float32)]
    with pytest.warns(RuntimeWarning, match="some_op runs on its slow.*cuda is not built; triton is not installed"):
        assert op.choose(None, tensors) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert op.choose(None, tensors) == "reference"


def test_what_no_kernel_of_the_op_takes_goes_to_the_reference():
    op = Backends("some_op", ["u"], lambda names, tensors: "takes no such thing")
    tensors = [torch.zeros(1)]
    assert op.choose(None, tensors) == op.choose("reference", tensors) == "reference"
    for name in ("cpp", "cuda", "triton"):
        with pytest.raises(NotImplementedError, match=f"backend '{name}' cannot run some_op here: it takes no such"):
            op.choose(name, tensors)
    with pytest.raises(
        ValueError, match="backend must be one of 'cpp', 'cuda', 'triton', 'reference' or None, got 'tpu'"
    ):
        op.choose("tpu", tensors)


def test_availability_gives_a_reason_for_everything_missing():
    found = backends.availability()
    assert list(found) == ["cpp", "cuda", "triton", "reference"]
    assert found["cpp"] is found["reference"] is None
    if not torch.cuda.is_available():
        assert isinstance(found["cuda"], str)


def test_instruction_sets():
    module = native.load()
    names, before = module.isas(), module.isa()
    assert before == names[-1]
    try:
        for name in names:
            module.use_isa(name)
            assert module.isa() == name
        with pytest.raises(ValueError, match="must be one of"):
            module.use_isa("x87")
    finally:
        module.use_isa(before)
