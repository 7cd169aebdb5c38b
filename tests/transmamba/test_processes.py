"""Two processes that train together do what one does."""

import contextlib
import json
import multiprocessing
import os
import socket
import sys

import pytest
import torch

from transmamba import processes
from transmamba.checkpoint import load_checkpoint
from transmamba.commands.parsing import BadInputError, Options, parse_run

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


def adapt(folder, count, **environment):
    """Run the command in ``count`` new processes in ``folder``; return the results.

    They are forked from one that has imported what they need, which is most of what they would take.
    """
    for name in ("accelerate", "sklearn", "transformers", "tyro"):
        pytest.importorskip(name)
    (folder / "small.json").write_text(json.dumps(SMALL))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transmamba.commands.adapt", "accelerate", "matplotlib.figure", "sklearn.datasets"])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), **environment}
    started = [
        context.Process(target=run_adapt, args=(folder, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
        for rank in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0] * count
    assert [(folder / f"said-{rank}").stat().st_size > 0 for rank in range(count)] == [True, False][:count]
    return json.loads((folder / "a/run/metrics.json").read_text())["results"]


def run_adapt(folder, environment):
    """What each process does."""
    from transmamba.cli import main

    os.environ.update(environment)
    os.chdir(folder)
    with open(f"said-{environment['RANK']}", "w") as said, contextlib.redirect_stdout(said):
        code = main(["adapt", "--config", "small.json", "--out-dir", "a/run"])
    sys.exit(code)


def assert_same_curves(results, expected):
    for name in ("adapted", "scratch"):
        assert len(results[name]["history"]) == 2
        for row, other in zip(results[name]["history"], expected[name]["history"], strict=True):
            assert row.keys() == other.keys()
            for key in row:
                assert row[key] == pytest.approx(other[key], rel=1e-3, abs=1e-4), (name, key)


def test_two_processes_give_the_curve_of_one(tmp_path):
    """From the teacher to the report, with batches of 32 and a last one of 17 images, in two parts each.

    Then with shared-out parameters (FSDP), which go on from where one process stopped.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    alone = adapt(one, 1)
    assert_same_curves(adapt(two, 2), alone)
    assert len(list((two / "a/run/tensorboard").iterdir())) == 1

    stages = one / "a/run/stages"
    before = load_checkpoint(stages / "warmup.pt")
    later = [path for name in ("distill", "scratch") for path in stages.glob(f"{name}.*")]
    for path in (stages.parent / "metrics.json", stages / "warmup.json", *later):
        path.unlink()
    assert_same_curves(adapt(one, 2, ACCELERATE_USE_FSDP="true"), alone)
    torch.testing.assert_close(load_checkpoint(stages / "warmup.pt")["optimizer"], before["optimizer"], rtol=0, atol=0)


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
    assert parse_run([], "adapt", Options).run.precision == "bfloat16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(BadInputError, match="--mixed_precision must be no or bf16, got fp16"):
        parse_run([], "adapt", Options)
