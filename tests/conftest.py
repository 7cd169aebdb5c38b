import os

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():  # Triton's kernels then run in its interpreter; read when they are defined
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples in every run; `pytest --hypothesis-profile=search` looks for new ones.
settings.register_profile("repeat", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("repeat")


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)


@pytest.fixture
def poison(monkeypatch):
    """Fill what torch leaves uninitialised with not-a-number, so that a kernel that forgets an element is seen."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(deterministic)
