import pytest
import torch

from transmamba_kernels import native


@pytest.fixture(params=native.load().isas())
def isa(request):
    """Run on every instruction set this machine has, and go back to the best."""
    module = native.load()
    before = module.isa()
    module.use_isa(request.param)
    yield request.param
    module.use_isa(before)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
