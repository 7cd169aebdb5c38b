import warnings

import pytest
import torch

import transmamba_kernels
from transmamba_kernels import backends, native
from transmamba_kernels.backends import CPP, REFERENCE, Backends


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
    monkeypatch.setattr(native, "problem", "the compiled module does not load (gone)")
    rows = Backends("some_op", ["u"], CPP, REFERENCE)
    tensors = [torch.zeros(1)]
    with pytest.warns(RuntimeWarning, match=r"some_op runs on its slow reference.*gone"):
        assert rows.choose(None, tensors) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rows.choose(None, tensors) == "reference"
    with pytest.raises(NotImplementedError, match="cannot run some_op here.*gone"):
        rows.choose("cpp", tensors)
    with pytest.raises(ImportError, match="gone"):
        native.load()
    assert "gone" in backends.availability()["cpp"]


def test_availability_gives_a_reason_for_everything_missing():
    found = backends.availability()
    assert list(found) == ["cpp", "cuda", "triton", "reference"]
    assert found["cpp"] is None
    assert found["reference"] is None
    assert all(isinstance(found[name], str) for name in ("cuda", "triton"))


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
