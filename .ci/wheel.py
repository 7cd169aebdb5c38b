"""Run a scan on the installed wheel: the package and its compiled module come from the environment given."""

import sys
from pathlib import Path

import torch

import transmamba
import transmamba_kernels
from transmamba_kernels import native, selective_scan

environment = Path(sys.argv[1]).resolve()
module = native.load()
for found in (transmamba, transmamba_kernels, module):
    assert environment in Path(found.__file__).resolve().parents, f"{found.__file__} is not in {environment}"

u, delta = torch.randn(2, 2, 50, 40)
A, B, C = -torch.rand(50, 16), torch.randn(2, 16, 40), torch.randn(2, 16, 40)
expected = selective_scan(u, delta, A, B, C, delta_softplus=True, backend="reference")
torch.testing.assert_close(selective_scan(u, delta, A, B, C, delta_softplus=True, backend="cpp"), expected)
print(f"transmamba {transmamba.__version__}: a scan on {module.isa()}, built by {module.compiler}")
