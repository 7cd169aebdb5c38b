import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # the processors are taken by the other processes; read when torch begins
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

if not torch.cuda.is_available():  # Triton's kernels then run in its interpreter; read when they are defined
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples in every run; `pytest --hypothesis-profile=search` looks for new ones.
settings.register_profile("repeat", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("repeat")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """A process for each processor; for single files none, as each has to import everything first."""
    from benchmarks.machine import usable_cpus

    return min(usable_cpus(), 8) if any(Path(argument).is_dir() for argument in config.args) else 0


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
