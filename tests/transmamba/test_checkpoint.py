"""Checkpoints: what goes in comes out, everything else is refused by name, stages take only the right parent."""

import errno
import json
import os
import pickle

import pytest
import torch

from transmamba.checkpoint import (
    CheckpointError,
    Manifest,
    file_hash,
    load_checkpoint,
    read_manifest,
    require_stage,
    save_checkpoint,
)

STATE = {"model": {"a": torch.arange(3.0)}, "step": 4, "history": [{"accuracy": 0.5}], "ema": None}


class Foreign:
    def __reduce__(self):
        return (os.system, ("true",))


def test_round_trip(tmp_path):
    digest = save_checkpoint(tmp_path / "x.pt", STATE)
    loaded = load_checkpoint(tmp_path / "x.pt")
    assert torch.equal(loaded["model"]["a"], STATE["model"]["a"])
    assert loaded["history"] == [{"accuracy": 0.5}]
    assert digest == file_hash(tmp_path / "x.pt") == save_checkpoint(tmp_path / "y.pt", STATE)


def write(path, kind):
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        at = content.index(torch.arange(3.0).numpy().tobytes())
        path.write_bytes(content[:at] + b"\xff" * 12 + content[at + 12 :])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("these are not weights\n" * 50)
    elif kind == "foreign":
        torch.save({"state_dict": {"a": torch.ones(2)}}, path)
    elif kind == "code":
        torch.save({"format": Foreign()}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Foreign()))
    elif kind == "version":
        torch.save({"format": "transmamba-checkpoint", "version": 99, "state": {}}, path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "damaged"),
        ("flipped", "damaged"),
        ("empty", "damaged"),
        ("text", "damaged or of another format"),
        ("foreign", "is not a checkpoint of TransMamba"),
        ("code", "holds other things than data"),
        ("pickle", "damaged or of another format"),
        ("version", "version 99, this package reads version 1"),
    ],
)
def test_damaged_and_foreign_files(tmp_path, kind, message):
    write(tmp_path / "x.pt", kind)
    with pytest.raises(CheckpointError, match=rf"x\.pt.*{message}"):
        load_checkpoint(tmp_path / "x.pt")


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.pt is missing"):
        load_checkpoint(tmp_path / "x.pt")


def test_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "x.pt", STATE)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        save_checkpoint(tmp_path / "x.pt", {**STATE, "step": 5})
    assert load_checkpoint(tmp_path / "x.pt")["step"] == 4
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


@pytest.fixture
def stage(tmp_path):
    """A finished stage ``init``, made from teacher ``t`` with two options."""
    checkpoint = save_checkpoint(tmp_path / "init.pt", STATE)
    manifest = Manifest("init", checkpoint, {"seed": 0, "distill.alpha": 0.2}, "teacher", "t", "t", {"torch": "2"})
    manifest.write(tmp_path)
    return tmp_path


def require(folder, **changed):
    expected = {"config": {"seed": 0, "distill.alpha": 0.2}, "teacher": "t", "parent": "teacher"}
    return require_stage(folder, "init", needed_by="distill", **{**expected, **changed})


def test_the_right_parent_is_taken(stage):
    manifest, state = require(stage)
    assert manifest == read_manifest(stage, "init")
    assert manifest.versions == {"torch": "2"}
    assert state["step"] == 4


def test_a_missing_parent_is_named(stage):
    (stage / "init.json").unlink()
    assert read_manifest(stage, "init") is None
    with pytest.raises(CheckpointError, match=r"'distill' must start from stage 'init', but .*init\.json is missing"):
        require(stage)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"teacher": "other"}, "expected teacher other, found t"),
        ({"teacher": None}, "expected teacher none, found t"),
        ({"parent": "warmup"}, "expected parent warmup, found teacher"),
        ({"config": {"seed": 1}}, "expected seed = 1, found 0"),
        ({"config": {"early": 3}}, "expected early = 3, found None"),
    ],
)
def test_a_wrong_parent_is_refused(stage, changed, message):
    with pytest.raises(CheckpointError, match=message):
        require(stage, **changed)


def test_a_replaced_checkpoint_is_refused(stage):
    expected = file_hash(stage / "init.pt")[:12]
    found = save_checkpoint(stage / "init.pt", {**STATE, "step": 9})[:12]
    with pytest.raises(CheckpointError, match=f"expected checkpoint {expected}, found {found}"):
        require(stage)
    (stage / "init.pt").unlink()
    with pytest.raises(CheckpointError, match="found none"):
        require(stage)


def test_the_manifest_of_another_stage_is_refused(stage):
    content = json.loads((stage / "init.json").read_text())
    (stage / "init.json").write_text(json.dumps({**content, "stage": "warmup"}))
    with pytest.raises(CheckpointError, match="expected stage init, found warmup"):
        require(stage)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}', '{"format": "transmamba-checkpoint", "x": 1}'])
def test_a_foreign_manifest_is_refused(stage, text):
    (stage / "init.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"init\.json is not the manifest of a stage"):
        require(stage)
