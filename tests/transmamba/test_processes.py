"""Two processes that train together do what one does."""

import json
import os
import subprocess
import sys

import pytest
import torch

from transmamba import processes
from transmamba.commands.parsing import BadInputError, parse_run

SMALL = {
    "epochs": 2,
    "warmup_epochs": 1,
    "batch_size": 32,
    "accumulate": 2,
    "fraction": 0.1,
    "scratch_fraction": 0.1,
    "threads": 1,
    "tensorboard": True,
    "student_options": {"d_model": 16, "depth": 2, "d_state": 4},
    "teacher": {"hidden_size": 16, "layers": 2, "heads": 2, "epochs": 1, "fraction": 0.1},
}


def test_two_processes_give_the_curve_of_one(tmp_path):
    """From the teacher to the report. Batches of 32 and a last one of 17 images, in two parts each."""
    for name in ("accelerate", "sklearn", "transformers", "tyro"):
        pytest.importorskip(name)
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    found = {}
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for count, launcher in ((1, []), (2, together)):
        command = [sys.executable, *launcher, "-m", "transmamba.cli", "adapt", "--config", "small.json"]
        command += ["--out-dir", f"{count}/run"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("student = load_pretrained") == 1
        found[count] = json.loads((tmp_path / f"{count}/run/metrics.json").read_text())["results"]
        assert len(list((tmp_path / f"{count}/run/tensorboard").iterdir())) == 1
    for name in ("adapted", "scratch"):
        one, two = found[1][name]["history"], found[2][name]["history"]
        assert len(one) == len(two) == 2
        for row, other in zip(one, two, strict=True):
            assert row.keys() == other.keys()
            for key in row:
                assert other[key] == pytest.approx(row[key], rel=1e-3, abs=1e-4), (name, key)


def test_shares(monkeypatch):
    """The weighted mean over processes is the mean of the batch, also where some have no sample."""
    monkeypatch.setattr(processes, "_joined", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    for samples in (7, 3, 2):
        batch, total = torch.arange(1.0, 1 + samples), 0.0
        for rank in range(3):
            monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            (mine, again), weight = processes.share((batch, batch))
            assert torch.equal(mine, again)
            total += weight * mine.mean().item() / 3
        assert total == pytest.approx(batch.mean().item())


def test_what_accelerate_asks_for(monkeypatch):
    pytest.importorskip("tyro")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert parse_run([], "adapt").run.precision == "bfloat16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(BadInputError, match="--mixed_precision must be no or bf16, got fp16"):
        parse_run([], "adapt")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP is not supported"):
        processes.engine("cpu")
    processes.engine.cache_clear()
