"""Options, the machine's record and the tables at the end of `pytest benchmarks/ --benchmark-only`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.machine import machine_record
from benchmarks.rows import Measurements

_MEASUREMENTS = pytest.StashKey[Measurements]()


def pytest_addoption(parser):
    group = parser.getgroup("transmamba benchmarks")
    group.addoption("--rounds", type=int, default=9, help="Interleaved rounds per figure (default 9).")
    group.addoption("--results", type=Path, help="Write the ratios and the machine's record to this JSON file.")


def pytest_configure(config):
    config.stash[_MEASUREMENTS] = Measurements()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    return 0  # what is timed runs alone


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["transmamba"] = machine_record(config.getoption("rounds"))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash[_MEASUREMENTS].lines():
        terminalreporter.write_line(line)


def pytest_sessionfinish(session):
    path, found = session.config.getoption("results"), session.config.stash[_MEASUREMENTS]
    if path is not None and found.rows:
        found.save(path, machine_record(session.config.getoption("rounds")))


@pytest.fixture
def measurements(request) -> Measurements:
    return request.config.stash[_MEASUREMENTS]


@pytest.fixture
def rounds(request) -> int:
    return request.config.getoption("rounds")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
